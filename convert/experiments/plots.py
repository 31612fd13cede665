"""Pictures: the same colour and marker for a mode everywhere, from Okabe and Ito's colour-blind safe palette."""

import zlib
from pathlib import Path

from tppjax.errors import extra

with extra("plots"):
    import matplotlib
    from matplotlib.figure import Figure


STYLES = {
    "baseline": ("#0072B2", "o"),
    "shuffle": ("#009E73", "s"),
    "tpp": ("#D55E00", "D"),
    "rounded": ("#CC79A7", "^"),
    "unbiased": ("#E69F00", "v"),
}


def style(mode: str) -> tuple[str, str]:
    """Colour and marker of a mode: those of the paper's and ours, or for others always the same of twenty."""
    return STYLES[mode] if mode in STYLES else one_of_many(zlib.crc32(mode.encode()) % 20, 20)


def one_of_many(i: int, n: int) -> tuple:
    """Colour and marker of the `i`-th of `n` lines, where there are more than `style` can tell apart."""
    return matplotlib.colormaps["turbo"](i / max(n - 1, 1)), "osD^vPX<>*"[i % 10]


def figure(width: float = 6.4, height: float = 4.2) -> Figure:
    """An empty one, in inches, with room made for all labels."""
    return Figure(figsize=(width, height), layout="constrained")


def shades(n: int) -> list:
    """`n` colours from dark to light, for one thing in several sizes."""
    return [matplotlib.colormaps["viridis"](i / max(n, 2) * 0.95) for i in range(n)]


def reference(axes, ann_accuracy: float) -> None:
    """The ANN's accuracy, dashed."""
    axes.axhline(ann_accuracy, color="black", linestyle="--", linewidth=1, label=f"ANN {ann_accuracy:.2f} %")


def plain(axis) -> None:
    """Numbers at the ticks of an axis as they are, not as powers."""
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:.2g}" if abs(x) < 1 else f"{x:g}"))


def steps_axis(axes, steps: list[int], label: str = "time steps T") -> None:
    """Time steps across, doubling, with a grid."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(T) for T in steps])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def sites_axis(axes, sites: list[str]) -> None:
    """Sites across, by name, in the order in which they run."""
    axes.set_xticks(range(len(sites)), sites, rotation=90, fontsize=7)
    axes.set_xlabel("layer")
    axes.grid(alpha=0.3)


def accuracy(rows: list[dict], ann_accuracy: float, title: str, path: Path) -> None:
    """Figure 1 of the paper: accuracy against T, a line for each mode, a band of one std over seeds, the ANN dashed.

    Args:
      rows: as in results.json: "mode", "T", "mean" and "std" in percent.
      ann_accuracy: of the network before conversion, in percent.
      title: above the picture.
      path: of the PNG.
    """
    made = figure()
    axes = made.subplots()
    reference(axes, ann_accuracy)
    for mode in dict.fromkeys(row["mode"] for row in rows):
        T, mean, std = zip(*((r["T"], r["mean"], r["std"]) for r in rows if r["mode"] == mode), strict=True)
        color, marker = style(mode)
        axes.plot(T, mean, color=color, marker=marker, markersize=5, label=mode)
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axes.fill_between(T, low, high, color=color, alpha=0.2, linewidth=0)
    steps_axis(axes, sorted({row["T"] for row in rows}))
    axes.set(ylabel="test accuracy (%)", title=title)
    axes.legend(loc="lower right")
    made.savefig(path, dpi=150)

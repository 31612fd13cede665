"""Plots. A mode has the same colour and marker in all of them, from Okabe and Ito's palette for the colour-blind."""

import zlib
from pathlib import Path

from tppjax.errors import extra

with extra("plots"):
    import matplotlib
    import matplotlib.ticker
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Colour = str | tuple[float, ...]

STYLES = {
    "baseline": ("#0072B2", "o"),
    "shuffle": ("#009E73", "s"),
    "tpp": ("#D55E00", "D"),
    "rounded": ("#CC79A7", "^"),
    "unbiased": ("#E69F00", "v"),
}


def style(mode: str) -> tuple[Colour, str]:
    """Colour and marker of a mode: from `STYLES`, or one of twenty that its name determines."""
    return STYLES[mode] if mode in STYLES else one_of_many(zlib.crc32(mode.encode()) % 20, 20)


def one_of_many(i: int, n: int) -> tuple[Colour, str]:
    """Colour and marker of the `i`-th of `n` lines, for more lines than `style` can tell apart."""
    return matplotlib.colormaps["turbo"](i / max(n - 1, 1)), "osD^vPX<>*"[i % 10]


def figure(width: float = 6.4, height: float = 4.2) -> Figure:
    """An empty figure, in inches, whose layout makes room for all labels."""
    return Figure(figsize=(width, height), layout="constrained")


def shades(n: int) -> list[Colour]:
    """`n` colours from dark to light, for one quantity in several sizes."""
    return [matplotlib.colormaps["viridis"](i / max(n, 2) * 0.95) for i in range(n)]


def reference(axes: Axes, ann_accuracy: float) -> None:
    """Draws the ANN's accuracy, in percent, as a dashed line."""
    axes.axhline(ann_accuracy, color="black", linestyle="--", linewidth=1, label=f"ANN {ann_accuracy:.2f} %")


def plain(axis: Axis) -> None:
    """Writes the numbers at the ticks of an axis in full, not as powers."""
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda x, _: f"{x:.2g}" if abs(x) < 1 else f"{x:g}"))


def steps_axis(axes: Axes, steps: list[int], label: str = "time steps T") -> None:
    """Makes the horizontal axis one of time steps, on a logarithmic scale, with a grid."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(T) for T in steps])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)


def sites_axis(axes: Axes, sites: list[str]) -> None:
    """Makes the horizontal axis one of sites, by name, in the order in which they run."""
    axes.set_xticks(range(len(sites)), sites, rotation=90, fontsize=7)
    axes.set_xlabel("layer")
    axes.grid(alpha=0.3)


def accuracy(rows: list[dict], ann_accuracy: float, title: str, path: Path) -> None:
    """Figure 1 of the paper: accuracy against T, a line for each mode, a band of one std over seeds, the ANN dashed.

    Args:
      rows: rows of results.json, with "mode", "T", "mean" and "std" in percent.
      ann_accuracy: accuracy of the network before conversion, in percent.
      title: title of the plot.
      path: the PNG file to write.
    """
    plot = figure()
    axes = plot.subplots()
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
    plot.savefig(path, dpi=150)

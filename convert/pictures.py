"""Pictures: the same colour and marker for a mode everywhere, from Okabe and Ito's colour-blind safe palette."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

STYLES = {
    "baseline": ("#0072B2", "o"),
    "shuffle": ("#009E73", "s"),
    "tpp": ("#D55E00", "D"),
    "rounded": ("#CC79A7", "^"),
    "unbiased": ("#E69F00", "v"),
}


def accuracy(rows: list[dict], ann_accuracy: float, title: str, path: Path) -> None:
    """Figure 1 of the paper: accuracy against T, a line for each mode, a band of one std over seeds, the ANN dashed.

    Args:
      rows: as in results.json: "mode", "T", "mean" and "std" in percent.
      ann_accuracy: of the network before conversion, in percent.
      title: above the picture.
      path: of the PNG.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(ann_accuracy, color="black", linestyle="--", linewidth=1, label=f"ANN {ann_accuracy:.2f} %")
    for mode in dict.fromkeys(row["mode"] for row in rows):
        T, mean, std = zip(*((r["T"], r["mean"], r["std"]) for r in rows if r["mode"] == mode), strict=True)
        color, marker = STYLES[mode]
        axes.plot(T, mean, color=color, marker=marker, markersize=5, label=mode)
        low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
        axes.fill_between(T, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set_xscale("log", base=2)
    steps = sorted({row["T"] for row in rows})
    axes.set_xticks(steps, [str(T) for T in steps])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set(xlabel="time steps T", ylabel="test accuracy (%)", title=title)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)

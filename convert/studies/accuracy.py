"""Figure 1, tables 1 and 3 to 7: accuracy against T."""

from dataclasses import dataclass, replace
from pathlib import Path

from convert import evaluate
from convert.evaluate import Evaluate
from convert.experiments import paper
from convert.studies import study
from convert.studies.study import Section

NAME = "accuracy"
TITLE = "Accuracy against T (figure 1, tables 1 and 3 to 7)"


@dataclass(frozen=True)
class Accuracy(Evaluate):
    """Measure accuracy against T, mode by mode, as `convert.evaluate` does and with its options."""

    out: Path | None = None
    """Folder of the studies, in which this one writes to accuracy/ [default: ANN/studies]."""


def main(config: Accuracy) -> Section:
    """Runs the study."""
    out = study.folder(config, NAME)
    results, published = evaluate.measure(replace(config, out=out), study.PROGRAM)
    rows = {(r["mode"], r["T"]): r for r in results["rows"]}
    steps = sorted({T for _, T in rows})
    lines = []
    for mode in dict.fromkeys(mode for mode, _ in rows):
        ours = (rows.get((mode, T)) for T in steps)
        lines.append([f"`{mode}`", *(r and study.spread(r["accuracy"]) for r in ours)])
        for row in published.get(mode, ()):
            lines.append([f"the paper's, {paper.source(row)}", *(row["accuracy"].get(T) for T in steps)])
    seeds = max(len(r["accuracy"]) for r in rows.values())
    text = (
        f"{results['model']['name']} on {results['dataset']}, {results['n']} test images, ANN {results['ann']:.2f} %; "
        f"percent, mean (std) over {seeds} seeds of random modes.\n\n"
    ) + study.table(["", *(f"T = {T}" for T in steps)], lines)
    if not any(published.values()):
        text += "\n\nNone of the paper's tables has this network, trained for this activation, on this data set."
    return study.write(out, Section(NAME, TITLE, text))

"""The parts that all studies share: measuring and saving one case after another, writing files, Markdown."""

import csv
import itertools
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool
from tqdm import tqdm

from convert.experiments import setup as experiment
from convert.experiments.options import Experiment
from convert.experiments.plots import Figure
from convert.experiments.results import Results, all_or_none
from convert.experiments.setup import Setup, source
from convert.snn import Snn
from tppjax.types import Array

PROGRAM = "convert.studies"


class Section(NamedTuple):
    """The section of a study in the report.

    Attributes:
      name: name of the study, and of the folder of its files.
      title: heading of the section, one line.
      text: the results, in Markdown.
    """

    name: str
    title: str
    text: str

    def __str__(self) -> str:
        return f"## {self.title}\n\n{self.text}\n\n![{self.title}]({self.name}/{self.name}.png)\n"


class Study(NamedTuple):
    """A study of a network: the functions that turn the measured rows into its files.

    Attributes:
      name: name of the study, its folder and its files.
      title: heading of its section, one line.
      records: from `(rows, setup, config)` to the lines of NAME.csv.
      text: from `(rows, setup, config)` to Markdown.
      plot: from `(rows, setup, config)` to a figure.
    """

    name: str
    title: str
    records: Callable[[list[dict], Setup, Any], list[dict]]
    text: Callable[[list[dict], Setup, Any], str]
    plot: Callable[[list[dict], Setup, Any], Figure]

    def run(
        self, config: Experiment, setup: Setup, cases: Iterable[dict], run: Callable[..., dict], **settings: Any
    ) -> Section:
        """Measures a row for each case, or takes that of an earlier run, and writes the files.

        Args:
          config: the options.
          setup: the network and the images.
          cases: the entries that identify each row, of types that JSON has (lists, not tuples).
          run: takes the entries of a case and returns the measured ones, which are saved at once.
          **settings: further settings on which all rows depend.
        """
        out, rows = folder(config, self.name), []
        results = Results.open(out, {**setup.settings, **settings}, PROGRAM, config.overwrite)
        results.ann = setup.accuracy
        for case in tqdm(list(cases), desc=self.name, disable=None, leave=False):
            mode = case.get("mode") or case.get("method")
            version = source(re.sub(r"\+\w+$", "", mode)) if mode else {}  # without the correction of a method
            rows.append(results.find(**case, **version) or results.add(case, run(**case) | version))
        section = Section(self.name, self.title, self.text(rows, setup, config))
        return write(out, section, self.records(rows, setup, config), self.plot(rows, setup, config))


def folder(config: Experiment, name: str) -> Path:
    """The folder of the study called `name`: in --out, by default in `studies` beside the network."""
    return (config.out or config.ann / "studies") / name


def product(**entries: Iterable) -> list[dict]:
    """Every combination, as cases: `product(mode=("a", "b"), T=(4, 8))`."""
    return [dict(zip(entries, values, strict=True)) for values in itertools.product(*entries.values())]


def write(out: Path, section: Section, records: list[dict] | None = None, figure: Figure | None = None) -> Section:
    """Writes NAME.md, and NAME.csv and NAME.png if there are any, to `out`, all or none; prints the text."""
    with all_or_none(out) as new:
        (new / f"{section.name}.md").write_text(f"{section.title}\n\n{section.text}\n")
        if figure is not None:
            figure.savefig(new / f"{section.name}.png", dpi=110)
        if records is not None:
            with (new / f"{section.name}.csv").open("w", newline="") as f:
                writer = csv.DictWriter(f, list(records[0]))
                writer.writeheader()
                writer.writerows(records)
    print(f"\n{section.title}\n\n{section.text}\n\nwrote to {out}", flush=True)
    return section


def table(header: Iterable, rows: Iterable[Iterable]) -> str:
    """A Markdown table; None is an empty cell."""
    lines = [list(header), *rows]
    lines = [[("" if cell is None else str(cell)) for cell in line] for line in lines]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: list[float]) -> str:
    """The mean, and if there are several values their std with n - 1."""
    several = f" ({statistics.stdev(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{several}"


def about(setup: Setup, seeds: int | None = None) -> str:
    """The sentence that introduces the results of a study."""
    over = f"; mean (std) over {seeds} seed{'s' * (seeds > 1)} of random modes" if seeds else ""
    return f"{setup}, ANN {setup.accuracy:.2f} %{over}."


def over_seeds(fn: Callable[..., Any], snn: Snn, config: Experiment, setup: Setup, traced: bool = False) -> Any:
    """`setup.over_seeds` with the seeds and batches of the options; folded networks are compiled once for every T."""
    size = config.batch_size or snn.batch_size(config.seeds, traced)
    return experiment.over_seeds(fn, snn if traced else snn.for_any_T(), setup.images, config.seeds, size)


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's rank correlation, -1 to 1, with equal values sharing a rank; nan if all values of one are equal."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    ranks = [[(v < w).sum() + ((v == w).sum() - 1) / 2 for w in v] for v in map(np.asarray, (a, b))]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def percent(correct: Bool[Array, "images seeds"]) -> list[float]:
    """The accuracy of each seed in percent, from whether answers are correct, `[N, seeds]`."""
    return (100 * np.mean(correct, axis=0)).tolist()

"""What the studies share: cases measured one by one and kept, files written all or none, Markdown for the report."""

import csv
import itertools
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from convert.experiments import setup as experiment
from convert.experiments.options import Experiment
from convert.experiments.plots import Figure
from convert.experiments.results import Results, all_or_none
from convert.experiments.setup import Setup, source
from convert.snn import Snn

PROGRAM = "convert.studies"


class Section(NamedTuple):
    """What a study has to say, for the report.

    Attributes:
      name: of the study, whose folder holds its files.
      title: a line.
      text: Markdown, what was found.
      plots: files in the study's folder.
    """

    name: str
    title: str
    text: str
    plots: tuple[str, ...]

    def __str__(self):
        plots = "".join(f"\n![{self.title}]({self.name}/{file})\n" for file in self.plots)
        return f"## {self.title}\n\n{self.text}\n{plots}"


class Study(NamedTuple):
    """A study of a network: how its files are made of what was measured.

    Attributes:
      name: of the study, its folder and its files.
      title: a line.
      records: `(rows, setup, config)` to the lines of NAME.csv.
      text: `(rows, setup, config)` to Markdown.
      plot: `(rows, setup, config)` to a figure.
      entries: of a row, as `measure` takes them.
    """

    name: str
    title: str
    records: Callable[[list[dict], Setup, Any], list[dict]]
    text: Callable[[list[dict], Setup, Any], str]
    plot: Callable[[list[dict], Setup, Any], Figure]
    entries: dict[str, type] | None = None

    def run(
        self, config: Experiment, setup: Setup, cases: Iterable[dict], measured: Callable[..., dict], **settings
    ) -> Section:
        """Measures a row for each case and writes the files; arguments as `measure`."""
        rows = measure(config, self.name, setup, cases, measured, self.entries, **settings)
        section = Section(self.name, self.title, self.text(rows, setup, config), (f"{self.name}.png",))
        records, figure = self.records(rows, setup, config), self.plot(rows, setup, config)
        return write(folder(config, self.name), section, records, figure)


def folder(config, name: str) -> Path:
    """Where the study called `name` writes: in --out, by default in `studies` beside the network."""
    return (config.out or config.ann / "studies") / name


def measure(
    config: Experiment,
    name: str,
    setup: Setup,
    cases: Iterable[dict],
    run: Callable[..., dict],
    entries: dict[str, type] | None = None,
    **settings,
) -> list[dict]:
    """A row for each case: what `run(**case)` gives, unless an earlier run left it; each is kept as soon as it stands.

    Args:
      config: the options.
      name: of the study.
      setup: what is experimented on.
      cases: what tells one row from the other, as JSON has it (lists, not tuples).
      run: takes a case, returns what was measured.
      entries: what that holds, with its type; by default an accuracy for each seed.
      **settings: further things that all rows depend on.
    """
    cases = list(cases)
    entries = entries or {"accuracy": list}
    results = Results.open(folder(config, name), {**setup.settings, **settings}, PROGRAM, config.overwrite, entries)
    results.ann = setup.accuracy
    rows = []
    for case in tqdm(cases, desc=name, disable=None, leave=False):
        modes = [case[name].rpartition("+")[0] or case[name] for name in ("mode", "method") if name in case]
        version = source(modes[0]) if modes else {}
        rows.append(results.find(**case, **version) or results.add(case, run(**case) | version))
    return rows


def product(**entries) -> list[dict]:
    """Every combination, as cases: `product(mode=("a", "b"), T=(4, 8))`."""
    return [dict(zip(entries, values, strict=True)) for values in itertools.product(*entries.values())]


def write(out: Path, section: Section, records: list[dict] | None = None, figure: Figure | None = None) -> Section:
    """Writes NAME.md, and NAME.csv and NAME.png if given, to `out`, all or none; prints the text."""
    with all_or_none(out) as made:
        (made / f"{section.name}.md").write_text(f"{section.title}\n\n{section.text}\n")
        if figure is not None:
            figure.savefig(made / f"{section.name}.png", dpi=110)
        if records is not None:
            with (made / f"{section.name}.csv").open("w", newline="") as f:
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


def spread(values) -> str:
    """Mean, and std over seeds with n - 1 if there are several."""
    several = f" ({statistics.stdev(values):.2f})" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{several}"


def about(setup: Setup, seeds: int | None = None) -> str:
    """The sentence under which a study's figures stand."""
    over = f"; mean (std) over {seeds} seed{'s' * (seeds > 1)} of random modes" if seeds else ""
    return f"{setup}, ANN {setup.accuracy:.2f} %{over}."


def over_seeds(fn, snn: Snn, config: Experiment, setup: Setup, traced: bool = False):
    """`setup.over_seeds` with the options' seeds and batches; folded networks are compiled once for every T."""
    size = config.batch_size or snn.batch_size(config.seeds, traced)
    return experiment.over_seeds(fn, snn if traced else snn.for_any_T(), setup.images, config.seeds, size)


def rank_correlation(a, b) -> float:
    """Spearman's: from -1 to 1, equal values sharing their rank; nan if all of one are equal."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    ranks = [[(v < w).sum() + ((v == w).sum() - 1) / 2 for w in v] for v in map(np.asarray, (a, b))]
    return float(np.corrcoef(*ranks)[0, 1])


def percent(correct) -> list[float]:
    """Accuracy of each seed in percent, from `[N, seeds]`."""
    return (100 * np.mean(correct, axis=0)).tolist()

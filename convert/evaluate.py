"""`python -m convert.evaluate`: the accuracy of a network's spiking versions, mode by mode and T by T."""

import csv
import itertools
import re
import time
from dataclasses import dataclass
from pathlib import Path

import convert
from convert.experiments import paper, plots
from convert.experiments.options import Experiment, checked
from convert.experiments.results import FILE, Results, all_or_none
from convert.experiments.setup import Setup, over_seeds, set_up, source
from tppjax import cli, data, files, sharding
from tppjax.neurons import NEURONS, parse

REPORTED = 200  # test images, for the report
PICTURES = ("accuracy.csv", "accuracy.png")
ENTRIES = {"mode": str, "T": int, "accuracy": list, "mean": float, "std": float, "seconds": float}  # of a row


@dataclass(frozen=True)
class Evaluate(Experiment):
    """Measure the spiking versions of a trained network on the test images of its data set."""

    modes: tuple[str, ...] = ("baseline", "shuffle", "tpp")
    """Neurons: the paper's baseline, shuffle and tpp; rounded and unbiased are two-phase neurons of ours. Fields that
    are not to be the default's follow in brackets, "baseline(v_init=0.25)"; your own is package.module:Name."""

    T: tuple[int, ...] = (4, 8, 16, 32)
    """Numbers of time steps."""

    distributed: bool = False
    """Share the images among several hosts, each of which runs this command with the same options and a shared folder
    for --out; they find each other as in training."""

    out: Path | None = None
    """Folder for results.json, accuracy.csv, accuracy.png and, for each mode, report-MODE.txt: layer by layer, how it
    departs from the ANN at the smallest T. Rows that are there already, measured with the same settings, are kept and
    not computed again [default: ANN/snn]."""


def main(config: Evaluate, program: str = "convert.evaluate") -> dict:
    """Prints the table, writes the files, and returns what results.json holds; `program` is the module called.

    Raises:
      InputError, FileNotFoundError: on options out of range, data that does not fit the network, or none.
    """
    return measure(config, program)[0]


def measure(config: Evaluate, program: str) -> tuple[dict, dict[str, list[dict]]]:
    """As `main`; returns the rows of the paper's tables too, by mode."""
    config = checked(config)
    setup = set_up(config, config.modes)
    images, settings = setup.images, setup.settings
    out = config.out or config.ann / "snn"
    measured = Results.open(out, settings, program, config.overwrite, ENTRIES)
    measured.ann = setup.accuracy
    print(f"{settings['dataset']}, {len(images)} test images, ANN {measured.ann:.2f} %", flush=True)
    for mode, T in itertools.product(config.modes, config.T):
        version = source(mode)
        there, report = measured.find(mode=mode, T=T, **version), out / f"report-{_file_name(mode)}.txt"
        enough = there and len(there["accuracy"]) >= (config.seeds if parse(mode).random else 1)
        reported = T != min(config.T) or (enough and report.is_file())
        if enough and reported:
            continue
        snn = setup.conversion.snn(T, mode)
        if not enough:
            new = measured.add({"mode": mode, "T": T}, row(snn, images, config.seeds, config.batch_size) | version)
            print(f"{mode:10} T={T:<4} {_cell(new):>14} %  {new['seconds']:7.1f} s", flush=True)
        if not reported and sharding.primary():
            files.write_text(report, f"{mode}: {convert.report(snn, images[:REPORTED].images, ann=setup.network)}\n")
    sharding.wait_for_all("all rows are in the file")
    results = _plot(measured, str(setup)) if sharding.primary() else _ordered(measured)
    print(table(results, theirs := published(setup)))
    print(f"wrote to {out}: {', '.join((FILE, *PICTURES))} and a report for each mode")
    return results, theirs


def row(snn: convert.Snn, images: data.Images, seeds: int, batch_size: int | None = None) -> dict:
    """One line of the table: the accuracy of `snn` on `images` for each seed, in percent.

    Returns:
      "accuracy" (one a seed; one in all if nothing is random), "mean", "std" (over seeds, with n - 1),
      "spikes_per_neuron" (mean over neurons, images and seeds, of the spikes in T steps), "seconds", and "history" of
      the network that was converted.
    """
    started = time.perf_counter()
    batch_size = batch_size or snn.batch_size(seeds)
    progress = f"{snn.mode} T={snn.T}" if isinstance(snn.mode, str) else f"T={snn.T}"
    correct, spikes = over_seeds(_outcome, snn.for_any_T(), images, seeds, batch_size, progress)
    accuracy = 100 * correct.mean(axis=0)
    return {
        "accuracy": accuracy.tolist(),
        "mean": float(accuracy.mean()),
        "std": float(accuracy.std(ddof=1)) if len(accuracy) > 1 else 0.0,
        "spikes_per_neuron": float(spikes.mean()),
        "seconds": time.perf_counter() - started,
        "history": list(snn.network.history),
    }


def _outcome(snn, pixels, labels, index, key):
    """Whether each example is named rightly, and the spikes of its mean neuron: `[B]` each."""
    logits, counts = snn.activity(pixels, convert.example_keys(key, index))
    spikes = sum(count.reshape(len(count), -1).sum(axis=1) for count in counts.values())
    neurons = sum(count[0].size for count in counts.values())
    return logits.argmax(-1) == labels, spikes / neurons


def published(setup: Setup) -> dict[str, list[dict]]:
    """The paper's rows for this network, by mode: none if it is evaluated on other data or was corrected."""
    how, dataset = setup.settings["conversion"], setup.settings["dataset"]
    comparable = setup.model and dataset == setup.network.preprocessing.dataset and not how["correct"]
    return {mode: paper.accuracy(setup.model, dataset, mode) for mode in paper.METHODS if comparable}


def table(results: dict, published: dict[str, list[dict]]) -> str:
    """The rows as text, modes down and T across, `mean (std)`; under ours the paper's of `paper.accuracy`, if any."""
    cells = {(r["mode"], r["T"]): r for r in results["rows"]}
    modes = list(dict.fromkeys(r["mode"] for r in results["rows"]))
    width = max(12, *(len(mode) + 2 for mode in modes))
    steps = sorted({r["T"] for r in results["rows"]})
    seeds = sorted({n for r in results["rows"] if (n := len(r["accuracy"])) > 1} or {1})
    seeds = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else seeds[0]
    lines = [
        f"{results['dataset']}, {results['n']} test images, ANN {results['ann']:.2f} %; "
        f"accuracy of the SNN in percent, mean (std) over {seeds} seed{'s' * (seeds != 1)}",
        " " * width + "".join(f"{f'T={T}':>15}" for T in steps),
    ]
    for mode in modes:
        ours = (_cell(cells.get((mode, T))) for T in steps)
        lines.append(f"{mode:{width}}" + "".join(f"{cell:>15}" for cell in ours))
        for row in published.get(mode, ()):
            theirs = (row["accuracy"].get(T) for T in steps)
            cells_of_paper = "".join(f"{'' if p is None else f'{p:.2f}':>15}" for p in theirs)
            lines.append(f"{'  paper':{width}}{cells_of_paper}   ({paper.source(row)})")
    return "\n".join(lines)


def _cell(row: dict | None) -> str:
    if row is None:
        return ""
    return f"{row['mean']:.2f}" + (f" ({row['std']:.2f})" if len(row["accuracy"]) > 1 else "")


def _ordered(measured: Results) -> dict:
    """What results.json holds, other processes' rows too, by mode and T."""
    rows = sorted(measured.all_rows(), key=lambda r: (_place(r["mode"]), r["T"]))
    return {"ann": measured.ann, **measured.settings, "rows": rows}


def _place(mode: str) -> tuple[int, str]:
    """Where a mode stands in a table: neurons of the library as they are listed, others afterwards, by name."""
    name, known = mode.partition("(")[0], list(NEURONS)
    return (known.index(name) if name in known else len(known)), mode


def _file_name(mode: str) -> str:
    return re.sub(r"[^\w.=]+", "-", mode).strip("-")


def _plot(measured: Results, title: str) -> dict:
    """Writes the table and the picture of all rows, and returns what results.json holds."""
    with all_or_none(measured.folder) as made:
        results = _ordered(measured)
        with (made / "accuracy.csv").open("w", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["mode", "T", "seed", "accuracy"])
            writer.writerows((r["mode"], r["T"], s, a) for r in results["rows"] for s, a in enumerate(r["accuracy"]))
        plots.accuracy(results["rows"], results["ann"], title, made / "accuracy.png")
    return results


if __name__ == "__main__":
    cli.run(main, Evaluate)

"""`python -m convert.evaluate`: the accuracy of a network's spiking versions, mode by mode and T by T."""

import csv
import hashlib
import itertools
import re
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

import convert
from convert.experiments import paper, plots
from convert.experiments.options import Experiment, checked
from convert.experiments.results import FILE, Results, all_or_none
from convert.experiments.setup import Setup, over_seeds, set_up, source
from tppjax import cli, data, files, sharding
from tppjax.neurons import NEURONS, parse
from tppjax.types import Array, Key

REPORTED = 200  # test images, for the report
PICTURES = ("accuracy.csv", "accuracy.png")


@dataclass(frozen=True)
class Evaluate(Experiment):
    """Measure the spiking versions of a trained network on the test images of its data set."""

    modes: tuple[str, ...] = ("baseline", "shuffle", "tpp")
    """Neurons: the paper's baseline, shuffle and tpp, or others of the library, such as rounded and unbiased. Fields
    that differ from the default follow in brackets, "baseline(v_init=0.25)"; your own is package.module:Name."""

    T: tuple[int, ...] = (4, 8, 16, 32)
    """Numbers of time steps."""

    distributed: bool = False
    """Share the images among several hosts, each of which runs this command with the same options and a shared folder
    for --out. The hosts find each other as in training."""

    out: Path | None = None
    """Folder for results.json, accuracy.csv, accuracy.png and, for each mode, report-MODE.txt, which shows layer by
    layer how the mode departs from the ANN at the smallest T. Existing rows, measured with the same settings, are kept
    and not computed again [default: ANN/snn]."""


def main(config: Evaluate) -> dict:
    """Prints the table, writes the files, and returns the content of results.json.

    Raises:
      InputError, FileNotFoundError: if options are out of range, or if data does not fit the network or is missing.
    """
    return measure(config, "convert.evaluate")[0]


def measure(config: Evaluate, program: str) -> tuple[dict, dict[str, list[dict]]]:
    """As `main`; also returns the rows of the paper's tables, by mode."""
    config = checked(config)
    setup = set_up(config, config.modes)
    images, settings = setup.images, setup.settings
    out = config.out or config.ann / "snn"
    measured = Results.open(out, settings, program, config.overwrite)
    measured.ann = setup.accuracy
    print(f"{settings['dataset']}, {len(images)} test images, ANN {measured.ann:.2f} %", flush=True)
    for mode, T in itertools.product(config.modes, config.T):
        version = source(mode)
        case = {"mode": mode, **version}
        old, report = measured.find(T=T, **case), out / f"report-{_file_name(mode)}.txt"
        enough = old and len(old["accuracy"]) >= (config.seeds if parse(mode).random else 1)
        least = min({*config.T} | {r["T"] for r in measured.rows if case.items() <= r.items()})
        reported = T != least or (
            enough and report.is_file() and report.read_text(errors="replace").startswith(f"{mode}: T={T}, ")
        )
        if enough and reported:
            continue
        snn = setup.conversion.snn(T, mode)
        if not enough:
            new = measured.add({"mode": mode, "T": T}, row(snn, images, config.seeds, config.batch_size) | version)
            print(f"{mode:10} T={T:<4} {_cell(new):>14} %  {new['seconds']:7.1f} s", flush=True)
        if not reported and sharding.primary():
            files.write_text(report, f"{mode}: {convert.report(snn, images[:REPORTED].images, ann=setup.network)}\n")
    sharding.wait_for_all("all rows are in the file")
    primary = sharding.primary()
    results = _plot(measured, config.modes, str(setup)) if primary else _ordered(measured, config.modes)
    rows_of_paper = published(setup)
    print(table(results, rows_of_paper))
    print(f"wrote to {out}: {', '.join((FILE, *PICTURES))} and a report for each mode")
    return results, rows_of_paper


def row(snn: convert.Snn, images: data.Examples, seeds: int, batch_size: int | None = None) -> dict:
    """One row of the table: the accuracy of `snn` on `images` for each seed, in percent.

    Args:
      snn: the spiking network.
      images: the test images.
      seeds: number of seeds; one is used if nothing is random.
      batch_size: images in each call; by default as many as suit the device's memory.

    Returns:
      "accuracy" (a list with the accuracy of each seed), "mean", "std" (over seeds, with n - 1), "spikes_per_neuron"
      (in T steps, mean over neurons, images and seeds), "seconds", and "history" of the network that was converted.
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


def _outcome(snn: convert.Snn, pixels: Array, labels: Array, index: Array, key: Key) -> tuple[jax.Array, jax.Array]:
    """Whether each example is classified correctly, and its mean number of spikes over neurons: `[B]` each."""
    logits, counts = snn.activity(pixels, convert.example_keys(key, index))
    spikes = sum(count.reshape(len(count), -1).sum(axis=1) for count in counts.values())
    neurons = sum(count[0].size for count in counts.values())
    return logits.argmax(-1) == labels, jnp.asarray(spikes / neurons)


def published(setup: Setup) -> dict[str, list[dict]]:
    """The paper's rows for this network, by mode; empty if it is evaluated on other data or was corrected."""
    settings, preprocessing = setup.settings, setup.network.preprocessing
    assert preprocessing is not None  # by `set_up`
    dataset = settings["dataset"]
    if setup.model is None or dataset != preprocessing.dataset or settings["conversion"]["correct"]:
        return {}
    return {mode: paper.accuracy(setup.model, dataset, mode) for mode in paper.METHODS}


def table(results: dict, published: dict[str, list[dict]]) -> str:
    """The rows as text, modes down and T across, `mean (std)`; below each mode the paper's rows, if any."""
    cells = {(r["mode"], r["T"]): r for r in results["rows"]}
    modes = list(dict.fromkeys(r["mode"] for r in results["rows"]))
    width = max(12, *(len(mode) + 2 for mode in modes))
    steps = sorted({r["T"] for r in results["rows"]})
    seeds = sorted({n for r in results["rows"] if (n := len(r["accuracy"])) > 1} or {1})
    several = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    lines = [
        f"{results['dataset']}, {results['n']} test images, ANN {results['ann']:.2f} %; "
        f"accuracy of the SNN in percent, mean (std) over {several} seed{'s' * (seeds != [1])}",
        " " * width + "".join(f"{f'T={T}':>15}" for T in steps),
    ]
    for mode in modes:
        ours = (_cell(cells.get((mode, T))) for T in steps)
        lines.append(f"{mode:{width}}" + "".join(f"{cell:>15}" for cell in ours))
        for row in published.get(mode, ()):
            accuracies = (row["accuracy"].get(T) for T in steps)
            cells_of_paper = "".join(f"{'' if p is None else f'{p:.2f}':>15}" for p in accuracies)
            lines.append(f"{'  paper':{width}}{cells_of_paper}   ({paper.source(row)})")
    return "\n".join(lines)


def _cell(row: dict | None) -> str:
    if row is None:
        return ""
    return f"{row['mean']:.2f}" + (f" ({row['std']:.2f})" if len(row["accuracy"]) > 1 else "")


def _ordered(measured: Results, modes: tuple[str, ...]) -> dict:
    """The content of results.json, with the rows of other processes, by mode and T.

    Rows of another version of a neuron in `modes` are left out.
    """
    now = {mode: source(mode).get("source") for mode in modes}
    rows = [r for r in measured.all_rows() if r.get("source") == now.get(r["mode"], r.get("source"))]
    rows.sort(key=lambda r: (_place(r["mode"]), r["T"]))
    return {"ann": measured.ann, **measured.settings, "rows": rows}


def _place(mode: str) -> tuple[int, str]:
    """The sort key of a mode: neurons of the library come first, in the order of `NEURONS`, then others by name."""
    name, known = mode.partition("(")[0], list(NEURONS)
    return (known.index(name) if name in known else len(known)), mode


def _file_name(mode: str) -> str:
    name = re.sub(r"[^\w.=]+", "-", mode).strip("-")
    return name if len(name) <= 100 else f"{name[:80]}-{hashlib.sha256(mode.encode()).hexdigest()[:12]}"


def _plot(measured: Results, modes: tuple[str, ...], title: str) -> dict:
    """Writes the table and the plot of all rows, and returns what `_ordered` does."""
    with all_or_none(measured.folder) as new:
        results = _ordered(measured, modes)
        with (new / "accuracy.csv").open("w", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["mode", "T", "seed", "accuracy"])
            writer.writerows((r["mode"], r["T"], s, a) for r in results["rows"] for s, a in enumerate(r["accuracy"]))
        plots.accuracy(results["rows"], results["ann"], title, new / "accuracy.png")
    return results


if __name__ == "__main__":
    cli.run(main, Evaluate)

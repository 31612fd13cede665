"""`python -m convert.evaluate`: the accuracy of a network's spiking versions, mode by mode and T by T."""

import csv
import hashlib
import itertools
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np

import convert
from convert import paper, pictures
from convert.results import FILE, Results
from tppjax import ann, cli, data, prng, sharding, thresholds
from tppjax.batching import map_batches
from tppjax.spiking import MODES, RANDOM

CONVERSION = (
    *("calibrate", "per", "percentile", "correct_bias", "correct_weights", "calibration_images"),
    *("v_init", "shift"),
)
REPORTED = 200  # test images, for the report
PICTURES = ("accuracy.csv", "accuracy.png")


@dataclass(frozen=True)
class Evaluate:
    """Measure the spiking versions of a trained network on the test images of its data set."""

    ann: Path
    """Folder of the trained network: what --out was in training."""

    modes: tuple[Literal["baseline", "shuffle", "tpp", "rounded", "unbiased"], ...] = ("baseline", "shuffle", "tpp")
    """Neurons: the paper's baseline, shuffle and tpp; rounded and unbiased are two-phase neurons of ours."""

    T: tuple[int, ...] = (4, 8, 16, 32)
    """Numbers of time steps."""

    seeds: int = 5
    """Runs of each random mode, with seeds 0, 1, 2, ...; the others need one."""

    limit: int | None = None
    """Use this many test images only, the first ones."""

    out: Path | None = None
    """Folder for results.json, accuracy.csv, accuracy.png and, for each mode, report-MODE.txt: layer by layer, how it
    departs from the ANN at the smallest T. Rows that are there already, measured with the same settings, are kept and
    not computed again [default: ANN/snn]."""

    overwrite: bool = False
    """Measure everything anew and replace what is in --out."""

    dataset: str | None = None
    """Data set [default: the one that the network was trained on]."""

    data_dir: Path | None = None
    """Folder of the data set, or the file of npz [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]."""

    batch_size: int | None = None
    """Images a call [default: as many as suit the device's memory]."""

    calibrate: Literal["max", "percentile", "mse"] | None = None
    """Choose thresholds on training images, anew for each mode and T: for networks with plain ReLU, which learned none.
    mse is SNNC's way, with the error of the neuron that is evaluated."""

    per: Literal["channel", "layer"] = "channel"
    """One calibrated threshold for each channel, or for each layer."""

    percentile: float = 99.9
    """Of the activations, for --calibrate percentile, in percent."""

    correct_bias: bool = False
    """Match each channel's mean input in the SNN to the ANN's, layer by layer, on training images."""

    correct_weights: bool = False
    """The same by least squares, in kernels and biases; includes --correct_bias."""

    calibration_images: int = 1000
    """Training images for --calibrate and --correct_..., drawn at random, the same ones every time."""

    v_init: float | None = None
    """Potential of baseline and shuffle neurons before the first step, in thresholds [default: qcfs 0.5, else 0]."""

    shift: float | None = None
    """Added to the input of baseline and shuffle over all T steps together, in thresholds [default: 0.5 for
    clipped_relu (RTS) and relu (SNNC), unless --v_init is given; else 0]."""


def main(config: Evaluate) -> dict:
    """Prints the table, writes the files, and returns what results.json holds.

    Raises:
      ValueError, FileNotFoundError: on options out of range, data that does not fit the network, or none.
    """
    _check(config)
    network = ann.load(config.ann)
    dataset = config.dataset or network.preprocessing.dataset
    images = _images(network, config)
    _check_conversion(network, config)
    calibration = _calibration_images(network, config)
    settings = {
        "dataset": dataset,
        "n": len(images),
        "images": _digest(images.images, images.labels),
        "model": {"name": network.model.name, "act": type(network.model.act).__name__},
        "network": ann.fingerprint(network),
        "conversion": {name: getattr(config, name) for name in CONVERSION},
        "calibrated_on": None if calibration is None else _digest(calibration),
    }
    out = config.out or config.ann / "snn"
    measured = Results.open(out, settings, "convert.evaluate", config.overwrite)
    accuracy = ann.accuracy(network, images.images, images.labels)
    print(f"{dataset}, {len(images)} test images, ANN {accuracy:.2f} %", flush=True)
    prepare = preparation(network, config, calibration)
    for mode, T in itertools.product(config.modes, config.T):
        there, report = measured.find(mode=mode, T=T), out / f"report-{mode}.txt"
        enough = there and len(there["accuracy"]) >= (config.seeds if mode in RANDOM else 1)
        reported = T != min(config.T) or (enough and report.is_file())
        if enough and reported:
            continue
        snn = convert.to_snn(prepare(T, mode), T, mode, v_init=config.v_init, shift=config.shift)
        if not enough:
            new = measured.add(row(snn, images, config.seeds, config.batch_size), instead_of=there)
            print(f"{mode:10} T={T:<4} {_cell(new):>14} %  {new['seconds']:7.1f} s", flush=True)
        if not reported:
            report.write_text(f"{mode}: {convert.report(snn, images.images[:REPORTED], ann=network)}\n")
    rows = sorted(measured.rows, key=lambda r: (MODES.index(r["mode"]), r["T"]))
    results = {"ann": accuracy, **settings, "rows": rows}
    comparable = dataset == network.preprocessing.dataset and not (config.correct_bias or config.correct_weights)
    print(table(results, {mode: paper.accuracy(network, mode) for mode in MODES if comparable}))
    _draw(results, out)
    print(f"wrote to {out}: {', '.join((FILE, *PICTURES))} and a report for each mode")
    return results


def preparation(network: ann.Ann, config: Evaluate, images):
    """A function of T and mode: the network with the thresholds and corrections that `config` asks for, by `images`."""
    corrected = config.correct_bias or config.correct_weights
    observed = thresholds.observe(network, images) if config.calibrate else None

    def prepare(T: int, mode: str) -> ann.Ann:
        ready = network
        if config.calibrate:
            options = {"percentile": config.percentile, "observed": observed}
            ready = convert.calibrate(ready, images, config.calibrate, config.per, T=T, mode=mode, **options)
        if corrected:
            options = {"weights": config.correct_weights, "v_init": config.v_init, "shift": config.shift}
            ready = convert.correct(ready, images, T, mode, progress=f"correcting {mode} T={T}", **options)
        return ready

    return prepare


def row(snn: convert.Snn, images: data.Images, seeds: int, batch_size: int | None = None) -> dict:
    """One line of the table: the accuracy of `snn` on `images` for each seed, in percent.

    Returns:
      "mode", "T", "accuracy" (one a seed; one in all if nothing is random), "mean", "std" (over seeds, with n - 1),
      "spikes_per_neuron" (mean over neurons, images and seeds, of the spikes in T steps), "seconds", and "history" of
      the network that was converted.
    """
    started = time.perf_counter()
    seeds = seeds if snn.random else 1
    keys = jax.vmap(lambda seed: jax.random.key(seed, impl=prng.HASH))(np.arange(seeds, dtype=np.uint32))

    def outcome(pixels, labels, index):
        return jax.tree.map(
            np.transpose, sharding.sweep(_outcome, keys, snn.for_any_T(), pixels, labels, index, examples=(1, 2, 3))
        )

    arrays = (images.images, images.labels, np.arange(len(images)))
    batch_size = batch_size or snn.batch_size(images.images.shape[1:], seeds)
    correct, spikes = map_batches(outcome, arrays, batch_size, f"{snn.mode} T={snn.T}", jax.device_count())
    accuracy = 100 * correct.mean(axis=0)
    return {
        "mode": snn.mode,
        "T": snn.T,
        "accuracy": accuracy.tolist(),
        "mean": float(accuracy.mean()),
        "std": float(accuracy.std(ddof=1)) if seeds > 1 else 0.0,
        "spikes_per_neuron": float(spikes.mean()),
        "seconds": time.perf_counter() - started,
        "history": list(snn.ann.history),
    }


def _outcome(snn, pixels, labels, index, key):
    """Whether each example is named rightly, and the spikes of its mean neuron: `[B]` each."""
    logits, counts = snn.activity(pixels, convert.example_keys(key, index))
    spikes = sum(count.reshape(len(count), -1).sum(axis=1) for count in counts.values())
    neurons = sum(count[0].size for count in counts.values())
    return logits.argmax(-1) == labels, spikes / neurons


def table(results: dict, published: dict[str, dict]) -> str:
    """The rows as text, modes down and T across, `mean (std)`; under ours the paper's of `paper.accuracy`, if any."""
    cells = {(r["mode"], r["T"]): r for r in results["rows"]}
    modes = [mode for mode in MODES if mode in {r["mode"] for r in results["rows"]}]
    steps = sorted({r["T"] for r in results["rows"]})
    seeds = sorted({len(r["accuracy"]) for r in results["rows"] if r["mode"] in RANDOM} or {1})
    seeds = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else seeds[0]
    lines = [
        f"{results['dataset']}, {results['n']} test images, ANN {results['ann']:.2f} %; "
        f"accuracy of the SNN in percent, mean (std) over {seeds} seed{'s' * (seeds != 1)}",
        " " * 12 + "".join(f"{f'T={T}':>15}" for T in steps),
    ]
    for mode in modes:
        ours = (_cell(cells.get((mode, T))) for T in steps)
        lines.append(f"{mode:12}" + "".join(f"{cell:>15}" for cell in ours))
        if row := published.get(mode):
            theirs = (row["accuracy"].get(T) for T in steps)
            cells_of_paper = "".join(f"{'' if p is None else f'{p:.2f}':>15}" for p in theirs)
            lines.append(f"{'  paper':12}{cells_of_paper}   (its ANN: {row['ann']} %)")
    return "\n".join(lines)


def _cell(row: dict | None) -> str:
    if row is None:
        return ""
    return f"{row['mean']:.2f}" + (f" ({row['std']:.2f})" if len(row["accuracy"]) > 1 else "")


def _check(config: Evaluate) -> None:
    for name in ("seeds", "batch_size", "limit", "calibration_images"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} must be at least 1; got {value}")
    if config.per != "channel" and not config.calibrate:
        raise ValueError("--per is for thresholds that --calibrate chooses; give both or neither")
    if not config.T or not config.modes or any(T < 1 for T in config.T):
        raise ValueError(f"--modes and --T need at least one entry, and T at least 1; got {config.modes}, {config.T}")


def _check_conversion(network: ann.Ann, config: Evaluate) -> None:
    """Every refusal of the conversion now, and not after the first modes have run for an hour."""
    if config.calibrate:
        thresholds.check_plain(network)
        ones = dict.fromkeys(ann.sites(network.model, network.preprocessing.input_shape), np.float32(1))
        network = thresholds.with_thresholds(network, ones, "")
    for mode in config.modes:
        convert.to_snn(network, 1, mode, v_init=config.v_init, shift=config.shift)


def _images(network: ann.Ann, config: Evaluate) -> data.Images:
    """The test images, after making sure that they are what the network takes."""
    expected = network.preprocessing
    name = config.dataset or expected.dataset
    if config.dataset is None and name not in data.NAMES:
        raise ValueError(
            f"the network in {config.ann} is for {name}, which is not one of the data sets here ("
            f"{', '.join(data.NAMES)}): put your images in a file and give --dataset npz --data_dir FILE.npz"
        )
    info = data.info(name, config.data_dir)
    if (info.input_shape, len(info.class_names)) != (expected.input_shape, len(expected.class_names)):
        raise ValueError(
            f"{name} has images of {info.input_shape} and {len(info.class_names)} classes; the network in {config.ann} "
            f"was trained on {expected.dataset}: {expected.input_shape} and {len(expected.class_names)} classes"
        )
    return data.load(name, "test", config.data_dir, lambda n: np.arange(n)[: config.limit])


def _calibration_images(network: ann.Ann, config: Evaluate):
    if not (config.calibrate or config.correct_bias or config.correct_weights):
        return None

    def choose(n: int):
        return np.random.default_rng(0).permutation(n)[: config.calibration_images]

    return data.load(config.dataset or network.preprocessing.dataset, "train", config.data_dir, choose).images


def _digest(*arrays) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def _draw(results: dict, out: Path) -> None:
    """All files or none: they are made in a folder in `out` and then moved."""
    with tempfile.TemporaryDirectory(dir=out) as made:
        made = Path(made)
        with (made / "accuracy.csv").open("w", newline="") as f:
            writer = csv.writer(f)
            writer.writerow(["mode", "T", "seed", "accuracy"])
            writer.writerows((r["mode"], r["T"], s, a) for r in results["rows"] for s, a in enumerate(r["accuracy"]))
        title = f"{results['model']['name']} on {results['dataset']} ({results['n']} test images)"
        pictures.accuracy(results["rows"], results["ann"], title, made / "accuracy.png")
        for file in PICTURES:
            os.replace(made / file, out / file)


if __name__ == "__main__":
    cli.run(main, Evaluate)

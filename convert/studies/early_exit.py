"""Adaptive T: each image gets as many steps as the network needs to become confident."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import convert
from convert.experiments import plots
from convert.experiments.plots import Figure
from convert.experiments.setup import Setup
from convert.studies import study
from convert.studies.anytime import Anytime
from convert.studies.study import Section, Study
from tppjax.neurons import parse
from tppjax.types import Array, Key

ALLOWED = (0.0, 0.25, 0.5, 1.0, 2.0)  # points of accuracy that an exit may cost on the calibration images
NEVER = 2.0  # a threshold that no confidence reaches, since none is above 1


class Readings(NamedTuple):
    """The answers of a network to images, at each of the times at which they are read.

    Attributes:
      correct: whether the answer is correct, bool `[N, seeds, readings]`.
      confidence: the largest softmax of the mean output, `[N, seeds, readings]`.
      cost: steps made up to each reading, `[readings]`.
    """

    correct: np.ndarray
    confidence: np.ndarray
    cost: np.ndarray

    def exit(self, threshold: float) -> tuple[float, float]:
        """Accuracy in percent and mean steps, if an image leaves as soon as the confidence reaches `threshold`."""
        enough = self.confidence >= threshold
        enough[..., -1] = True
        last = enough.argmax(axis=-1)
        correct = np.take_along_axis(self.correct, last[..., None], axis=-1)
        return 100 * float(correct.mean()), float(self.cost[last].mean())

    def threshold(self, allowed: float) -> float:
        """The threshold of least cost whose accuracy is at most `allowed` points below that of the last reading."""
        least = 100 * self.correct[..., -1].mean() - allowed
        candidates = np.unique(np.quantile(self.confidence, np.linspace(0, 1, 201)))
        exits = [(*self.exit(c), c) for c in [*candidates, NEVER]]
        return float(min((cost, c) for accuracy, cost, c in exits if accuracy >= least)[1])


def main(config: Anytime, setup: Setup) -> Section:
    """Runs the study, with the options of `anytime`."""
    training = setup.conversion.training
    assert training is not None  # `anytime` has them loaded

    def run(mode: str, seeds: int) -> dict:
        calibration = _readings(mode, config, setup.with_images(training))
        test = _readings(mode, config, setup)
        exits = []
        for allowed in ALLOWED:
            threshold = calibration.threshold(allowed)
            accuracy, steps = test.exit(threshold)
            exits.append({"allowed": allowed, "threshold": threshold, "accuracy": accuracy, "steps": steps})
        fixed = (100 * test.correct.mean(axis=(0, 1))).tolist()
        return {"steps": test.cost.tolist(), "fixed": fixed, "exits": exits}

    cases = study.product(mode=config.modes, seeds=[config.seeds])
    return STUDY.run(config, setup, cases, run, steps_tried=sorted(config.T))


def _records(rows: list[dict], setup: Setup, config: Anytime) -> list[dict]:
    return [{"mode": r["mode"], **exit} for r in rows for exit in r["exits"]]


def _readings(mode: str, config: Anytime, setup: Setup) -> Readings:
    """Neurons that wait are read after one run for each T, all others after every step of a single run."""
    steps = sorted(config.T)
    if not parse(mode).waits:
        snn = setup.conversion.snn(steps[-1], mode)
        correct, confidence = study.over_seeds(_after_each_step, snn, config, setup, traced=True)
        return Readings(correct, confidence, np.arange(1, steps[-1] + 1) + parse(mode).lead)
    runs = [study.over_seeds(_at_the_end, setup.conversion.snn(T, mode), config, setup) for T in steps]
    correct, confidence = (np.stack(of_runs, axis=-1) for of_runs in zip(*runs, strict=True))
    return Readings(correct, confidence, np.cumsum(steps))


def _after_each_step(snn: convert.Snn, pixels: Array, labels: Array, index: Array, key: Key) -> tuple[jax.Array, ...]:
    """As `_read`, after each step: `[B, T]` each."""
    logits = snn.trace(pixels, convert.example_keys(key, index)).logits
    steps = jnp.arange(1, len(logits) + 1).reshape(-1, 1, 1)
    return tuple(a.T for a in _read(jnp.cumsum(logits, axis=0) / steps, labels[None]))


def _at_the_end(snn: convert.Snn, pixels: Array, labels: Array, index: Array, key: Key) -> tuple[jax.Array, ...]:
    """As `_read`, after all T steps: `[B]` each."""
    return _read(snn.apply(pixels, convert.example_keys(key, index)), labels)


def _read(logits: jax.Array, labels: Array) -> tuple[jax.Array, jax.Array]:
    """Whether the answers are correct, and the confidence in them; from logits `[..., K]` and labels `[...]`."""
    return logits.argmax(-1) == labels, jax.nn.softmax(logits).max(-1)


def _text(rows: list[dict], setup: Setup, config: Anytime) -> str:
    assert setup.conversion.training is not None  # as in `main`
    header = ["mode", *(f"at most {points:g} points lost" for points in ALLOWED)]
    lines = [[f"`{r['mode']}`", *(f"{e['accuracy']:.2f} % in {e['steps']:.2f}" for e in r["exits"])] for r in rows]
    fixed = [[f"`{r['mode']}`", *(f"{r['fixed'][i]:.2f}" for i in _shown(r, config))] for r in rows]
    latencies = ", ".join(map(str, sorted(config.T)))
    return (
        f"{study.about(setup, config.seeds)} The network stops for an image when the largest softmax of its mean "
        "output reaches a threshold: the one with the fewest mean steps that loses at most the given points on "
        f"{len(setup.conversion.training):,} training images. The network was trained on these, so the loss on test "
        "images can be larger. The table shows accuracy and mean steps on the test images:\n\n"
        f"{study.table(header, lines)}\n\nAccuracy (%) without an exit, after t steps for all images:\n\n"
        f"{study.table(['mode', *(f't = {T}' for T in sorted(config.T))], fixed)}\n\n"
        "Neurons that fire in the step of their input are read after every step of one run of "
        f"{max(config.T)} steps, for which their thresholds are chosen. Networks of neurons that wait for T steps have "
        "no earlier answer: without an exit, they make one run of T steps. With an exit, they run with "
        f"T = {latencies}, one after another, until the network is confident, and the steps of all these runs are "
        "counted. Steps are those of one layer; the study `methods` shows the latency through all layers."
    )


def _shown(row: dict, config: Anytime) -> list[int]:
    """The indices of the readings at the numbers of steps of the options."""
    return list(range(len(config.T))) if parse(row["mode"]).waits else [T - 1 for T in sorted(config.T)]


def _plot(rows: list[dict], setup: Setup, config: Anytime) -> Figure:
    figure = plots.figure()
    axes = figure.subplots()
    plots.reference(axes, setup.accuracy)
    for n, r in enumerate(rows):
        color, marker = plots.style(r["mode"])
        steps, accuracy = zip(*sorted((e["steps"], e["accuracy"]) for e in r["exits"]), strict=True)
        axes.plot(steps, accuracy, color=color, marker=marker, markersize=5, label=r["mode"])
        fixed = [r["fixed"][i] for i in _shown(r, config)]
        label = None if n else "without an exit"
        axes.plot(sorted(config.T), fixed, color=color, linestyle=":", linewidth=1, label=label)
    plots.steps_axis(axes, sorted(config.T), "steps of all runs made, mean over images")
    axes.set(ylabel="test accuracy (%)", title=str(setup))
    axes.legend(loc="lower right", fontsize=8)
    return figure


STUDY = Study("early_exit", "Exit by confidence: mean steps against accuracy", _records, _text, _plot)

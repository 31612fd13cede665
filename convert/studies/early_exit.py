"""Adaptive T: each image gets as many steps as it takes until the network is confident."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import convert
from convert.experiments import plots
from convert.experiments.plots import Figure
from convert.experiments.setup import Setup
from convert.studies import study
from convert.studies.study import Section, Study
from tppjax.neurons import parse

ALLOWED = (0.0, 0.25, 0.5, 1.0, 2.0)  # points of accuracy that an exit may cost on the calibration images
NEVER = 2.0  # a threshold that no confidence reaches, since none is above 1


class Readings(NamedTuple):
    """What a network says of images each time its answer is read.

    Attributes:
      right: whether the answer is right, `[N, seeds, readings]`.
      sure: its confidence, the largest softmax of the mean output, likewise.
      cost: steps made until then, `[readings]`.
    """

    right: np.ndarray
    sure: np.ndarray
    cost: np.ndarray

    def exit(self, threshold: float) -> tuple[float, float]:
        """Accuracy in percent and mean steps, if an image leaves as soon as the confidence reaches `threshold`."""
        enough = self.sure >= threshold
        enough[..., -1] = True
        last = enough.argmax(axis=-1)
        right = np.take_along_axis(self.right, last[..., None], axis=-1)
        return 100 * float(right.mean()), float(self.cost[last].mean())

    def threshold(self, allowed: float) -> float:
        """The one of least cost that keeps the accuracy of the last reading but for `allowed` points."""
        wanted = 100 * self.right[..., -1].mean() - allowed
        tried = np.unique(np.quantile(self.sure, np.linspace(0, 1, 201)))
        found = [(*self.exit(c), c) for c in [*tried, NEVER]]
        return float(min((cost, c) for accuracy, cost, c in found if accuracy >= wanted)[1])


def main(config, setup: Setup) -> Section:
    """Runs the study; the options are those of `anytime`."""

    def run(mode, seeds):
        chosen_on, measured_on = (
            _readings(mode, config, on) for on in (setup.with_images(setup.conversion.training), setup)
        )
        exits = []
        for allowed in ALLOWED:
            threshold = chosen_on.threshold(allowed)
            accuracy, steps = measured_on.exit(threshold)
            exits.append({"allowed": allowed, "threshold": threshold, "accuracy": accuracy, "steps": steps})
        fixed = (100 * measured_on.right.mean(axis=(0, 1))).tolist()
        return {"steps": measured_on.cost.tolist(), "fixed": fixed, "exits": exits}

    cases = study.product(mode=config.modes, seeds=[config.seeds])
    return STUDY.run(config, setup, cases, run, steps_tried=list(config.T))


def _records(rows, setup: Setup, config) -> list[dict]:
    return [{"mode": r["mode"], **exit} for r in rows for exit in r["exits"]]


def _readings(mode: str, config, setup: Setup) -> Readings:
    """Of neurons that fire at once, after every step of one run; of those that wait, after one run for each T."""
    steps = sorted(config.T)
    if not parse(mode).waits:
        snn = setup.conversion.snn(steps[-1], mode)
        right, sure = study.over_seeds(_after_each_step, snn, config, setup, traced=True)
        return Readings(right, sure, np.arange(1, steps[-1] + 1) + parse(mode).lead)
    runs = [study.over_seeds(_at_the_end, setup.conversion.snn(T, mode), config, setup) for T in steps]
    right, sure = (np.stack(of_runs, axis=-1) for of_runs in zip(*runs, strict=True))
    return Readings(right, sure, np.cumsum(steps))


def _after_each_step(snn, pixels, labels, index, key):
    logits = snn.trace(pixels, convert.example_keys(key, index)).logits
    steps = jnp.arange(1, len(logits) + 1).reshape(-1, 1, 1)
    return tuple(a.T for a in _read(jnp.cumsum(logits, axis=0) / steps, labels[None]))


def _at_the_end(snn, pixels, labels, index, key):
    return _read(snn.apply(pixels, convert.example_keys(key, index)), labels)


def _read(logits, labels):
    """Whether the answer is right, and the confidence."""
    return logits.argmax(-1) == labels, jax.nn.softmax(logits).max(-1)


def _text(rows, setup: Setup, config) -> str:
    header = ["mode", *(f"{points:g} points" for points in ALLOWED)]
    lines = [[f"`{r['mode']}`", *(f"{e['accuracy']:.2f} % in {e['steps']:.2f}" for e in r["exits"])] for r in rows]
    fixed = [[f"`{r['mode']}`", *(f"{r['fixed'][i]:.2f}" for i in _shown(r, config))] for r in rows]
    tried = ", ".join(map(str, sorted(config.T)))
    return (
        f"{study.about(setup, config.seeds)} An image leaves when the largest softmax of its mean output reaches a "
        f"threshold: the one of least cost that loses at most so many points on {len(setup.conversion.training):,} "
        "training images, which the network knows better than those of the test. Accuracy and mean steps on the test "
        "images:\n\n"
        f"{study.table(header, lines)}\n\nAccuracy (%) without an exit, after t steps for all images:\n\n"
        f"{study.table(['mode', *(f't = {T}' for T in sorted(config.T))], fixed)}\n\n"
        f"Neurons that fire at once are read after every step of one run of {max(config.T)} steps, for which their "
        "thresholds are chosen. Those that wait for T steps have no answer before: without an exit they take one run "
        f"of T steps, with one they are run with T = {tried}, one after another, until the network is confident, and "
        "the steps of all runs made are counted. Steps are those of a layer; the study of methods tells how an answer "
        "comes through all of them."
    )


def _shown(row, config) -> list[int]:
    """Readings at the numbers of steps of the options."""
    return list(range(len(config.T))) if parse(row["mode"]).waits else [T - 1 for T in sorted(config.T)]


def _plot(rows, setup: Setup, config) -> Figure:
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


STUDY = Study(
    *("early_exit", "Exit by confidence: mean steps against accuracy", _records, _text, _plot),
    entries={"steps": list, "fixed": list, "exits": list},
)

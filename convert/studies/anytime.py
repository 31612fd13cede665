"""Table 11: accuracy after t of T steps, and an exit by confidence."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import convert
from convert.experiments import paper, plots
from convert.experiments.options import Experiment, checked
from convert.experiments.plots import Figure
from convert.experiments.setup import Setup, set_up
from convert.studies import study
from convert.studies.study import Section, Study
from tppjax.types import Array, Key


@dataclass(frozen=True)
class Anytime(Experiment):
    """Measure the accuracy of answers that are read after t of T steps of the last layer."""

    modes: tuple[str, ...] = ("baseline", "shuffle", "tpp")
    """Neurons, written as for convert.evaluate."""

    T: tuple[int, ...] = (4, 8, 16, 32)
    """Numbers of time steps of each layer; the answer is read after t of the T steps of the last layer."""

    exit: Literal["confidence"] | None = None
    """Stop for each image as soon as the network is confident, by a threshold chosen on training images, and measure
    mean steps against accuracy. Neurons that wait for all T steps are run with one T after another."""


def main(config: Anytime) -> Section:
    """Runs the study."""
    config = checked(config)
    setup = set_up(config, config.modes, trained=config.exit is not None)
    if config.exit:
        from convert.studies import early_exit  # which needs this module

        return early_exit.main(config, setup)

    def run(mode: str, T: int, seeds: int) -> dict:
        correct = study.over_seeds(_correct_after, setup.conversion.snn(T, mode), config, setup, traced=True)
        return {"accuracy": [study.percent(correct[:, :, t]) for t in range(T)]}

    return STUDY.run(config, setup, study.product(mode=config.modes, T=config.T, seeds=[config.seeds]), run)


def _correct_after(snn: convert.Snn, pixels: Array, labels: Array, index: Array, key: Key) -> jax.Array:
    """Whether the mean logits of the first t steps classify each example correctly, `[B, T]`."""
    logits = snn.trace(pixels, convert.example_keys(key, index)).logits
    return (jnp.cumsum(logits, axis=0).argmax(-1) == labels[None]).T


def _records(rows: list[dict], setup: Setup, config: Anytime) -> list[dict]:
    return [
        {"mode": r["mode"], "T": r["T"], "t": t, "seed": seed, "accuracy": value}
        for r in rows
        for t, values in enumerate(r["accuracy"], 1)
        for seed, value in enumerate(values)
    ]


def _text(rows: list[dict], setup: Setup, config: Anytime) -> str:
    steps = sorted({t for r in rows for t in range(1, r["T"] + 1) if (t & (t - 1)) == 0} | set(config.T))
    lines = [
        [f"`{r['mode']}`", r["T"], *(study.spread(r["accuracy"][t - 1]) if t <= r["T"] else None for t in steps)]
        for r in rows
    ]
    text = f"{study.about(setup, config.seeds)}\n\n" + study.table(["mode", "T", *(f"t = {t}" for t in steps)], lines)
    published = paper.tables()["anytime_after_permutation"]
    theirs = [["`baseline`", None, *_at(published, published["qcfs"]["baseline"], steps)]]
    theirs += [["`shuffle`", T, *_at(published, row, steps)] for T, row in published["qcfs"]["permute"].items()]
    return f"{text}\n\nThe paper's (table 11, {published['arch']} on {published['dataset']}, QCFS):\n\n" + study.table(
        ["mode", "T", *(f"t = {t}" for t in steps)], theirs
    )


def _at(published: dict, row: list[float | None], steps: Iterable[int]) -> Iterator[float | None]:
    """The accuracies of a row of the paper's table at these steps; None where it has none."""
    known = dict(zip(published["t"], row, strict=False))
    return (known.get(t) for t in steps)


def _plot(rows: list[dict], setup: Setup, config: Anytime) -> Figure:
    figure, latencies = plots.figure(), sorted({r["T"] for r in rows})
    axes = figure.subplots()
    plots.reference(axes, setup.accuracy)
    for r in rows:
        color, marker = plots.style(r["mode"])
        strength = 0.35 + 0.65 * (latencies.index(r["T"]) + 1) / len(latencies)
        t, mean = range(1, r["T"] + 1), np.mean(r["accuracy"], axis=1)
        label = r["mode"] if r["T"] == latencies[-1] else None
        axes.plot(t, mean, color=color, alpha=strength, linewidth=1.2, label=label)
        axes.plot(r["T"], mean[-1], color=color, alpha=strength, marker=marker, markersize=5)
    plots.steps_axis(axes, sorted({1, 2, *latencies}), "steps t read of the last layer; a mark where t = T")
    axes.set(ylabel="test accuracy (%)", title=str(setup))
    axes.legend(loc="lower right")
    return figure


STUDY = Study("anytime", "Accuracy after t of T steps (table 11)", _records, _text, _plot)

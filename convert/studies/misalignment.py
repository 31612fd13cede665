"""A measurement of the paper's explanation: how unevenly a neuron's input arrives over time, and what that costs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import convert
from convert.experiments import plots
from convert.experiments.options import Experiment, checked
from convert.experiments.plots import Figure
from convert.experiments.setup import Setup, set_up
from convert.studies import study
from convert.studies.study import Section, Study
from tppjax.neurons import Baseline, Neuron, in_thresholds, parse, simulate
from tppjax.types import Array, Key

MEASURES = ("unevenness", "early", "superfluous", "missing")


@dataclass(frozen=True)
class Misalignment(Experiment):
    """Measure how uneven the input of each layer is over time, and how many superfluous or missing spikes result."""

    modes: tuple[str, ...] = ("baseline", "shuffle", "tpp")
    """Neurons, written as for convert.evaluate."""

    T: tuple[int, ...] = (4, 8, 16)
    """Numbers of time steps."""


def main(config: Misalignment) -> Section:
    """Runs the study."""
    config = checked(config)
    setup = set_up(config, config.modes)

    def run(mode: str, T: int, seeds: int) -> dict:
        correct, measures = study.over_seeds(_outcome, setup.conversion.snn(T, mode), config, setup, traced=True)
        return {"accuracy": study.percent(correct), **jax.tree.map(lambda a: float(a.mean()), measures)}

    return STUDY.run(config, setup, study.product(mode=config.modes, T=config.T, seeds=[config.seeds]), run)


def _records(rows: list[dict], setup: Setup, config: Misalignment) -> list[dict]:
    return [
        {"mode": r["mode"], "T": r["T"], "site": site, **{name: r[name][site] for name in MEASURES}}
        for r in rows
        for site in setup.network.sites
    ]


def _outcome(snn: convert.Snn, pixels: Array, labels: Array, index: Array, key: Key) -> tuple[jax.Array, dict]:
    """For each example: whether it is classified correctly, `[B]`, and `{measure: {site: [B]}}`."""
    trace = snn.trace(pixels, convert.example_keys(key, index))
    network = snn.network
    neuron = Baseline().at(network.kinds)
    by_site = {
        name: unevenness(in_thresholds(x, network.theta(network.sites[name], x)), neuron)
        for name, x in trace.currents.items()
    }
    by_measure = {name: {site: by_site[site][name] for site in by_site} for name in MEASURES}
    return trace.logits.mean(axis=0).argmax(-1) == labels, by_measure


def unevenness(x: Float[Array, "T batch *shape"], neuron: Neuron) -> dict[str, Float[jax.Array, "batch"]]:
    """Measures of how uneven the input `x`, `[T, B, ...]` in thresholds, is over time; means over neurons, `[B]`.

    Returns:
      "unevenness": the largest difference, in thresholds, between the input up to a step and the same input spread
        evenly, `max_t |sum_{i<=t} x[i] - t/T sum_i x[i]|`;
      "early": the mean of that difference over the steps, with its sign: above 0 if the input arrives early;
      "superfluous", "missing": the spikes that the integrate-and-fire `neuron` fires in excess, or does not fire,
        compared with the same input spread evenly, in percent of the steps.
    """
    T = len(x)
    even = jnp.broadcast_to(x.mean(axis=0), x.shape)
    ahead = jnp.cumsum(x - even, axis=0)
    count, even_count = (simulate(neuron, i).sum(axis=0) for i in (x, even))
    measures = {
        "unevenness": jnp.abs(ahead).max(axis=0),
        "early": ahead.mean(axis=0),
        "superfluous": 100 / T * jnp.maximum(count - even_count, 0),
        "missing": 100 / T * jnp.maximum(even_count - count, 0),
    }
    return {name: value.reshape(len(value), -1).mean(axis=1) for name, value in measures.items()}


def _over_sites(row: dict, name: str) -> float:
    return float(np.mean(list(row[name].values())))


def _text(rows: list[dict], setup: Setup, config: Misalignment) -> str:
    lines = [
        [f"`{r['mode']}`", r["T"], *(f"{_over_sites(r, name):.3f}" for name in MEASURES), study.spread(r["accuracy"])]
        for r in rows
    ]
    header = ["", "T", "unevenness", "early", "superfluous (%)", "missing (%)", "accuracy (%)"]
    text = (
        f"{study.about(setup, config.seeds)} Measures of the input that reaches a neuron, mean over the layers' means. "
        "*Unevenness*: the largest difference, in thresholds, between the input up to a step and the same input spread "
        "evenly over the steps; *early*: the mean difference with its sign, above 0 if the input arrives too early; "
        "*superfluous* and *missing*: the spikes that an integrate-and-fire neuron fires in excess, or does not fire, "
        "because of it, in percent of the steps (a two-phase neuron, which waits, makes no such errors: its values "
        "are those of an integrate-and-fire neuron in its place).\n\n" + study.table(header, lines)
    )
    for T in config.T:
        at = {r["mode"]: r for r in rows if r["T"] == T}
        if {"baseline", "shuffle"} <= at.keys():
            wrong = [_over_sites(at[m], "superfluous") + _over_sites(at[m], "missing") for m in ("baseline", "shuffle")]
            gain = np.mean(at["shuffle"]["accuracy"]) - np.mean(at["baseline"]["accuracy"])
            text += (
                f"\n\nT = {T}: shuffling changes wrong spikes from {wrong[0]:.2f} to {wrong[1]:.2f} %, and accuracy by "
                f"{gain:+.1f} points."
            )
    middle = _middle(config)
    selected = [r for r in rows if r["T"] == middle]
    cells = (
        [s, *(f"{r['unevenness'][s]:.3f}, {r['superfluous'][s] + r['missing'][s]:.2f}" for r in selected)]
        for s in setup.network.sites
    )
    header = [f"T = {middle}: unevenness, wrong spikes (%)", *(f"`{r['mode']}`" for r in selected)]
    text += f"\n\nLayer by layer:\n\n{study.table(header, cells)}"
    return text


def _middle(config: Misalignment) -> int:
    steps = sorted(set(config.T))
    return steps[(len(steps) - 1) // 2]


def _plot(rows: list[dict], setup: Setup, config: Misalignment) -> Figure:
    figure, order = plots.figure(12, 4.6), list(setup.network.sites)
    uneven, wrong, cost = figure.subplots(1, 3)
    T = _middle(config)
    for r in rows:
        color, marker = plots.style(r["mode"])
        spikes = {s: r["superfluous"][s] + r["missing"][s] for s in order}
        if r["T"] == T:
            style = {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.2, "label": r["mode"]}
            uneven.plot([r["unevenness"][s] for s in order], **style)
            wrong.plot([spikes[s] for s in order], **style)
        if parse(r["mode"]).two_phase:
            continue  # neurons that read only the sum fire no wrong spikes
        label = r["mode"] if r["T"] == T else None
        x, y = np.mean(list(spikes.values())), setup.accuracy - np.mean(r["accuracy"])
        cost.scatter(x, y, color=color, marker=marker, label=label, zorder=3)
        cost.annotate(f"T={r['T']}", (x, y), textcoords="offset points", xytext=(5, 3), fontsize=7)
    uneven.set(ylabel="unevenness (thresholds)", title=f"how far the input strays from uniform, T = {T}")
    wrong.set(ylabel="wrong spikes (% of steps)", title=f"wrong spikes of integrate-and-fire neurons, T = {T}")
    for axes in (uneven, wrong):
        axes.set_ylim(bottom=0)
        plots.sites_axis(axes, order)
        axes.legend(fontsize=8)
    cost.set(xlabel="wrong spikes (% of steps), mean over layers", ylabel="accuracy below the ANN's (points)")
    cost.set_title("accuracy that they cost")
    cost.grid(alpha=0.3)
    if cost.collections:
        cost.legend(fontsize=8)
    figure.suptitle(str(setup))
    return figure


TITLE = "Temporal misalignment: how unevenly the input of a layer arrives (section 3, appendix G)"
STUDY = Study("misalignment", TITLE, _records, _text, _plot)

"""Figures 5 and 6, tables 8 to 10: spikes per layer; synaptic operations, and an energy estimate against the ANN."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import convert
from convert.energy import additions, multiply_adds
from convert.experiments import paper, plots
from convert.experiments.options import Experiment, checked
from convert.experiments.plots import Figure
from convert.experiments.setup import Setup, set_up
from convert.studies import study
from convert.studies.study import Section, Study
from tppjax.neurons import parse
from tppjax.types import Array, Key

MULTIPLY_ACCUMULATE, ACCUMULATE = 4.6, 0.9  # picojoules, float32 at 45 nm (Horowitz, ISSCC 2014)


@dataclass(frozen=True)
class Spikes(Experiment):
    """Count the spikes of every layer, and estimate their cost beside the accuracy."""

    modes: tuple[str, ...] = ("baseline", "tpp")
    """Neurons, written as for convert.evaluate; the others are compared with the first."""

    T: tuple[int, ...] = (4, 8, 16, 32)
    """Numbers of time steps."""


def main(config: Spikes) -> Section:
    """Runs the study."""
    config = checked(config)
    setup = set_up(config, config.modes)

    def run(mode: str, T: int, seeds: int) -> dict:
        correct, spikes, operations = study.over_seeds(outcome, setup.conversion.snn(T, mode), config, setup)
        means = {"spikes": spikes, "additions": operations}
        return {"accuracy": study.percent(correct), **jax.tree.map(lambda a: float(a.mean()), means)}

    return STUDY.run(config, setup, study.product(mode=config.modes, T=config.T, seeds=[config.seeds]), run)


def outcome(
    snn: convert.Snn, pixels: Array, labels: Array, index: Array, key: Key
) -> tuple[jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
    """For each example: whether it is classified correctly, spikes of each site, additions of each layer; `[B]`."""
    logits, counts = snn.activity(pixels, convert.example_keys(key, index))
    spikes = {site: count.reshape(len(count), -1).sum(axis=1) for site, count in counts.items()}
    return logits.argmax(-1) == labels, spikes, additions(snn.network, counts)


def energy(network: convert.Network, rows: list[dict]) -> dict[Any, Any]:
    """Operations and picojoules for one image: `{"ann": {...}, "analog": ..., (mode, T): {...}}`.

    Raises:
      InputError: if a layer takes the output of another one, with no site between.
    """
    macs, analog = multiply_adds(network)
    cost: dict[Any, Any] = {"ann": {"operations": macs, "energy": macs * MULTIPLY_ACCUMULATE}, "analog": analog}
    for r in rows:
        operations = sum(r["additions"].values())
        spent = picojoules(network, analog, r["mode"], r["T"], operations)
        cost[r["mode"], r["T"]] = {"operations": operations, "energy": spent}
    return cost


def picojoules(network: convert.Network, analog: float, mode: str, T: int, additions: float) -> float:
    """The energy of an SNN for one image, or for a recording.

    Args:
      network: the network, whose preprocessing has the number of frames of a recording.
      analog: multiply-adds of the layers that take pixels. Two-phase neurons need them once, for the mean of the
        frames; other neurons need them for each frame, but not more than T times.
      mode: the neurons.
      T: number of time steps.
      additions: number of additions for spikes.
    """
    frames = (network.preprocessing and network.preprocessing.frames) or 1
    times = 1 if parse(mode).two_phase else min(frames, T)
    return times * analog * MULTIPLY_ACCUMULATE + additions * ACCUMULATE


def difference(rows: list[dict], sites: Iterable[str], mode: str, reference: str) -> dict[int, list[float]]:
    """`{T: [percent for each site]}`: (mode - reference) / reference, as in tables 8 to 10."""
    of = {(r["mode"], r["T"]): np.array([r["spikes"][site] for site in sites]) for r in rows}
    steps = [T for m, T in of if m == mode]
    with np.errstate(divide="ignore", invalid="ignore"):  # a site may be silent
        return {T: (100 * (of[mode, T] - of[reference, T]) / of[reference, T]).tolist() for T in steps}


def _neurons(setup: Setup) -> dict[str, int]:
    """The number of neurons of each site, in the order in which they run."""
    return {name: int(np.prod(site.shape)) for name, site in setup.network.sites.items()}


def _records(rows: list[dict], setup: Setup, config: Spikes) -> list[dict]:
    return [
        {"mode": r["mode"], "T": r["T"], "site": site, "neurons": n, "spikes_per_image": r["spikes"][site]}
        for r in rows
        for site, n in _neurons(setup).items()
    ]


def _text(rows: list[dict], setup: Setup, config: Spikes) -> str:
    neurons, cost = _neurons(setup), energy(setup.network, rows)
    total = sum(neurons.values())
    whole = cost["ann"]
    lines = [["ANN", None, None, f"{whole['operations'] / 1e6:.2f} (multiply-adds)", f"{whole['energy'] / 1e6:.1f}", 1,
              f"{setup.accuracy:.2f}"]]  # fmt: skip
    for r in rows:
        spent = cost[r["mode"], r["T"]]
        lines.append([
            f"`{r['mode']}`", r["T"], f"{sum(r['spikes'].values()) / total:.2f}", f"{spent['operations'] / 1e6:.2f}",
            f"{spent['energy'] / 1e6:.1f}", f"{spent['energy'] / whole['energy']:.2f}",
            study.spread(r["accuracy"]),
        ])  # fmt: skip
    header = ["", "T", "spikes per neuron", "additions (M)", "energy (µJ)", "share of ANN's energy", "accuracy (%)"]
    text = (
        f"{study.about(setup, config.seeds)} {total:,} neurons. For one image:\n\n{study.table(header, lines)}\n\n"
        f"Energy: {MULTIPLY_ACCUMULATE} pJ for a multiply-add, {ACCUMULATE} pJ for an addition (float32, 45 nm; "
        f"Horowitz, ISSCC 2014). The first layer, {cost['analog'] / 1e6:.2f} M multiply-adds, takes pixels and is "
        "computed once; in recordings, neurons that are not two-phase need it for each frame. A spike that passes an "
        "average pool of k x k counts as 1/k^2 addition, as if the pool were computed first. Memory, biases, the "
        "neurons themselves, random numbers and shortcuts without weights are not counted. These are the field's "
        "assumptions, not measurements; where data must be moved they can be far off."
    )
    reference, *others = config.modes
    for mode in others:
        differ = difference(rows, neurons, mode, reference)
        header = [f"spikes, `{mode}` against `{reference}` (%)", *(f"T = {T}" for T in differ)]
        by_site = zip(neurons, *differ.values(), strict=True)
        text += "\n\n" + study.table(header, ([site, *(f"{d:+.2f}" for d in values)] for site, *values in by_site))
    ranges = [
        f"{min(flat):+.1f} to {max(flat):+.1f} % on {t['arch']}, {t['dataset']} (table {t['table']})"
        for t in paper.tables()["spike_count_percent_difference"]
        for flat in [[value for layer in t["layers"] for value in layer]]
    ]
    return text + f"\n\nIn the paper, at T = 4 to 128, `tpp` differs from the QCFS baseline by {'; '.join(ranges)}."


def _plot(rows: list[dict], setup: Setup, config: Spikes) -> Figure:
    neurons, cost = _neurons(setup), energy(setup.network, rows)
    figure = plots.figure(12, 4.6)
    layers, differences, bought = figure.subplots(1, 3)
    latencies, modes = sorted({r["T"] for r in rows}), list(dict.fromkeys(r["mode"] for r in rows))
    size = np.array(list(neurons.values()))
    strength = {T: 0.3 + 0.7 * (i + 1) / len(latencies) for i, T in enumerate(latencies)}
    for r in rows:
        color, marker = plots.style(r["mode"])
        label = r["mode"] if r["T"] == latencies[-1] else None
        per_neuron = np.array([r["spikes"][site] for site in neurons]) / size
        style = {"color": color, "alpha": strength[r["T"]], "linewidth": 1.2}
        layers.plot(per_neuron, marker=marker, markersize=3, label=label, **style)
    layers.set_yscale("log", base=2)
    layers.set(ylabel="spikes per neuron and image", title=f"T = {', '.join(map(str, latencies))} (paler is shorter)")
    layers.legend(fontsize=8)
    for mode in modes[1:]:
        for T, values in difference(rows, neurons, mode, modes[0]).items():
            color, marker = plots.style(mode)
            differences.plot(values, color=color, marker=marker, markersize=3, alpha=strength[T], linewidth=1.2)
    differences.axhline(0, color=plots.style(modes[0])[0], linewidth=1)
    differences.set(ylabel=f"spikes against {modes[0]} (%)", title="difference, layer by layer")
    for axes in (layers, differences):
        plots.sites_axis(axes, list(neurons))
    plots.reference(bought, setup.accuracy)
    for mode in modes:
        color, marker = plots.style(mode)
        points = [
            (cost[mode, r["T"]]["energy"] / 1e6, np.mean(r["accuracy"]), r["T"]) for r in rows if r["mode"] == mode
        ]
        bought.plot([x for x, *_ in points], [y for _, y, _ in points], color=color, marker=marker, label=mode)
        for x, y, T in points:
            bought.annotate(f"T={T}", (x, y), textcoords="offset points", xytext=(4, -9), fontsize=7)
    bought.axvline(cost["ann"]["energy"] / 1e6, color="black", linestyle=":", linewidth=1, label="ANN's energy")
    bought.set_xscale("log", base=2)
    bought.set(xlabel="energy of an image (µJ, estimate)", ylabel="test accuracy (%)", title="accuracy for this energy")
    bought.grid(alpha=0.3)
    bought.legend(loc="lower right", fontsize=8)
    figure.suptitle(str(setup))
    return figure


TITLE = "Spikes, synaptic operations and energy (figures 5 and 6, tables 8 to 10)"
STUDY = Study("spikes", TITLE, _records, _text, _plot)

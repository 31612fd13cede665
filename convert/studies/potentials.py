"""Figures 4 and 7 to 10: the membrane potential before firing."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

import convert
from convert.experiments import plots
from convert.experiments.options import Experiment, checked
from convert.experiments.plots import Figure
from convert.experiments.setup import Setup, set_up
from convert.studies import study
from convert.studies.study import Section, Study
from tppjax.errors import InputError
from tppjax.neurons import in_thresholds, parse

EDGES = np.linspace(-4.0, 4.0, 81)  # thresholds; what lies beyond is counted in the outermost bins


@dataclass(frozen=True)
class Potentials(Experiment):
    """Histograms of the membrane potential before firing, in thresholds, at chosen steps and layers."""

    modes: tuple[str, ...] = ("baseline", "shuffle", "tpp")
    """Neurons, as convert.evaluate has them."""

    T: int = 8
    """Time steps."""

    steps: tuple[int, ...] | None = None
    """Steps to look at, counted from 1 [default: 1, 2, 4, 8, ... up to T]."""

    sites: tuple[str, ...] = ()
    """Layers to look at [default: four, spread evenly]."""

    channel: int | None = None
    """Look at this channel only, as the paper does [default: all neurons]."""


def main(config: Potentials) -> Section:
    """Runs the study.

    Raises:
      InputError: on a step, layer or channel that is not there.
    """
    config = checked(config)
    if config.steps is None:
        config = replace(config, steps=tuple(2**i for i in range(config.T.bit_length())))
    if not config.steps or not all(1 <= t <= config.T for t in config.steps):
        raise InputError(f"--steps lie between 1 and --T {config.T}; got {config.steps}")
    setup = set_up(config, config.modes)
    for mode in config.modes:
        neuron = parse(mode)
        if not neuron.two_phase and np.shape(neuron.potential(neuron.init((1,), config.T))) != (1,):
            raise InputError(f"{mode} has no potential to show: give its class a method potential(state)")
    config = replace(config, sites=tuple(_sites(setup.network, config)))
    outcome = _Outcome(config.sites, config.steps, config.channel)

    def run(mode, T, seeds):
        correct, counts = study.over_seeds(outcome, setup.conversion.snn(T, mode), config, setup, traced=True)
        return {
            "accuracy": study.percent(correct),
            "counts": {s: np.sum(counts[s], axis=(0, 1)).tolist() for s in config.sites},
        }

    settings = {"sites": list(config.sites), "steps": config.steps, "channel": config.channel, "edges": EDGES.tolist()}
    cases = study.product(mode=config.modes, T=[config.T], seeds=[config.seeds])
    return STUDY.run(config, setup, cases, run, **settings)


def _records(rows, setup: Setup, config: Potentials) -> list[dict]:
    return [
        {"mode": r["mode"], "site": site, "t": t, "from": low, "to": high, "neurons": n}
        for r in rows
        for site in config.sites
        for t, counts in zip(config.steps, r["counts"][site], strict=True)
        for low, high, n in zip(EDGES[:-1].round(6), EDGES[1:].round(6), counts, strict=True)
    ]


def _sites(network, config: Potentials) -> list[str]:
    known = network.sites
    if unknown := set(config.sites) - known.keys():
        raise InputError(f"--sites {', '.join(sorted(unknown))}: no such layers; known: {', '.join(known)}")
    spread = [list(known)[i] for i in sorted({round(i) for i in np.linspace(0, len(known) - 1, 4)})]
    chosen = list(config.sites) or spread
    channels = {site: known[site].channels for site in chosen}
    if config.channel is not None and not all(0 <= config.channel < n for n in channels.values()):
        raise InputError(f"--channel {config.channel}: not in every layer; they have {channels}")
    return chosen


@dataclass(frozen=True)
class _Outcome:
    """Of each example: whether it is named rightly, `[B]`, and histograms `{site: [B, steps, bins]}`."""

    sites: tuple[str, ...]
    steps: tuple[int, ...]
    channel: int | None

    def __call__(self, snn, pixels, labels, index, key):
        trace = snn.trace(pixels, convert.example_keys(key, index))
        network, at = snn.network, np.array(self.steps) - 1
        counts = {}
        for site in self.sites:
            v, axis = trace.potentials[site][at], network.sites[site].axis
            u = in_thresholds(v, network.theta(network.sites[site], v))
            u = u if self.channel is None or axis is None else jnp.take(u, self.channel, axis + 2)
            counts[site] = jax.vmap(jax.vmap(_histogram), in_axes=1)(u)
        return trace.logits.mean(axis=0).argmax(-1) == labels, counts


def _histogram(u):
    """How many potentials lie in each bin, a neuron on an edge in the upper one."""
    width = EDGES[1] - EDGES[0]
    bins = jnp.clip(jnp.floor((u - EDGES[0]) / width + 1e-4), 0, len(EDGES) - 2).astype(jnp.int32)
    return jnp.bincount(bins.ravel(), length=len(EDGES) - 1)


def _moments(counts) -> tuple[float, float, float]:
    """Mean and std of the potential, and the share of neurons that reach the threshold."""
    counts, middle = np.asarray(counts, float), (EDGES[:-1] + EDGES[1:]) / 2
    mean = np.average(middle, weights=counts)
    return mean, np.sqrt(np.average((middle - mean) ** 2, weights=counts)), counts[middle > 1].sum() / counts.sum()


def _text(rows, setup: Setup, config: Potentials) -> str:
    lines = []
    for site in config.sites:
        for t, *counts in zip(config.steps, *(r["counts"][site] for r in rows), strict=True):
            cells = [f"{mean:+.2f} ± {std:.2f}, {above:.1%}" for mean, std, above in map(_moments, counts)]
            lines.append([site, t, *cells])
    whose = "all neurons" if config.channel is None else f"channel {config.channel}"
    accuracies = ", ".join(f"`{r['mode']}` {study.spread(r['accuracy'])} %" for r in rows)
    return (
        f"{study.about(setup, config.seeds)} T = {config.T}, {whose}; accuracy {accuracies}. Mean and std of the "
        "potential in thresholds (what lies beyond -4 and 4 counted there), and the share of neurons that reach the "
        f"threshold, before firing at step t. Two-phase neurons begin with all that they have accumulated.\n\n"
    ) + study.table(["layer", "t", *(f"`{r['mode']}`" for r in rows)], lines)


def _plot(rows, setup: Setup, config: Potentials) -> Figure:
    figure = plots.figure(2.6 * len(config.steps) + 1, 1.9 * len(config.sites) + 0.8)
    grid = figure.subplots(len(config.sites), len(config.steps), sharex=True, squeeze=False)
    for axes, site in zip(grid, config.sites, strict=True):
        for i, (ax, t) in enumerate(zip(axes, config.steps, strict=True)):
            for r in rows:
                share = 100 * np.array(r["counts"][site][i]) / np.sum(r["counts"][site][i])
                wide = 2.4 if r["mode"] == "baseline" else 1.1  # often hidden by shuffle
                ax.stairs(share, EDGES, color=plots.style(r["mode"])[0], linewidth=wide, label=r["mode"])
            ax.axvline(1, color="black", linestyle="--", linewidth=1, label="threshold")
            ax.set_yscale("log")
            ax.set_ylim(0.01, 100)
            ax.grid(alpha=0.3)
            ax.set_title(f"{site}, t = {t}", fontsize=8)
        axes[0].set_ylabel("neurons (%)")
    for ax in grid[-1]:
        ax.set_xlabel("potential (thresholds)")
    grid[0, 0].legend(fontsize=7)
    figure.suptitle(f"{setup}, T = {config.T}")
    return figure


STUDY = Study(
    *("potentials", "Membrane potential before firing (figures 4 and 7 to 10)", _records, _text, _plot),
    entries={"accuracy": list, "counts": dict},
)

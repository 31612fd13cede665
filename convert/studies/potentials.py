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
from tppjax.neurons import Delayed, OnePhase, in_thresholds, parse
from tppjax.types import Array, Key

EDGES = np.linspace(-4.0, 4.0, 81)  # in thresholds; values beyond are counted in the outermost bins


@dataclass(frozen=True)
class Potentials(Experiment):
    """Make histograms of the membrane potential before firing, in thresholds, at some steps and layers."""

    modes: tuple[str, ...] = ("baseline", "shuffle", "tpp")
    """Neurons, written as for convert.evaluate."""

    T: int = 8
    """Number of time steps."""

    steps: tuple[int, ...] | None = None
    """Steps of the histograms, counted from 1 [default: 1, 2, 4, 8, ... up to T]."""

    sites: tuple[str, ...] = ()
    """Layers of the histograms [default: four, spread evenly]."""

    channel: int | None = None
    """Use only this channel, as the paper does [default: all neurons]."""


def main(config: Potentials) -> Section:
    """Runs the study.

    Raises:
      InputError: on a step, layer or channel that does not exist.
    """
    config = checked(config)
    steps = _steps(config)
    if not steps or not all(1 <= t <= config.T for t in steps):
        raise InputError(f"--steps lie between 1 and --T {config.T}; got {steps}")
    setup = set_up(config, config.modes)
    for mode in config.modes:
        if not _has_potential(mode, config.T):
            raise InputError(f"{mode} has no potential to show: give its class a method potential(state)")
    config = replace(config, sites=tuple(_sites(setup.network, config)))
    outcome = _Outcome(config.sites, steps, config.channel)

    def run(mode: str, T: int, seeds: int) -> dict:
        correct, counts = study.over_seeds(outcome, setup.conversion.snn(T, mode), config, setup, traced=True)
        return {
            "accuracy": study.percent(correct),
            "counts": {s: np.sum(counts[s], axis=(0, 1)).tolist() for s in config.sites},
        }

    settings = {"sites": list(config.sites), "steps": steps, "channel": config.channel, "edges": EDGES.tolist()}
    cases = study.product(mode=config.modes, T=[config.T], seeds=[config.seeds])
    return STUDY.run(config, setup, cases, run, **settings)


def _steps(config: Potentials) -> tuple[int, ...]:
    """The steps of the histograms, counted from 1."""
    return tuple(2**i for i in range(config.T.bit_length())) if config.steps is None else config.steps


def _has_potential(mode: str, T: int) -> bool:
    """Whether the neurons show a potential: all of two phases do, others if their state has one."""
    neuron = parse(mode)
    if neuron.two_phase:
        return True
    assert isinstance(neuron, OnePhase | Delayed)
    potential = neuron.potential(neuron.init((1,), T))
    return potential is not None and np.shape(potential) == (1,)


def _records(rows: list[dict], setup: Setup, config: Potentials) -> list[dict]:
    return [
        {"mode": r["mode"], "site": site, "t": t, "from": low, "to": high, "neurons": n}
        for r in rows
        for site in config.sites
        for t, counts in zip(_steps(config), r["counts"][site], strict=True)
        for low, high, n in zip(EDGES[:-1].round(6), EDGES[1:].round(6), counts, strict=True)
    ]


def _sites(network: convert.Network, config: Potentials) -> list[str]:
    known = network.sites
    if unknown := set(config.sites) - known.keys():
        raise InputError(f"--sites {', '.join(sorted(unknown))}: no such layers; known: {', '.join(known)}")
    spread = [list(known)[i] for i in sorted({round(i) for i in np.linspace(0, len(known) - 1, 4)})]
    sites = list(config.sites) or spread
    channels = {site: known[site].channels for site in sites}
    if config.channel is not None and not all(0 <= config.channel < n for n in channels.values()):
        raise InputError(f"--channel {config.channel}: not in every layer; they have {channels}")
    return sites


@dataclass(frozen=True)
class _Outcome:
    """For each example: whether it is classified correctly, `[B]`, and histograms `{site: [B, steps, bins]}`."""

    sites: tuple[str, ...]
    steps: tuple[int, ...]
    channel: int | None

    def __call__(
        self, snn: convert.Snn, pixels: Array, labels: Array, index: Array, key: Key
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        trace = snn.trace(pixels, convert.example_keys(key, index))
        network, at = snn.network, np.array(self.steps) - 1
        counts = {}
        for site in self.sites:
            v, axis = trace.potentials[site][at], network.sites[site].axis
            u = in_thresholds(v, network.theta(network.sites[site], v))
            u = u if self.channel is None or axis is None else jnp.take(u, self.channel, axis + 2)
            counts[site] = jax.vmap(jax.vmap(_histogram), in_axes=1)(u)
        return trace.logits.mean(axis=0).argmax(-1) == labels, counts


def _histogram(u: jax.Array) -> jax.Array:
    """The number of potentials in each bin; one on an edge belongs to the upper bin."""
    width = EDGES[1] - EDGES[0]
    bins = jnp.clip(jnp.floor((u - EDGES[0]) / width + 1e-4), 0, len(EDGES) - 2).astype(jnp.int32)
    return jnp.bincount(bins.ravel(), length=len(EDGES) - 1)


def _moments(histogram: list[int]) -> tuple[float, float, float]:
    """Mean and std of the potential, and the share of neurons that reach the threshold."""
    counts, middle = np.asarray(histogram, float), (EDGES[:-1] + EDGES[1:]) / 2
    mean = np.average(middle, weights=counts)
    std = np.sqrt(np.average((middle - mean) ** 2, weights=counts))
    return float(mean), float(std), float(counts[middle > 1].sum() / counts.sum())


def _text(rows: list[dict], setup: Setup, config: Potentials) -> str:
    lines = []
    for site in config.sites:
        for t, *counts in zip(_steps(config), *(r["counts"][site] for r in rows), strict=True):
            cells = [f"{mean:+.2f} ± {std:.2f}, {above:.1%}" for mean, std, above in map(_moments, counts)]
            lines.append([site, t, *cells])
    neurons = "all neurons" if config.channel is None else f"channel {config.channel}"
    accuracies = ", ".join(f"`{r['mode']}` {study.spread(r['accuracy'])} %" for r in rows)
    return (
        f"{study.about(setup, config.seeds)} T = {config.T}, {neurons}; accuracy {accuracies}. Mean and std of the "
        "potential in thresholds (values beyond -4 and 4 are counted there), and the share of neurons that reach the "
        "threshold, before firing at step t. Two-phase neurons begin with all that they have accumulated.\n\n"
    ) + study.table(["layer", "t", *(f"`{r['mode']}`" for r in rows)], lines)


def _plot(rows: list[dict], setup: Setup, config: Potentials) -> Figure:
    steps = _steps(config)
    figure = plots.figure(2.6 * len(steps) + 1, 1.9 * len(config.sites) + 0.8)
    grid = figure.subplots(len(config.sites), len(steps), sharex=True, squeeze=False)
    for axes, site in zip(grid, config.sites, strict=True):
        for i, (ax, t) in enumerate(zip(axes, steps, strict=True)):
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


STUDY = Study("potentials", "Membrane potential before firing (figures 4 and 7 to 10)", _records, _text, _plot)

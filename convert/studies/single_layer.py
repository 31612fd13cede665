"""Figures 13 and 14: the spikes of one layer shuffled, all others left in order."""

from dataclasses import dataclass

import numpy as np

from convert import evaluate
from convert.experiments import plots
from convert.experiments.options import Experiment, checked
from convert.experiments.plots import Figure
from convert.experiments.setup import Setup, set_up
from convert.studies import study
from convert.studies.study import Section, Study
from tppjax.neurons import Neuron


@dataclass(frozen=True)
class SingleLayer(Experiment):
    """Measure accuracy with baseline neurons at every layer but one, to find the layers where a rearrangement helps."""

    mode: str = "shuffle"
    """Neurons of the one layer; thresholds are chosen for baseline at all layers."""

    T: int = 4
    """Number of time steps."""


def main(config: SingleLayer) -> Section:
    """Runs the study."""
    config = checked(config)
    setup = set_up(config, ("baseline", config.mode))
    order = list(setup.network.sites)

    def run(site: str, mode: str, T: int, seeds: int) -> dict:
        one_site: dict[str, str | Neuron] = {name: mode if name == site else "baseline" for name in order}
        at = {"no layer": "baseline", "all layers": mode}.get(site, one_site)
        row = evaluate.row(setup.conversion.snn(T, at, prepared_for="baseline"), setup.images, seeds, config.batch_size)
        return {"accuracy": row["accuracy"]}

    sites = ["no layer", *order, "all layers"]
    cases = study.product(site=sites, mode=[config.mode], T=[config.T], seeds=[config.seeds])
    return STUDY.run(config, setup, cases, run)


def _records(rows: list[dict], setup: Setup, config: SingleLayer) -> list[dict]:
    return [
        {"site": r["site"], "mode": r["mode"], "T": r["T"], "seed": seed, "accuracy": value}
        for r in rows
        for seed, value in enumerate(r["accuracy"])
    ]


def gains(rows: list[dict]) -> dict[str, float]:
    """The gain of each site over no layer, in percentage points."""
    none, *single, _ = rows
    return {r["site"]: float(np.mean(r["accuracy"]) - np.mean(none["accuracy"])) for r in single}


def _text(rows: list[dict], setup: Setup, config: SingleLayer) -> str:
    none, *single, everywhere = rows
    gained = gains(rows)
    best = sorted(gained, key=lambda site: gained[site], reverse=True)[:3]
    worst = min(gained, key=lambda site: gained[site])
    whole = np.mean(everywhere["accuracy"]) - np.mean(none["accuracy"])
    lines = [
        [r["site"], study.spread(r["accuracy"]), f"{gained[r['site']]:+.2f}" if r["site"] in gained else None]
        for r in rows
    ]
    harmed = sum(value < 0 for value in gained.values())
    return (
        f"{study.about(setup, config.seeds)}\n\n`{config.mode}` at one layer, T = {config.T}: it gains most at "
        + ", ".join(f"{site} ({gained[site]:+.2f})" for site in best)
        + f", and least at {worst} ({gained[worst]:+.2f}); it is below baseline at {harmed} of {len(single)} layers. "
        f"At all layers it gains {whole:+.2f} points; the gains of single layers add up to "
        f"{sum(gained.values()):+.2f}."
        + " The order of the last layer cannot matter: its logits are a mean over the steps."
        * (config.mode == "shuffle")
        + "\n\n"
        + study.table([f"`{config.mode}` at", "accuracy (%)", "gain (points)"], lines)
    )


def _plot(rows: list[dict], setup: Setup, config: SingleLayer) -> Figure:
    none, *single, everywhere = rows
    figure = plots.figure(8.5)
    axes = figure.subplots()
    color, baseline = plots.style(config.mode)[0], plots.style("baseline")[0]
    accuracies = np.array([r["accuracy"] for r in single])
    mean, std = accuracies.mean(axis=1), accuracies.std(axis=1, ddof=1) if accuracies.shape[1] > 1 else None
    bottom = np.mean(none["accuracy"])
    axes.bar(range(len(single)), mean - bottom, bottom=bottom, yerr=std, color=color, ecolor="0.3", capsize=2)
    axes.axhline(bottom, color=baseline, linewidth=1.2, label=f"no layer: baseline, {bottom:.2f} %")
    whole = np.mean(everywhere["accuracy"])
    axes.axhline(whole, color=color, linestyle=":", linewidth=1.5, label=f"{config.mode} at all layers, {whole:.2f} %")
    plots.reference(axes, setup.accuracy)
    plots.sites_axis(axes, [r["site"] for r in single])
    axes.set(ylabel="test accuracy (%)", title=f"{setup}\n{config.mode} at one layer, T = {config.T}")
    axes.legend(fontsize=8)
    return figure


STUDY = Study("single_layer", "One layer at a time (figures 13 and 14)", _records, _text, _plot)

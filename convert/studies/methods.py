"""The field's methods on one network: accuracy against steps, against latency, and against spikes and energy."""

import re
from dataclasses import dataclass

import jax
import numpy as np

from convert import evaluate
from convert.correction import check_correction, check_method
from convert.energy import multiply_adds
from convert.experiments import paper, plots
from convert.experiments.options import Experiment, checked
from convert.experiments.plots import Figure
from convert.experiments.setup import Setup, set_up
from convert.studies import spikes, study
from convert.studies.study import Section, Study
from tppjax.errors import InputError, check_number
from tppjax.neurons import parse

METHODS = (
    *("baseline(v_init=0)", "baseline(v_init=0.5)", "shuffle", "snm", "snm(v_init=0.5)"),
    *("burst(gamma=2)", "burst", "burst(v_init=0.5)", "srp"),
    *("baseline+rates", "baseline+potential", "baseline+steps"),
    *("tpp", "unbiased", "rounded", "rounded+weights", "graded", "graded+weights"),
)
AUTHORS = {
    "baseline": "QCFS, ICLR 2022, for its networks; RTS, ICLR 2021, and SNNC, ICML 2021, for others",
    "baseline(v_init=0)": "integrate-and-fire",
    "baseline(v_init=0.5)": "OPI, AAAI 2022; QCFS, ICLR 2022",
    "baseline(shift=0.5)": "RTS, ICLR 2021; SNNC, ICML 2021",
    "baseline+rates": "SNNC, light, ICML 2021",
    "baseline+potential": "SNNC, advanced, ICML 2021",
    "baseline+steps": "FTBC, ECCV 2024",
    "snm": "SNM, IJCAI 2022",
    "burst": "burst spikes, IJCAI 2022",
    "srp": "SRP, AAAI 2023",
    "tpp": "the paper, ICML 2025",
    "shuffle": "the paper, ICML 2025",
}
ACROSS = {"T": "time steps T", "latency": "steps from image to answer", "energy": "energy, share of the ANN's"}


@dataclass(frozen=True)
class Methods(Experiment):
    """Compare methods of conversion on the same weights and images, each with thresholds for its own neuron and T."""

    methods: tuple[str, ...] = METHODS
    """Neurons, written as for --modes of convert.evaluate, each with its correction after a plus, if any:
    baseline+steps is FTBC, baseline+rates SNNC."""

    T: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Numbers of time steps."""

    limit_stepped: int | None = 1000
    """Number of test images for methods that have to run step by step."""


def main(config: Methods) -> Section:
    """Runs the study.

    Raises:
      InputError: if a method is unknown, or --correct is given.
    """
    if not config.methods:
        raise InputError("--methods needs at least one entry")
    methods = {method: _parts(method) for method in config.methods}
    if config.correct:
        raise InputError("--correct is not for all methods here: name what is to be corrected, as in baseline+steps")
    if config.limit_stepped is not None:
        check_number("--limit_stepped", config.limit_stepped, 1)
    config = checked(config)
    setup = _set_up(config, list(methods.values()))

    def run(method: str, T: int, seeds: int, n: int) -> dict:
        mode, correction = methods[method]
        part, snn = parts[n], setup.conversion.snn(T, mode, correct=correction)
        correct, counts, operations = study.over_seeds(spikes.outcome, snn, config, part)
        neurons = sum(np.prod(site.shape) for site in snn.network.sites.values())
        means = jax.tree.map(lambda a: float(a.mean()), (counts, operations))
        print(f"{method} T={T}: {100 * correct.mean():.2f} % (ANN {part.accuracy:.2f})", flush=True)
        return {
            "accuracy": study.percent(correct),
            "ann": part.accuracy,
            "latency": snn.latency,
            "spikes_per_neuron": sum(means[0].values()) / float(neurons),
            "additions": sum(means[1].values()),
            "history": list(snn.network.history),
        }

    images = {True: len(setup.images), False: min(len(setup.images), config.limit_stepped or len(setup.images))}
    parts = {n: setup.with_images(setup.images[:n]) for n in images.values()}
    cases = [
        {"method": method, "T": T, "seeds": config.seeds, "n": images[parse(mode).two_phase]}
        for method, (mode, _) in methods.items()
        for T in config.T
    ]
    return STUDY.run(config, setup, cases, run)


def _records(rows: list[dict], setup: Setup, config: Methods) -> list[dict]:
    """For each row: accuracy over seeds, points lost to the ANN, bits per step, and energy as a share of the ANN's."""
    macs, analog = multiply_adds(setup.network)
    of_ann = macs * spikes.MULTIPLY_ACCUMULATE
    return [
        {
            **{name: r[name] for name in ("method", "T", "latency", "n", "ann", "spikes_per_neuron")},
            "accuracy": (accuracy := float(np.mean(r["accuracy"]))),
            "std": float(np.std(r["accuracy"], ddof=1)) if len(r["accuracy"]) > 1 else None,
            "lost": r["ann"] - accuracy,
            "bits": parse(mode := _parts(r["method"])[0]).bits,
            "energy": spikes.picojoules(setup.network, analog, mode, r["T"], r["additions"]) / of_ann,
        }
        for r in rows
    ]


def _set_up(config: Methods, methods: list[tuple[str, str | None]]) -> Setup:
    """The setup, if the network can be converted to all modes and corrected by all methods."""
    setup = set_up(config, tuple(mode for mode, _ in methods), trained=True)
    for mode, correction in methods:
        if correction:
            check_correction(correction, setup.network, [parse(mode)])
    return setup


def _parts(method: str) -> tuple[str, str | None]:
    """The mode and the correction of a method."""
    match = re.fullmatch(r"(.*?)(?:\+(\w+))?", method, re.DOTALL)
    assert match is not None  # the pattern fits any text
    mode, correction = match.groups()
    neuron = parse(mode)
    if correction:
        check_method(correction, [neuron])
    return str(neuron), correction


def _authors(method: str) -> str:
    """The publication of the method, whatever the fields of its neuron."""
    name = re.sub(r"\(.*\)", "", method)
    return AUTHORS.get(method) or AUTHORS.get(name) or ("your own" if ":" in name else "ours")


LATENCY = (
    "A one-phase neuron fires in the step in which its input arrives, so a network of such neurons answers after T "
    "steps; SRP's neurons need tau steps more. All other neurons wait for T steps of the layer before them: n such "
    "layers in a row give the first answer after (n + 1) T steps, and a further one every T steps. A step of more than "
    "one bit carries more than a binary step, so equal T does not mean equal information. A spike of k counts as k "
    "additions, a spike of -1 as one. Energy is estimated as in the study of spikes."
)


def _text(rows: list[dict], setup: Setup, config: Methods) -> str:
    rows, published = _records(rows, setup, config), evaluate.published(setup)
    steps = sorted({r["T"] for r in rows})
    lines, costs = [], []
    for method in dict.fromkeys(r["method"] for r in rows):
        ours = [r for T in steps for r in rows if (r["method"], r["T"]) == (method, T)]
        lost = (f"{r['lost']:.2f}" + ("" if r["std"] is None else f" ({r['std']:.2f})") for r in ours)
        lines.append([f"`{method}`", _authors(method), f"{ours[0]['bits']:.2g}", ours[0]["n"], *lost])
        for row in published.get(method, ()):
            cells = (_lost_in_paper(row, T) for T in steps)
            lines.append([f"the paper's, {paper.source(row)}", None, None, None, *cells])
        costs.append([f"`{method}`", *(r["latency"] for r in ours), *(f"{r['energy']:.2f}" for r in ours)])
    losses = study.table(["method", "source", "bits per step", "images", *(f"T = {T}" for T in steps)], lines)
    header = [f"{quantity}, T = {T}" for quantity in ("latency", "energy") for T in steps]
    return (
        f"{study.about(setup, config.seeds)} Corrections, and thresholds that were not trained, are computed on "
        "training images for each method and T, by the same rule. The first table shows the points of accuracy lost "
        "to the ANN on the same images, mean (std):\n\n"
        f"{losses}\n\nThe second table shows the latency (steps from an image to its answer) and the energy of an "
        "image as a share of the ANN's:\n\n"
        f"{study.table(['', *header], costs)}\n\n{_first_within(rows, 1.0)} {_first_within(rows, 0.3)}\n\n{LATENCY}"
    )


def _lost_in_paper(row: dict, T: int) -> str | None:
    known = row["ann"] is not None and T in row["accuracy"]
    return f"{row['ann'] - row['accuracy'][T]:.2f}" if known else None


def _first_within(rows: list[dict], points: float) -> str:
    """A sentence that lists the methods that lose at most so many points, by latency."""
    first: dict[str, dict] = {}
    for r in sorted(rows, key=lambda r: r["latency"]):
        if r["lost"] <= points:
            first.setdefault(r["method"], r)
    within = sorted(first.values(), key=lambda r: r["latency"])
    listed = ", ".join(f"`{r['method']}` in {r['latency']} (T = {r['T']}, energy {r['energy']:.2f})" for r in within)
    limit = f"{points:g} point{'s' * (points != 1)}"
    return f"The least latency at which a method loses at most {limit}: {listed or 'no method does'}."


def _plot(rows: list[dict], setup: Setup, config: Methods) -> Figure:
    rows, figure = _records(rows, setup, config), plots.figure(14, 5.2)
    axes = figure.subplots(1, 3, sharey=True)
    names = list(dict.fromkeys(r["method"] for r in rows))
    for ax, (x, label) in zip(axes, ACROSS.items(), strict=True):
        for i, name in enumerate(names):
            points = [(r[x], r["lost"]) for r in rows if r["method"] == name]
            color, marker = plots.one_of_many(i, len(names))
            ax.plot(*zip(*points, strict=True), color=color, marker=marker, markersize=4, linewidth=1.1, label=name)
        ax.set_xscale("log", base=2)
        ax.set_yscale("symlog", linthresh=1)
        ax.invert_yaxis()
        ax.axhline(0, color="black", linestyle="--", linewidth=1)
        plots.plain(ax.xaxis)
        plots.plain(ax.yaxis)
        ax.set_xlabel(label)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("points lost to the ANN")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.suptitle(str(setup))
    return figure


STUDY = Study("methods", "Methods of the field on equal terms", _records, _text, _plot)

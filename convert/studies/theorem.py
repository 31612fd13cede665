"""Theorem 1 (a) to (d) and the theorem of appendix G in numbers: which statements hold, which fail and by how much."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from convert.experiments import plots
from convert.experiments.options import checked
from convert.experiments.plots import Figure
from convert.experiments.results import Results, about
from convert.studies import study
from convert.studies.study import Section
from tppjax.errors import InputError, check_number
from tppjax.neurons import TPP, simulate
from tppjax.neurons.tpp import mean_count
from tppjax.types import Key

NAME = "theorem"
TITLE = "The paper's two theorems in numbers (theorem 1, appendix G)"
GRID = 16  # potentials per threshold at which the statements are checked


@dataclass(frozen=True)
class Theorem:
    """Check the statements of Theorem 1 and of the theorem of appendix G; needs no network."""

    T: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """Numbers of time steps."""

    draws: int = 10000
    """Number of neurons simulated for each of the statements on single outcomes, (c) and (d)."""

    out: Path = Path("runs/studies")
    """Folder of the studies, in which this one writes to theorem/. Existing rows are kept."""

    overwrite: bool = False
    """Compute everything again."""


def main(config: Theorem) -> Section:
    """Runs the study."""
    config = checked(config)
    if not all(2 <= T <= 128 for T in config.T):
        raise InputError(f"--T is 2 to 128 here: 1 has nothing to show, and more needs too much memory; got {config.T}")
    check_number("--draws", config.draws, 1, 10**6)
    settings = {"draws": config.draws, "potentials_per_threshold": GRID}
    results = Results.open(config.out / NAME, settings, study.PROGRAM, config.overwrite)
    rows = [
        results.find(T=T) or results.add({"T": T}, check(T, config.draws))
        for T in tqdm(config.T, desc=NAME, disable=None, leave=False)
    ]
    records = [{name: r[name] for name in r if name not in about(study.PROGRAM)} for r in rows]
    section = Section(NAME, TITLE, _text(rows, config))
    return study.write(config.out / NAME, section, records, _plot(config.T))


def check(T: int, draws: int) -> dict[str, float]:
    """The largest deviations from each statement, in units of the activation (theta = 1); 0 where it holds."""
    u = np.arange(T * GRID + 1) / GRID
    after = spikes_so_far(u, T)
    n = np.arange(T + 1)
    mean = after @ n  # [T + 1 steps, potentials]
    t = np.arange(1, T + 1)[:, None]
    printed = (T - t + 1) / T * mean[1:] - u / T
    mended = mean[1:] / t - u / T
    whole = u == np.floor(u)
    return {
        "a_printed": float(np.abs(printed).max()),
        "a_factor": float((t * (T - t + 1) / T).max()),
        "a_mended": float(np.abs(mended).max()),
        "a_mended_whole_thresholds": float(np.abs(mended[:, whole]).max()),
        "a_last_step": float(np.abs(mended[-1]).max()),
        **_conditional(u, after, T),
        "c_outside": 1 - _probability_of_both(u, after[-1], T),
        "c_drawn_outside": _drawn_outside(T, draws),
        "d_ratio": _worst_ratio(T, draws),
        "g_uneven": _uneven_over_orders(min(T, 6)),
    }


def spikes_so_far(u: Float[np.ndarray, "n"], T: int) -> Float[np.ndarray, "steps n steps"]:
    """`P(n spikes after t steps)` of a TPP neuron with potential `u`, by Eq. 7, float64: `[T + 1, len(u), T + 1]`."""
    n = np.arange(T + 1)
    after = np.zeros((T + 1, len(u), T + 1))
    after[0, :, 0] = 1
    for t in range(1, T + 1):
        p = np.clip((np.asarray(u)[:, None] - n) / (T - t + 1), 0, 1)
        after[t] = after[t - 1] * (1 - p)
        after[t, :, 1:] += (after[t - 1] * p)[:, :-1]
    return after


def _conditional(u: np.ndarray, after: np.ndarray, T: int) -> dict[str, float]:
    """(b), in all states with potential left that a neuron can reach: where `v <= theta (T-t+1)`, and elsewhere."""
    n, within, beyond = np.arange(T + 1), [0.0], [0.0]
    for t in range(1, T + 1):
        steps_left = T - t + 1
        v = u[:, None] - n
        reached = (after[t - 1] > 0) & (v > 0)
        deviation = np.abs(steps_left / T * np.clip(v / steps_left, 0, 1) + n / T - u[:, None] / T)
        within.append(float(deviation[reached & (v <= steps_left)].max(initial=0)))
        beyond.append(float(deviation[reached & (v > steps_left)].max(initial=0)))
    return {"b_within": max(within), "b_beyond": max(beyond)}


def _probability_of_both(u: np.ndarray, last: np.ndarray, T: int) -> float:
    """The least probability of floor(u) and floor(u) + 1 together, of floor(u) alone if u is whole."""
    floor = np.floor(u).astype(int)
    at = np.arange(len(u))
    more = np.where(u > floor, last[at, np.minimum(floor + 1, T)], 0)
    return float((last[at, floor] + more).min())


def _drawn_outside(T: int, draws: int) -> int:
    """The number of neurons, drawn by `neurons.TPP`, that violate (c)."""
    u = np.random.default_rng(T).uniform(-1, T + 1, draws).astype(np.float32)
    count = np.asarray(_spikes(u, T, jax.random.key(T)).sum(axis=0))
    clipped = np.clip(u, 0, T)
    return int(((count < np.floor(clipped)) | (count > np.ceil(clipped))).sum())


def _spikes(u: np.ndarray, T: int, key: Key) -> jax.Array:
    """Spikes `[T, ...]` of TPP neurons whose input is `u` thresholds at the first step and none afterwards."""
    return simulate(TPP(), np.stack([u, *np.zeros((T - 1, *u.shape), u.dtype)]), key)


def _worst_ratio(T: int, draws: int) -> float:
    """(d): the largest error of a random layer's input, divided by its bound."""
    rng = np.random.default_rng(T)
    inputs, outputs = 32, 8
    x = rng.uniform(0, 1, (max(1, draws // inputs), inputs)).astype(np.float32)
    weights = rng.normal(size=(outputs, inputs))
    rate = np.asarray(_spikes(T * x, T, jax.random.key(T + 1)).mean(axis=0), np.float64)
    error = np.abs((rate - x) @ weights.T).max(axis=1)
    return float((error / (np.abs(weights).sum(axis=1).max() / T)).max())


def _uneven_over_orders(T: int) -> float:
    """Appendix G, for random trains and weights: how much the mean over all T! orders differs between steps."""
    rng = np.random.default_rng(T)
    trains, weights = rng.integers(0, 2, (5, T)), rng.normal(size=5)
    orders = np.array(list(itertools.permutations(range(T))))
    mean = weights @ trains[:, orders].mean(axis=1)
    return float(np.ptp(mean))


def _text(rows: list[dict], config: Theorem) -> str:
    steps = [f"T = {r['T']}" for r in rows]

    def line(name: str, key: str, form: str = ".2g") -> list[str]:
        return [name, *(format(r[key], form) for r in rows)]

    table = study.table(
        ["largest deviation, activation units (theta = 1)", *steps],
        [
            line("(a) as printed, over all u and t", "a_printed", ".3f"),
            line("largest superfluous factor t (T-t+1) / T", "a_factor", ".2f"),
            line("(a) mended, E[sum to t] = t/T u: whole u", "a_mended_whole_thresholds"),
            line("(a) mended: any u, any t", "a_mended", ".3f"),
            line("(a) at t = T, where both agree: any u", "a_last_step", ".3f"),
            line("(b) where v <= theta (T-t+1)", "b_within"),
            line("(b) where v is larger, as happens by chance", "b_beyond", ".3f"),
            line("(c) probability of any other count", "c_outside"),
            line(f"(c) of {config.draws} drawn neurons, other counts", "c_drawn_outside", "d"),
            line("(d) error over its bound", "d_ratio", ".2f"),
            line("appendix G: between steps, over all orders (T up to 6)", "g_uneven"),
        ],
    )
    return (
        f"The values are computed exactly, in float64, from Eq. 7 at {GRID} potentials per threshold, except for two "
        "rows, the drawn neurons of (c) and the error of (d), which simulate `neurons.TPP`; appendix G is computed "
        f"over all orders of random spike trains.\n\n{table}\n\n"
        "**(a) fails.** As printed, its left side is too large by the factor t (T-t+1) / T for 1 < t < T, even without "
        "clipping. With 1/t in place of (T-t+1)/T, the statement holds exactly if u is a whole number of thresholds. "
        "For other u, the clip of Eq. 7 to [0, 1] biases the count, even at t = T, where the printed factor is right: "
        "there are too many spikes near u = 0 and too few near u = T. As T grows, the bias vanishes in units of the "
        "activation, but not in spikes.\n\n"
        "**(b) holds**, for X up to theta, while the potential left fits into the steps left, v <= theta (T-t+1). It "
        "fails beyond that bound, which a neuron crosses when it stays silent by chance.\n\n"
        "**(c) and (d) hold**, and so does the theorem of **appendix G**: over all orders, each step of the permuted "
        "input has the same mean. The theorem concerns only the mean over orders; the studies `orders` and "
        "`misalignment` measure the effect of single orders."
    )


def _plot(steps: tuple[int, ...]) -> Figure:
    figure = plots.figure(12, 4.2)
    means, bias, printed = figure.subplots(1, 3)
    shades = plots.shades(len(steps))
    for color, T in zip(shades, steps, strict=True):
        near, u = np.linspace(0, min(T, 3), 193), np.linspace(0, T, 64 * min(T, 8) + 1)
        means.plot(near, mean_count(near, T), color=color, label=f"T = {T}")
        if T <= 8:  # more curves would hide each other
            bias.plot(u / T, mean_count(u, T) - u, color=color, label=f"T = {T}")
        t = np.arange(1, T + 1)
        printed.plot(t / T, t * (T - t + 1) / T, color=color, marker="o" if T < 10 else None, label=f"T = {T}")
    means.plot([0, 3], [0, 3], color="black", linestyle="--", linewidth=1, label="as stated by (a)")
    means.set(xlim=(0, 3), ylim=(0, 3.2), xlabel="potential u (thresholds)", ylabel="mean number of spikes")
    means.set_title("mean count of a TPP neuron")
    bias.axhline(0, color="black", linestyle="--", linewidth=1)
    bias.set(xlabel="u / T", ylabel="mean count less u (spikes)", title="its bias, from the clip in Eq. 7")
    printed.axhline(1, color="black", linestyle="--", linewidth=1)
    printed.set(xlabel="t / T", ylabel="left side of (a) over right", title="superfluous factor in (a) as printed")
    printed.set_yscale("log", base=2)
    for axes in (means, bias, printed):
        axes.grid(alpha=0.3)
    means.legend(fontsize=7)
    return figure

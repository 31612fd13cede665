"""A spiking network simulated step by step, in memory that does not grow with T.

Integrate-and-fire neurons (`baseline`) fire in the step in which they get their input. All others take the input of T
steps before they fire, so a network with `n` sites of theirs is run over time `n + 1` times: in run `i` the sites
before the `i`-th fire, by what they accumulated in the runs before, and the `i`-th accumulates its input. Each run
computes what its site needs, no more. Spike trains are not stored between the runs: what a site fires at a step is
drawn anew, the same way each time, from what it accumulated and its key. Only with one order for a whole layer, where
the count does not tell what a neuron fired, are they kept.

A convolution costs as much in these loops as outside of them, on a CPU too, where only its gradient would not.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convert.folded import TWO_PHASE, site_key
from tppjax import counts, neurons
from tppjax.graph import Site
from tppjax.network import Network


class Simulation(NamedTuple):
    """What a network did over time.

    Attributes:
      mean: what it returned, mean over the steps.
      fired: `{site: [...]}`, number of spikes of each neuron.
      steps: what it returned at each step, `[T, ...]`.
      spikes, potentials, currents: as in `convert.Trace`, `{site: [T, ...]}`. Empty like `steps`, unless traced.
    """

    mean: Any
    fired: dict[str, jax.Array]
    steps: Any = ()
    spikes: Any = ()
    potentials: Any = ()
    currents: Any = ()


@dataclasses.dataclass(frozen=True)
class Settings:
    """How neurons run over time.

    Attributes:
      modes: of each site, as pairs, in the order in which they run.
      T: number of time steps.
      v_init: potential of `baseline` and `shuffle` before the first step, in thresholds.
      shift: added to the input of `baseline` and `shuffle` over all T steps together, in thresholds.
      shared_order: in mode `shuffle`, one order for all neurons of a site.
    """

    modes: tuple[tuple[str, str], ...]
    T: int
    v_init: float = 0.5
    shift: float = 0.0
    shared_order: bool = False


def simulate(network: Network, x, key, settings: Settings, order=None, traced: bool = False) -> Simulation:
    """The network over time on one example.

    Args:
      network: with a threshold at each site.
      x: the input `[1, ...]`, which enters at every step; or `[T, 1, ...]`, one for each.
      key: a PRNG key, or None if nothing is random.
      settings: how its neurons run.
      order: of the steps of `shuffle`, `[T]`; None to draw one.
      traced: whether what happened at every step is kept, in T times the memory.
    """
    run = _Run(network, key, settings, order, traced)
    frames = x if x.ndim == len(network.graph.shape) + 2 else None
    accumulated, fired, kept = {}, {}, {}
    needed = {item.name for item in network.graph.needed() if isinstance(item, Site)}
    modes = {name: mode for name, mode in settings.modes if name in needed}
    for name, mode in modes.items():
        if mode == "baseline":
            continue
        state, _, trace = run.over_time(x, frames, accumulated, until=name)
        accumulated[name] = state[name].get("accumulated", state[name]["count"])
        if mode == "shuffle":  # it has fired already, in another order
            fired[name] = state[name]["count"]
        kept[name] = trace.get(name, {})
    state, (mean, steps), trace = run.over_time(x, frames, accumulated)
    fired = {name: fired.get(name, state[name]["count"]) for name in modes}
    if not traced:
        return Simulation(mean, fired)
    trace = {name: kept.get(name, {}) | trace[name] for name in fired}  # the spikes of the run that sends them
    of = ({name: at[what] for name, at in trace.items()} for what in ("spikes", "potential", "current"))
    return Simulation(mean, fired, steps, *of)


class _Run(NamedTuple):
    """Arguments of `simulate`, and runs over time with them."""

    network: Network
    key: Any
    settings: Settings
    order: Any
    traced: bool

    def over_time(self, x, frames, accumulated: dict, until: str | None = None):
        """One run: `(state of each site at the end, (mean output, output of each step), what is traced)`.

        Sites with something `accumulated` fire by it; `until` accumulates, and ends the run.
        """
        network, T = self.network, self.settings.T
        names = [item.name for item in network.graph.needed(until) if isinstance(item, Site)]

        def step(carry, now):
            (total, state), (t, frame) = carry, now
            state, traced = dict(state), {}

            def at_site(site: Site, current):
                state[site.name], sent, seen = self.at_step(site, current, state[site.name], t, accumulated, until)
                traced[site.name] = seen if self.traced else {}
                return sent.astype(current.dtype)

            sent = network.graph.run(network.weights, x if frame is None else frame, at_site, until)
            total = None if until else jax.tree.map(jnp.add, total, sent)
            return (total, state), (sent if self.traced and not until else (), traced)

        start = {name: self.at_rest(network.sites[name], accumulated, until) for name in names}
        zero = None if until else jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), self.outputs(x, frames))
        steps = (jnp.arange(T), frames)
        (total, state), (sent, traced) = jax.lax.scan(step, (zero, start), steps, length=T)
        return state, (None if until else jax.tree.map(lambda a: a / T, total), sent), traced

    def outputs(self, x, frames):
        """Shapes of what the network returns."""
        one = x if frames is None else frames[0]
        like = lambda site, _: jnp.zeros((1, *site.shape), one.dtype)  # noqa: E731
        return jax.eval_shape(lambda x: self.network.graph.run(self.network.weights, x, like), one)

    def at_rest(self, site: Site, accumulated: dict, until: str | None) -> dict:
        """The state of a site before the first step."""
        mode, shape = dict(self.settings.modes)[site.name], (1, *site.shape)
        state = {"count": jnp.zeros(shape)}
        if mode == "baseline" or (mode == "shuffle" and site.name == until):
            state["u"] = jnp.zeros(shape)
        if site.name == until and mode in TWO_PHASE:
            state["accumulated"] = jnp.zeros((1, *site.input_shape))
        elif site.name == until and self.settings.shared_order:
            state["accumulated"] = jnp.zeros((self.settings.T, *shape), bool)
        return state

    def at_step(self, site: Site, current, state: dict, t, accumulated: dict, until: str | None):
        """One step of a site: `(state, what it sends, what is traced)`."""
        mode = dict(self.settings.modes)[site.name]
        current = self.network.corrected(site.name, current, site.input_axis).astype(jnp.float32)
        if mode in TWO_PHASE and site.name == until:
            state = state | {"accumulated": state["accumulated"] + current}
            return state, jnp.zeros((1, *site.shape)), {"current": site.prepare(current, self.network.weights)}
        if site.name in accumulated:
            spikes, seen = self.second_phase(site, mode, accumulated[site.name], state["count"], t)
        else:
            current = site.prepare(current, self.network.weights)
            state, spikes, seen = self.integrate_and_fire(site, current, state, t)
        state = state | {"count": state["count"] + spikes}
        if mode == "shuffle" and site.name == until and self.settings.shared_order:
            state["accumulated"] = state["accumulated"].at[t].set(spikes > 0)
        return state, self.network.theta(site, spikes) * spikes, seen | {"spikes": spikes}

    def integrate_and_fire(self, site: Site, current, state: dict, t):
        """One step of Eq. 1 and 2."""
        theta = self.network.theta(site, current)
        begin = jnp.where(t == 0, self.settings.v_init, 0.0)
        x = counts.in_thresholds(current, theta) + self.settings.shift / self.settings.T + begin
        u = neurons.integrate(state["u"], x)
        return state | {"u": u}, neurons.fire(u), {"potential": theta * u, "current": current}

    def second_phase(self, site: Site, mode: str, accumulated, count, t):
        """One step of a site that fires by what it accumulated, `count` times so far."""
        T, key = self.settings.T, site_key(self.key, site, self.network)
        if mode == "shuffle" and self.settings.shared_order:
            order = jax.random.permutation(key, T) if self.order is None else self.order
            return accumulated[order[t]].astype(jnp.float32), {}
        now, left, seen = None if key is None else jax.random.fold_in(key, t), T - t, {}
        if mode != "shuffle":
            v = self.potential(site, accumulated)
            theta = self.network.theta(site, v)
            seen = {"potential": v - theta * count}
        match mode:
            case "shuffle":
                spikes = neurons.tpp_step(accumulated, count, left, now)
            case "rounded":
                spikes = neurons.rounded_step(counts.rounded(v, theta, T), left, T)
            case "unbiased":  # the count that is drawn when folded
                spikes = neurons.tpp_step(counts.unbiased(v, theta, T, key), count, left, now)
            case "tpp":
                spikes = neurons.tpp_step(counts.in_thresholds(v, theta), count, left, now)
        return spikes, seen

    def potential(self, site: Site, accumulated):
        """What a two-phase site compares, of the sum of its input over T steps."""
        T = self.settings.T
        return T * site.prepare(accumulated / T, self.network.weights) if site.before else accumulated


def lots(n: int, at_once: int) -> np.ndarray:
    """Places of `n` examples in as few lots of at most `at_once` as there can be, `[lots, size]`, all of one size.

    The last lot is filled up with the last example, which is lost work: less than one example a lot.
    """
    number = -(-n // at_once)
    size = -(-n // number)
    return np.minimum(np.arange(number * size), n - 1).reshape(number, size)


def at_steps(frames, T: int):
    """What a network gets at each step, `[T, ...]`: each of the `[F, ...]` T / F times, or the mean of F / T frames."""
    n = len(frames)
    if T % n == 0:
        return jnp.repeat(frames, T // n, axis=0)
    return frames.reshape(T, n // T, *frames.shape[1:]).mean(axis=1)

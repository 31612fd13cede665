"""A spiking network simulated step by step, in memory that does not grow with T.

Neurons of one phase fire in the step in which they get their input. All others take the input of T steps before they
fire, so a network with `n` sites of theirs is run over time `n + 1` times: in run `i` the sites before the `i`-th fire,
by what they accumulated in the runs before, and the `i`-th accumulates its input. Each run computes what its site
needs, no more. Spike trains are not stored between the runs: what a site fires at a step is drawn anew, the same way
each time, from what it accumulated and its key. Neurons with a lead run some steps before the T that count.

A convolution costs as much in these loops as outside of them, on a CPU too, where only its gradient would not.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from convert.folded import site_key
from tppjax.graph import Site
from tppjax.network import Network
from tppjax.neurons import Neuron, in_thresholds
from tppjax.neurons.base import first_phase_key, key_of_step


class Simulation(NamedTuple):
    """What a network did over time.

    Attributes:
      mean: what it returned, mean over the steps.
      counts: `{site: [...]}`, spikes of each neuron, those of -1 taken off: its rate is `theta count / T`.
      events: `{site: [...]}`, number of spikes of each neuron, whatever their sign, those of a lead included.
      steps: what it returned at each step, `[T, ...]`.
      spikes, potentials, currents: as in `convert.Trace`, `{site: [T, ...]}`. Empty like `steps`, unless traced.
    """

    mean: Any
    counts: dict[str, jax.Array]
    events: dict[str, jax.Array]
    steps: Any = ()
    spikes: Any = ()
    potentials: Any = ()
    currents: Any = ()


def simulate(network: Network, x, key, neurons: dict[str, Neuron], T: int, tables: dict, traced: bool) -> Simulation:
    """The network over time on one example.

    Args:
      network: with a threshold at each site.
      x: the input `[1, ...]`, which enters at every step; or `[T, 1, ...]`, one for each.
      key: a PRNG key, or None if nothing is random.
      neurons: of each site, in the order in which they run.
      T: number of time steps.
      tables: what each site's neurons need to know of T, as `Neuron.tables` has it.
      traced: whether what happened at every step is kept, in T times the memory.
    """
    run = _Run(network, key, neurons, T, tables, traced)
    frames = x if x.ndim == len(network.graph.shape) + 2 else None
    accumulated, kept = {}, {}
    needed = [item.name for item in network.graph.needed() if isinstance(item, Site)]
    for name in needed:
        if neurons[name].waits:
            state, _, trace = run.over_time(x, frames, accumulated, until=name)
            accumulated[name] = state[name]["neurons"]
            kept[name] = trace.get(name, {})
    state, (mean, steps), trace = run.over_time(x, frames, accumulated)
    counts = {name: state[name]["count"] for name in needed}
    events = {name: state[name].get("events", counts[name]) for name in needed}
    if not traced:
        return Simulation(mean, counts, events)
    trace = {name: kept.get(name, {}) | trace[name] for name in needed}  # the spikes of the run that sends them
    of = ({name: at[what] for name, at in trace.items() if what in at} for what in ("spikes", "potential", "current"))
    return Simulation(mean, counts, events, steps, *of)


class _Run(NamedTuple):
    """Arguments of `simulate`, and runs over time with them."""

    network: Network
    key: Any
    neurons: dict[str, Neuron]
    T: int
    tables: dict
    traced: bool

    def over_time(self, x, frames, accumulated: dict, until: str | None = None):
        """One run: `(state of each site at the end, (mean output, output of each step), what is traced)`.

        Sites with something `accumulated` fire by it; `until` accumulates, and ends the run.
        """
        network, T = self.network, self.T
        lead = max(neuron.lead for neuron in self.neurons.values())
        names = [item.name for item in network.graph.needed(until) if isinstance(item, Site)]

        def step(carry, now):
            (total, state), (t, frame) = carry, now
            state, traced = dict(state), {}

            def at_site(site: Site, current):
                corrected = network.corrected(site.name, current, site.input_axis, t).astype(jnp.float32)
                at_step = self.accumulate if site.name == until else self.fire
                memory = accumulated.get(site.name)
                state[site.name], spikes, seen = at_step(site, corrected, state[site.name], memory, t)
                traced[site.name] = seen if self.traced else {}
                return (self.theta(site, spikes) * spikes).astype(current.dtype)

            sent = network.graph.run(network.weights, x if frame is None else frame, at_site, until)
            total = None if until else jax.tree.map(lambda sum, y: sum + y * (t >= 0) if lead else sum + y, total, sent)
            return (total, state), (sent if self.traced and not until else (), traced)

        start = {name: self.at_rest(network.sites[name], name in accumulated, name == until) for name in names}
        zero = None if until else jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), self.outputs(x, frames))
        (total, state), over_time = jax.lax.scan(step, (zero, start), (jnp.arange(-lead, T), frames))
        sent, traced = jax.tree.map(lambda a: a[lead:], over_time)
        return state, (None if until else jax.tree.map(lambda a: a / T, total), sent), traced

    def outputs(self, x, frames):
        """Shapes of what the network returns."""
        one = x if frames is None else frames[0]
        like = lambda site, _: jnp.zeros((1, *site.shape), one.dtype)  # noqa: E731
        return jax.eval_shape(lambda x: self.network.graph.run(self.network.weights, x, like), one)

    def at_rest(self, site: Site, accumulated: bool, last: bool) -> dict:
        """The state of a site before the first step."""
        neuron, shape = self.neurons[site.name], (1, *site.shape)
        state = {} if last else {"count": jnp.zeros(shape)}
        if (neuron.signed or neuron.lead) and not last:
            state["events"] = jnp.zeros(shape)
        if not accumulated:
            state["neurons"] = neuron.init((1, *site.input_shape) if neuron.two_phase else shape, self.T)
        return state

    def accumulate(self, site: Site, current, state: dict, memory, t):
        """One step of the last site of a run: `(state, no spikes, what is traced)`."""
        neuron, prepared = self.neurons[site.name], self.prepared(site, current, t)
        x = current if neuron.two_phase else self.in_thresholds(site, prepared)
        key = first_phase_key(site_key(self.key, site, self.network), t, self.T)
        now = neuron.accumulate(state["neurons"], x, t, self.T, key)
        return {"neurons": now}, jnp.zeros(prepared.shape), self.seen(site, prepared, now)

    def fire(self, site: Site, current, state: dict, memory, t):
        """One step of another site, by what it accumulated if it waits: `(state, spikes, what is traced)`."""
        neuron, tables, state = self.neurons[site.name], self.tables[site.name], dict(state)
        if neuron.waits:
            u = self.in_thresholds(site, self.potential(site, memory)) if neuron.two_phase else memory
            key = site_key(self.key, site, self.network)
            spikes = neuron.step(u, state["count"], t, self.T, key, **tables)
            seen = {"potential": self.theta(site, u) * (u - state["count"])} if neuron.two_phase else {}
        else:
            prepared = self.prepared(site, current, t)
            x, key = self.in_thresholds(site, prepared), key_of_step(site_key(self.key, site, self.network), t)
            state["neurons"], spikes = neuron.step(state["neurons"], x, t, self.T, key, **tables)
            seen = self.seen(site, prepared, state["neurons"])
        state["count"] += spikes * (t >= 0) if neuron.lead else spikes
        if "events" in state:
            state["events"] += jnp.abs(spikes)
        return state, spikes, seen | {"spikes": spikes}

    def seen(self, site: Site, current, state) -> dict:
        """What is traced of a site that gets `current`, after which its neurons are in `state`."""
        neuron = self.neurons[site.name]
        u = None if neuron.two_phase else neuron.potential(state)
        shown = u is not None and u.shape == current.shape
        return {"current": current} | ({"potential": self.theta(site, current) * u} if shown else {})

    def theta(self, site: Site, like):
        """What a spike of each neuron of a site weighs."""
        return self.neurons[site.name].weight * self.network.theta(site, like)

    def in_thresholds(self, site: Site, v):
        """A potential or current at a site in units of that."""
        return in_thresholds(v, self.theta(site, v))

    def prepared(self, site: Site, current, t):
        """What a neuron gets at a step: at the first one its initial potential, too."""
        x = site.prepare(current, self.network.weights)
        return x + jnp.where(t == 0, self.network.initial(site, x), 0.0)

    def potential(self, site: Site, accumulated):
        """What a two-phase site compares, of the sum of its input over T steps."""
        v = self.T * site.prepare(accumulated / self.T, self.network.weights) if site.before else accumulated
        return v + self.network.initial(site, v)


def memory(neuron: Neuron, T: int) -> int:
    """Bytes that a neuron keeps over time: its state, and its count."""
    state = jax.eval_shape(lambda: neuron.init((1,), T))
    return 4 + sum(a.dtype.itemsize * math.prod(a.shape) for a in jax.tree.leaves(state))


def chunks(n: int, chunk_size: int) -> np.ndarray:
    """Places of `n` examples in as few lots of at most `chunk_size` as there can be, `[chunks, size]`, all of one size.

    The last lot is filled up with the last example, which is lost work: less than one example a lot.
    """
    number = -(-n // chunk_size)
    size = -(-n // number)
    return np.minimum(np.arange(number * size), n - 1).reshape(number, size)


def at_steps(frames, T: int):
    """What a network gets at each step, `[T, ...]`: each of the `[F, ...]` T / F times, or the mean of F / T frames."""
    n = len(frames)
    if T % n == 0:
        return jnp.repeat(frames, T // n, axis=0)
    return frames.reshape(T, n // T, *frames.shape[1:]).mean(axis=1)

"""Simulation of a spiking network step by step, in memory that does not grow with T.

Neurons of one phase fire in the step in which their input arrives. All others take the input of T steps before they
fire, so a network with `n` sites of such neurons is run over time `n + 1` times. In run `i` the sites before the `i`-th
fire, by what they accumulated in earlier runs, and the `i`-th accumulates its input. Each run computes only what its
site needs. Spike trains are not stored between runs: in each run, a site draws the same spikes again, from what it
accumulated and its key. Neurons with a lead run some steps before the T that count.

A convolution costs as much in these loops as outside of them, even on a CPU, where only its gradient would cost more.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

import convert
from tppjax.graph import Site
from tppjax.network import Network
from tppjax.neurons import Delayed, Neuron, OnePhase, in_thresholds
from tppjax.neurons.base import first_phase_key, key_of_step
from tppjax.types import Array, Key


class Simulation(NamedTuple):
    """The results of a simulation.

    Attributes:
      mean: outputs of the network, mean over the steps.
      counts: sum of each neuron's spikes with their signs, `{site: [...]}`; its rate is `theta count / T`.
      events: number of each neuron's spikes of either sign, those of a lead included, `{site: [...]}`.
      steps: outputs of the network at each step, `[T, ...]`; empty unless traced.
      spikes: spikes of each site, as in `convert.Trace`, `{site: [T, ...]}`; empty unless traced.
      potentials: potentials before firing, as in `convert.Trace`, `{site: [T, ...]}`; empty unless traced.
      currents: inputs of each site, as in `convert.Trace`, `{site: [T, ...]}`; empty unless traced.
    """

    mean: Any
    counts: dict[str, jax.Array]
    events: dict[str, jax.Array]
    steps: Any = ()
    spikes: Any = ()
    potentials: Any = ()
    currents: Any = ()


def simulate(snn: "convert.Snn", x: Array, key: Key | None, traced: bool) -> Simulation:
    """Simulates the network on one example.

    Args:
      snn: the spiking network.
      x: the input `[1, ...]`, which enters at every step; or `[T, 1, ...]`, one for each step.
      key: a PRNG key, or None if nothing is random.
      traced: whether to keep the values of every step, in T times the memory.
    """
    run, graph = _Run(snn.network, key, snn.in_network, snn.steps, snn.time["tables"], traced), snn.network.graph
    frames = x if x.ndim == len(graph.shape) + 2 else None
    accumulated, kept = {}, {}
    needed = [item.name for item in graph.needed() if isinstance(item, Site)]
    for name in needed:
        if run.neurons[name].waits:
            state, _, trace = run.over_time(x, frames, accumulated, until=name)
            accumulated[name] = state[name]["neurons"]
            kept[name] = trace.get(name, {})
    state, (mean, steps), trace = run.over_time(x, frames, accumulated)
    counts = {name: state[name]["count"] for name in needed}
    events = {name: state[name].get("events", counts[name]) for name in needed}
    if not traced:
        return Simulation(mean, counts, events)
    trace = {name: kept.get(name, {}) | trace[name] for name in needed}  # the spikes of the run that sends them
    spikes, potentials, currents = (
        {name: values[kind] for name, values in trace.items() if kind in values}
        for kind in ("spikes", "potential", "current")
    )
    return Simulation(mean, counts, events, steps, spikes, potentials, currents)


class _Run(NamedTuple):
    """A spiking network, and runs over time of it."""

    network: Network
    key: Key | None
    neurons: dict[str, Neuron]
    T: int
    tables: dict[str, Any]
    traced: bool

    def over_time(
        self, x: Array, frames: Array | None, accumulated: dict[str, Any], until: str | None = None
    ) -> tuple[dict[str, dict], tuple[Any, Any], dict[str, dict]]:
        """One run: `(state of each site at the end, (mean output, output of each step), traced values)`.

        Sites in `accumulated` fire by what they accumulated; the site `until` accumulates its input and ends the run.
        """
        network, T = self.network, self.T
        lead = max(neuron.lead for neuron in self.neurons.values())
        names = [item.name for item in network.graph.needed(until) if isinstance(item, Site)]

        def step(carry: tuple[Any, dict], now: tuple[jax.Array, Any]) -> tuple[tuple[Any, dict], Any]:
            (total, state), (t, frame) = carry, now
            state, traced = dict(state), {}

            def at_site(site: Site, current: jax.Array) -> jax.Array:
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
        like = None if until else self.outputs(x, frames)
        zero = jax.tree.map(lambda a: jnp.zeros(a.shape, jnp.promote_types(a.dtype, jnp.float32)), like)
        (total, state), over_time = jax.lax.scan(step, (zero, start), (jnp.arange(-lead, T), frames))
        sent, traced = jax.tree.map(lambda a: a[lead:], over_time)
        mean = jax.tree.map(lambda sum, a: (sum / T).astype(jnp.result_type(a.dtype, 1.0)), total, like)
        return state, (mean, sent), traced

    def outputs(self, x: Array, frames: Array | None) -> Any:
        """The shapes of the network's outputs."""
        one = x if frames is None else frames[0]
        like = lambda site, current: jnp.zeros((1, *site.shape), current.dtype)  # noqa: E731
        return jax.eval_shape(lambda x: self.network.graph.run(self.network.weights, x, like), one)

    def at_rest(self, site: Site, accumulated: bool, last: bool) -> dict[str, Any]:
        """The state of a site before the first step."""
        neuron, shape = self.neurons[site.name], (1, *site.shape)
        assert isinstance(neuron, OnePhase | Delayed)
        state: dict[str, Any] = {} if last else {"count": jnp.zeros(shape)}
        if (neuron.signed or neuron.lead) and not last:
            state["events"] = jnp.zeros(shape)
        if not accumulated:
            state["neurons"] = neuron.init((1, *site.input_shape) if neuron.two_phase else shape, self.T)
        return state

    def accumulate(
        self, site: Site, current: jax.Array, state: dict[str, Any], memory: None, t: jax.Array
    ) -> tuple[dict[str, Any], jax.Array, dict[str, jax.Array]]:
        """One step of the last site of a run: `(state, no spikes, traced values)`."""
        neuron, prepared = self.neurons[site.name], self.prepared(site, current, t)
        assert isinstance(neuron, Delayed)
        x = current if neuron.two_phase else self.in_thresholds(site, prepared)
        key = first_phase_key(site_key(self.key, site, self.network), t, self.T)
        now = neuron.accumulate(state["neurons"], x, t, self.T, key)
        return {"neurons": now}, jnp.zeros(prepared.shape), self.seen(site, prepared, now)

    def fire(
        self, site: Site, current: jax.Array, state: dict[str, Any], memory: Any, t: jax.Array
    ) -> tuple[dict[str, Any], jax.Array, dict[str, jax.Array]]:
        """One step of another site, by what it accumulated if it waits: `(state, spikes, traced values)`."""
        neuron, tables, state = self.neurons[site.name], self.tables[site.name], dict(state)
        if isinstance(neuron, Delayed):
            u = self.in_thresholds(site, self.potential(site, memory)) if neuron.two_phase else memory
            key = site_key(self.key, site, self.network)
            spikes = neuron.step(u, state["count"], t, self.T, key, **tables)
            seen = {"potential": self.theta(site, u) * (u - state["count"])} if neuron.two_phase else {}
        else:
            assert isinstance(neuron, OnePhase)
            prepared = self.prepared(site, current, t)
            x, key = self.in_thresholds(site, prepared), key_of_step(site_key(self.key, site, self.network), t)
            state["neurons"], spikes = neuron.step(state["neurons"], x, t, self.T, key, **tables)
            seen = self.seen(site, prepared, state["neurons"])
        state["count"] += spikes * (t >= 0) if neuron.lead else spikes
        if "events" in state:
            state["events"] += jnp.abs(spikes)
        return state, spikes, seen | {"spikes": spikes}

    def seen(self, site: Site, current: jax.Array, state: Any) -> dict[str, jax.Array]:
        """The traced values of a site with input `current`, after which its neurons are in `state`."""
        neuron = self.neurons[site.name]
        u = None if neuron.two_phase else neuron.potential(state)
        if u is None or u.shape != current.shape:
            return {"current": current}
        return {"current": current, "potential": self.theta(site, current) * u}

    def theta(self, site: Site, like: Array) -> jax.Array:
        """The weight of a spike of each neuron of a site."""
        return self.neurons[site.name].weight * self.network.theta(site, like)

    def in_thresholds(self, site: Site, v: jax.Array) -> jax.Array:
        """A potential or current at a site, in units of a spike's weight."""
        return in_thresholds(v, self.theta(site, v))

    def prepared(self, site: Site, current: jax.Array, t: jax.Array) -> jax.Array:
        """The input of a neuron at a step; that of the first step includes its initial potential."""
        x = site.prepare(current, self.network.weights)
        return x + jnp.where(t == 0, self.network.initial(site, x), 0.0)

    def potential(self, site: Site, accumulated: jax.Array) -> jax.Array:
        """The potential of a two-phase site, from the sum of its input over T steps."""
        v = self.T * site.prepare(accumulated / self.T, self.network.weights) if site.before else accumulated
        return v + self.network.initial(site, v)


def memory(neuron: Neuron, T: int) -> int:
    """The bytes that a neuron keeps over time: its state, and its count."""
    assert isinstance(neuron, OnePhase | Delayed)
    state = jax.eval_shape(lambda: neuron.init((1,), T))
    return 4 + sum(a.dtype.itemsize * math.prod(a.shape) for a in jax.tree.leaves(state))


def chunks(n: int, chunk_size: int) -> Int[np.ndarray, "chunks size"]:
    """The indices of `n` examples in the fewest chunks of at most `chunk_size`, all of one size, `[chunks, size]`.

    The last chunk is filled up with the last example, which wastes less than one example per chunk.
    """
    number = -(-n // chunk_size)
    size = -(-n // number)
    return np.minimum(np.arange(number * size), n - 1).reshape(number, size)


def at_steps(frames: Float[Array, "frames *shape"], T: int) -> Float[jax.Array, "steps *shape"]:
    """The input of each step, `[T, ...]`: each of the frames `[F, ...]` T / F times, or the mean of F / T frames."""
    n = len(frames)
    if T % n == 0:
        return jnp.repeat(frames, T // n, axis=0)
    return jnp.asarray(frames).reshape(T, n // T, *frames.shape[1:]).mean(axis=1)


def site_key(key: Key | None, site: Site, network: Network) -> Key | None:
    """The key of a site, from the key of the example; None if nothing is random."""
    return None if key is None else jax.random.fold_in(key, list(network.sites).index(site.name))

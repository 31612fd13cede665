"""Conversion: an ANN's parameters to a spiking network over T steps, as a pure function."""

import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from flax.core import FrozenDict

from convert import folded, stepped
from convert.checks import check_frames, check_steps_of_offsets, check_thresholds, neurons_of
from convert.stepped import Simulation
from tppjax import prng, sharding
from tppjax.errors import InputError
from tppjax.graph import Site
from tppjax.network import OUTPUT, Network
from tppjax.neurons import Neuron, check_neuron, check_steps
from tppjax.tracing import trace


class Trace(struct.PyTreeNode):
    """What happened inside an SNN, step by step.

    Attributes:
      logits: of each step, `[T, B, K]`; their mean over T is what the network answers.
      spikes: `{site: [T, B, ...]}`, as they are sent to the next layer: 0 or 1, unless the neuron fires others.
      potentials: `{site: [T, B, ...]}`, before firing, in the units of theta; of the neurons that have one to show.
      currents: `{site: [T, B, ...]}`, the input of a site, after max-pooling if any, in the units of theta.
    """

    logits: jax.Array
    spikes: dict[str, jax.Array]
    potentials: dict[str, jax.Array]
    currents: dict[str, jax.Array]


class Snn(struct.PyTreeNode):
    """A spiking network: a pytree, so that jit, vmap and sharding work on it. Made by `to_snn`.

    Inputs are batches of what the network takes: uint8 pixels, or floats already normalised; the same input enters at
    every step (constant coding) and the first layer of weights is analog, as in all baselines of the paper. Recordings
    are `[B, frames, ...]` and enter frame after frame, each for T / frames steps, or the mean of frames / T for one.
    `key` is one PRNG key, which is folded with each example's place in the batch, or one key per example, `[B]`; of
    whatever kind, `prng.HASH` draws for it. An example's noise depends on its key and the site alone: it does not
    change with the batch or the number of devices, nor under jit and vmap.

    Calls are compiled, once for each structure and shape of `x`: equal networks share it, and folded ones of every T.

    Attributes:
      network: what it was converted from, whose weights and thresholds it shares.
      neurons: of each site.
      T: number of time steps; None after `for_any_T`.
      time: all that neurons need to know of T, as arrays.
    """

    network: Network
    neurons: FrozenDict[str, Neuron] = struct.field(pytree_node=False)
    T: int | None = struct.field(pytree_node=False)
    time: dict

    @property
    def modes(self) -> dict[str, str]:
        """Of each site, in the order in which they run: what `neurons.parse` makes its neurons of."""
        return {site: str(self.neurons[site]) for site in self.network.sites}

    @functools.cached_property
    def in_network(self) -> dict[str, Neuron]:
        """The neurons of each site, with what they take from the network's activations."""
        return {site: self.neurons[site].at(self.network.kinds) for site in self.network.sites}

    @property
    def mode(self) -> str | dict[str, str]:
        """The mode of all sites, or of each."""
        kinds = set(self.modes.values())
        return kinds.pop() if len(kinds) == 1 else self.modes

    @property
    def folded(self) -> bool:
        """Whether time is folded away, so that T steps cost one pass."""
        return all(neuron.two_phase for neuron in self.in_network.values())

    @property
    def random(self) -> bool:
        """Whether a key is needed."""
        return any(neuron.random for neuron in self.in_network.values())

    @property
    def latency(self) -> int:
        """Time steps from an input to its answer, if an input of a step reaches the output in that step.

        T, and what a neuron runs ahead; T more for each site on the longest way that waits for T steps before it fires.
        """
        ways = {0: 0}
        for item in self.network.graph.items:
            if isinstance(item, Site):
                ways[item.output] = ways[item.input] + self.in_network[item.name].waits
            else:
                ways[item.output] = max((ways.get(v, 0) for v in item.inputs), default=0)
        waits = max(ways.get(v, 0) for v in self.network.graph.outputs)
        return (waits + 1) * self.T + max(neuron.lead for neuron in self.in_network.values())

    def batch_size(self, seeds: int = 1, traced: bool = False) -> int:
        """Examples a call that keep within `sharding.budget()` in a `sharding.sweep` of seeds.

        Folded, sites come one after another: some four floats a neuron. Step by step all remember what their neurons
        do, and two floats more. A trace has three floats more for each step.
        """
        sizes = {name: math.prod(site.shape) for name, site in self.network.sites.items()}
        kept = 16 * max(sizes.values())
        if traced or not self.folded:
            bytes_of = {name: 8 + stepped.memory(neuron, self.T) for name, neuron in self.in_network.items()}
            kept = sum((bytes_of[name] + 12 * traced * self.T) * size for name, size in sizes.items())
        return sharding.batch_size(kept * sharding.side_by_side(sharding.device_mesh(jax.local_devices()), seeds))

    def __repr__(self):
        modes = ", ".join(sorted(set(self.modes.values())))
        return f"Snn({self.network!r}, mode={modes!r}, T={self.T})"

    def apply(self, x, key=None):
        """What the network returns for a batch, its mean over T; if every site is two-phase, in one pass whatever T.

        Raises:
          InputError: if a random mode gets no key, or `x` does not fit the network.
        """
        return self._run(x, key).mean

    def activity(self, x, key=None):
        """`(what the network returns, {site: number of spikes of each neuron, [B, ...]})`. Errors as `apply`."""
        run = self._run(x, key, counted=True)
        return run.mean, run.events

    def rates(self, x, key=None):
        """`(what the network returns, {site: rate of each neuron, [B, ...]})`, `theta count / T`. Errors as `apply`."""
        run = self._run(x, key, counted=True)

        def rate(name, count):
            theta = self.network.theta(self.network.sites[name], count)
            return self.in_network[name].weight * theta * count / self.time["T"]

        return run.mean, {name: rate(name, count) for name, count in run.counts.items()}

    def save(self, folder) -> None:
        """Writes the network to a folder, which `convert.load` reads; as `convert.saving.save`."""
        from convert import saving  # which needs this module

        saving.save(self, folder)

    def values(self, x, key, numbers: tuple[int, ...]) -> list[jax.Array]:
        """These values of the graph, means over time, `[B, ...]` each. Errors as `apply`."""
        return self._returning(numbers).apply(x, key)

    def over_time(self, x, key, numbers: tuple[int, ...]) -> list[jax.Array]:
        """These values of the graph at every step, `[T, B, ...]` each. Errors as `trace`."""
        return self._returning(numbers).trace(x, key).logits

    def _returning(self, numbers: tuple[int, ...]) -> "Snn":
        offsets = {name: offset for name, offset in self.network.offsets.items() if name != OUTPUT}
        return self.replace(network=self.network.replace(graph=self.network.graph.returning(numbers), offsets=offsets))

    def trace(self, x, key=None) -> Trace:
        """Outputs, spikes and potentials at every step; time is never folded here, so T passes are paid.

        With the key of `apply` it shows the spikes that `apply` counts, and the mean of its outputs is that of `apply`,
        but for rounding. Not where `apply` folds time and a site is "tpp": there `apply` draws the count from its law
        with one random number a neuron, and the trace draws at each of T steps. Both follow one law; counts differ.

        Raises:
          InputError: as `apply`.
        """
        if self.T is None:
            raise InputError("a network for any T can't be traced: trace the one that for_any_T() was called on")
        run = self._run(x, key, traced=True)
        over_time = (run.steps, run.spikes, run.potentials, run.currents)
        return Trace(*jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), over_time))

    def for_any_T(self) -> "Snn":
        """The same network for jit: if folded, all that depends on T is arrays, so one compilation serves every T.

        It can't be traced, its `T` is None, and its network has no history, which may tell of T.
        """
        if not self.folded:
            return self
        return self.replace(network=self.network.replace(history=()), T=None)

    def _run(self, x, key, counted=False, traced=False) -> Simulation:
        """`_compiled`, once all that `apply` refuses has been."""
        x = self.network.batch(x)
        recorded = x.ndim == len(self.network.graph.shape) + 2
        if self.T is not None and recorded:
            check_frames(x.shape[1], self.T)
            if ahead := [mode for site, mode in self.modes.items() if self.in_network[site].lead]:
                raise InputError(f"mode {ahead[0]} runs ahead of its T steps, for which recordings have no frames")
        key = self._key(key, len(x))
        # On several devices the examples lie side by side already.
        together = traced or self.folded or jax.local_device_count() > 1
        chunk_size = len(x) if together else self.batch_size()
        snn = self if traced else self.for_any_T()
        snn = snn.replace(network=snn.network.replace(history=()))  # nothing computed depends on it
        return _compiled(snn, x, key, min(chunk_size, len(x)), counted, traced)

    def _key(self, key, batch: int):
        """The key, or keys, that `prng.HASH` has for it; None if nothing is random."""
        if not self.random:
            return None
        if key is None:
            raise InputError(f"mode {self.mode!r} draws at random and needs a key: pass key=jax.random.key(seed)")
        if not jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key) or key.shape not in ((), (batch,)):
            raise InputError(
                f"key is one typed PRNG key, such as jax.random.key(0), or one per example, [{batch}]; "
                f"got {getattr(key, 'dtype', type(key))} of shape {getattr(key, 'shape', ())}"
            )
        return prng.hashed(key) if key.ndim == 0 else jax.vmap(prng.hashed)(key)


@partial(jax.jit, static_argnames=("chunk_size", "counted", "traced"))
def _compiled(snn: Snn, x, key, chunk_size: int, counted: bool, traced: bool) -> Simulation:
    """What every example gives by itself; the spikes of each site if `counted`, every step if `traced`."""
    x = snn.network.frames(x)
    keys = example_keys(key, jnp.arange(len(x))) if key is not None and key.ndim == 0 else key
    one = partial(run_one, snn, traced=traced)
    if len(x) <= chunk_size:
        run = jax.vmap(one)(x, keys)
    else:
        chunks = stepped.chunks(len(x), chunk_size)
        run = jax.lax.map(lambda chunk: jax.vmap(one)(*jax.tree.map(lambda a: a[chunk], (x, keys))), chunks)
        run = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(x)], run)
    return run if counted or traced else Simulation(run.mean, {}, {})


def run_one(snn: Snn, x, key, traced: bool = False) -> Simulation:
    """What one example gives: folded if it can be, or step by step."""
    return _folded(snn, x, key) if snn.folded and not traced else _stepped(snn, x, key, traced)


def _folded(snn: Snn, x, key) -> Simulation:
    """One example, of a recording the mean of its frames."""
    x = x if x.ndim == len(snn.network.graph.shape) else x.mean(axis=0)
    mean, counts = folded.run(snn.network, x[None], key, snn.in_network, snn.time)
    events = jax.tree.map(jnp.abs, counts)
    return jax.tree.map(lambda a: a[0], Simulation(_corrected(snn, mean), counts, events))


def _stepped(snn: Snn, x, key, traced: bool) -> Simulation:
    """One example, step by step."""
    recorded = x.ndim > len(snn.network.graph.shape)
    x = stepped.at_steps(x, snn.T)[:, None] if recorded else x[None]
    run = stepped.simulate(snn.network, x, key, snn.in_network, snn.T, snn.time["tables"], traced)
    mean, counts, events, *over_time = run
    at_end = jax.tree.map(lambda a: a[0], (_corrected(snn, mean), counts, events))
    return Simulation(*at_end, *jax.tree.map(lambda a: a[:, 0], over_time))


def _corrected(snn: Snn, output):
    """The output, and what a correction adds to it."""
    network = snn.network
    return (
        jax.tree.map(lambda y: network.corrected(OUTPUT, y, y.ndim - 2), output)
        if OUTPUT in network.offsets
        else output
    )


def example_keys(key, index):
    """One key of `prng.HASH` per example, `[B]`, from a seed's key and each example's index in the data set, `[B]`."""
    return jax.vmap(jax.random.fold_in, (None, 0))(prng.hashed(key), index)


def to_snn(
    params,
    T: int = 16,
    mode: str | Neuron | dict[str, str | Neuron] = "tpp",
    *,
    example=None,
) -> Snn:
    """The spiking version of a trained network: same weights, spiking neurons with threshold theta at each site.

    A pure function: nothing is copied or changed, and equal arguments give equal networks that share one compilation.

    Args:
      params: a `Network`, or what `trace` makes one of: an `Ann`, as training returns it, or a model of any library.
      T: number of time steps.
      mode: the neurons: a name of `tppjax.neurons.NEURONS`, such as "baseline", "shuffle" or "tpp" (the paper's), with
        fields of its own if need be, `"baseline(v_init=0.25)"`; a `Neuron`; or one for every site,
        `{"stage1_block1/conv1": "tpp", ...}`.
      example: one input `[1, ...]`, where `trace` needs one.

    Returns:
      The spiking network.

    Raises:
      InputError: if an argument is out of range, or a threshold is missing, not positive or not finite; as `trace`.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from tppjax import models
      >>> from tppjax.activations import QCFS
      >>> model = models.create("vgg_small", num_classes=10, act=QCFS(L=8))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
      >>> snn = to_snn((model, variables), T=16, mode="tpp", example=jnp.zeros((1, 8, 8, 1)))
      >>> snn.apply(jnp.ones((2, 8, 8, 1)), key=jax.random.key(1)).shape
      (2, 10)
    """
    check_steps(T)
    network = trace(params, example)
    check_thresholds(network)
    check_steps_of_offsets(network, T)
    neurons = neurons_of(mode, network)
    if network.preprocessing is not None:
        check_frames(network.preprocessing.frames, int(T))
    at_sites = {site: neuron.at(network.kinds) for site, neuron in neurons.items()}
    for neuron in {id(neuron): neuron for neuron in at_sites.values()}.values():  # which may not be hashable
        check_neuron(neuron, int(T))
    return Snn(network, FrozenDict(neurons), int(T), folded.in_time(at_sites, int(T)))

"""Conversion of a trained network into a spiking one over T steps, by a pure function."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from flax.core import FrozenDict

from convert import stepped
from convert.checks import check_frames, check_steps_of_offsets, check_thresholds, neurons_of
from convert.execution import compiled
from convert.stepped import Simulation
from tppjax import prng, sharding
from tppjax.errors import InputError
from tppjax.graph import Site
from tppjax.network import OUTPUT, Network
from tppjax.neurons import Neuron, check_neuron, check_steps
from tppjax.tracing import trace
from tppjax.types import ImagesLike, Key, PathLike, Weights


class Trace(struct.PyTreeNode):
    """The activity of a spiking network, step by step.

    Attributes:
      logits: the output at each step, `[T, B, K]`, or a tree of such arrays; the network's answer is the mean over T.
      spikes: `{site: [T, B, ...]}`, the spikes sent to the next layer: 0 or 1, unless the neuron fires others.
      potentials: `{site: [T, B, ...]}`, potentials before firing, in the units of theta, of neurons that have one.
      currents: `{site: [T, B, ...]}`, the input of each site, after max-pooling if any, in the units of theta.
    """

    logits: Any
    spikes: Weights
    potentials: Weights
    currents: Weights


class Snn(struct.PyTreeNode):
    """A spiking network, made by `to_snn`: a pytree, so that jit, vmap and sharding work on it.

    Inputs are batches of uint8 pixels, or of floats that are already normalised. The same input enters at every step
    (constant coding), and the first layer of weights is analog, as in all baselines of the paper. Recordings are
    `[B, frames, ...]` and enter frame after frame: each frame for T / frames steps, or the mean of frames / T frames
    for one step. `key` is one PRNG key of any kind, which is folded with each example's index in the batch, or one key
    for each example, `[B]`; `prng.HASH` draws the numbers. The noise of an example depends only on its key and the
    site: the batch size, the number of devices, jit and vmap do not change it.

    Calls are compiled once for each structure and shape of `x`. Equal networks share a compilation, and folded networks
    share it for every T.

    Attributes:
      network: the network that was converted, whose weights and thresholds are shared.
      neurons: the neurons of each site.
      T: number of time steps; None after `for_any_T`.
      time: what neurons need to know of T, as arrays.
    """

    network: Network
    neurons: Mapping[str, Neuron] = struct.field(pytree_node=False)
    T: int | None = struct.field(pytree_node=False)
    time: dict

    @property
    def modes(self) -> dict[str, str]:
        """The mode of each site, in the order in which they run; `neurons.parse` makes its neurons of it."""
        return {site: str(self.neurons[site]) for site in self.network.sites}

    @functools.cached_property
    def in_network(self) -> dict[str, Neuron]:
        """The neurons of each site, with the fields that depend on the network's activations."""
        return {site: self.neurons[site].at(self.network.kinds) for site in self.network.sites}

    @property
    def mode(self) -> str | dict[str, str]:
        """The mode that all sites share, or that of each site."""
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
        """Time steps from an input to its answer, if the input of a step reaches the output in that step.

        That is T plus the lead of a neuron, and T more for each site on the longest path that waits for T steps.
        """
        waits = {0: 0}
        for item in self.network.graph.items:
            if isinstance(item, Site):
                waits[item.output] = waits[item.input] + self.in_network[item.name].waits
            else:
                waits[item.output] = max((waits.get(v, 0) for v in item.values), default=0)
        longest = max(waits.get(v, 0) for v in self.network.graph.outputs if isinstance(v, int))
        return (longest + 1) * self.steps + max(neuron.lead for neuron in self.in_network.values())

    def batch_size(self, seeds: int = 1, traced: bool = False) -> int:
        """The number of examples in a call that keeps within `sharding.budget()` in a `sharding.sweep` of seeds.

        A folded network needs some four floats for each neuron of the largest site. Step by step, every site keeps the
        state of its neurons and two floats more, and a trace three floats more for each step.
        """
        sizes = {name: math.prod(site.shape) for name, site in self.network.sites.items()}
        kept = 16 * max(sizes.values())
        if traced or not self.folded:
            bytes_of = {name: 8 + stepped.memory(neuron, self.steps) for name, neuron in self.in_network.items()}
            kept = sum((bytes_of[name] + 12 * traced * self.steps) * size for name, size in sizes.items())
        return sharding.batch_size(kept * sharding.side_by_side(sharding.device_mesh(jax.local_devices()), seeds))

    @property
    def steps(self) -> int:
        """T. Raises InputError if it is None."""
        if self.T is None:
            raise InputError("a network for any T has no number of steps: use the one that for_any_T() was called on")
        return self.T

    def __repr__(self) -> str:
        modes = ", ".join(sorted(set(self.modes.values())))
        return f"Snn({self.network!r}, mode={modes!r}, T={self.T})"

    def apply(self, x: ImagesLike, key: Key | None = None) -> Any:
        """The output of the network for a batch, mean over T; one pass for any T, if every site is two-phase.

        Raises:
          InputError: if a random mode gets no key, or `x` does not fit the network.
        """
        return self._run(x, key).mean

    def activity(self, x: ImagesLike, key: Key | None = None) -> tuple[Any, dict[str, jax.Array]]:
        """`(output, {site: number of spikes of each neuron, [B, ...]})`. Errors as `apply`."""
        run = self._run(x, key, counted=True)
        return run.mean, run.events

    def rates(self, x: ImagesLike, key: Key | None = None) -> tuple[Any, dict[str, jax.Array]]:
        """`(output, {site: rate of each neuron, theta count / T, [B, ...]})`. Errors as `apply`."""
        run = self._run(x, key, counted=True)

        def rate(name: str, count: jax.Array) -> jax.Array:
            theta = self.network.theta(self.network.sites[name], count)
            return self.in_network[name].weight * theta * count / self.time["T"]

        return run.mean, {name: rate(name, count) for name, count in run.counts.items()}

    def save(self, folder: PathLike) -> None:
        """Writes the network to a folder, which `convert.load` reads; see `convert.saving.save`."""
        from convert import saving  # which needs this module

        saving.save(self, folder)

    def values(self, x: ImagesLike, key: Key | None, numbers: tuple[int, ...]) -> list[jax.Array]:
        """The values of the graph with these numbers, `[B, ...]` each, means over time. Errors as `apply`."""
        return self._returning(numbers).apply(x, key)

    def over_time(self, x: ImagesLike, key: Key | None, numbers: tuple[int, ...]) -> list[jax.Array]:
        """The values of the graph with these numbers at every step, `[T, B, ...]` each. Errors as `trace`."""
        return self._returning(numbers).trace(x, key).logits  # which is the tree that the graph returns

    def _returning(self, numbers: tuple[int, ...]) -> "Snn":
        offsets = {name: offset for name, offset in self.network.offsets.items() if name != OUTPUT}
        return self.replace(network=self.network.replace(graph=self.network.graph.returning(numbers), offsets=offsets))

    def trace(self, x: ImagesLike, key: Key | None = None) -> Trace:
        """Outputs, spikes and potentials at every step, at the cost of T passes.

        With the key of `apply` it shows the spikes that `apply` counts, and the mean of its outputs is that of `apply`
        but for rounding. The exception is a folded network with "tpp": there `apply` draws each count at once, and the
        trace draws at each of T steps. Both follow the same law, but the counts differ.

        Raises:
          InputError: as `apply`.
        """
        run = self._run(x, key, traced=True)
        over_time = (run.steps, run.spikes, run.potentials, run.currents)
        return Trace(*jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), over_time))

    def for_any_T(self) -> "Snn":
        """The same network for jit: if it is folded, only arrays depend on T, so one compilation serves every T.

        It can't be traced, its `T` is None, and its network has no history, which may mention T.
        """
        if not self.folded:
            return self
        return self.replace(network=self.network.replace(history=()), T=None)

    def _run(self, x: ImagesLike, key: Key | None, counted: bool = False, traced: bool = False) -> Simulation:
        """Checks the arguments, and runs the compiled network."""
        x = self.network.batch(x)
        recorded = x.ndim == len(self.network.graph.shape) + 2
        if self.T is not None and recorded:
            check_frames(x.shape[1], self.T)
            if ahead := [mode for site, mode in self.modes.items() if self.in_network[site].lead]:
                raise InputError(f"mode {ahead[0]} runs ahead of its T steps, for which recordings have no frames")
        key = self._key(key, len(x))
        # On several devices the examples are spread already.
        together = traced or self.folded or jax.local_device_count() > 1
        chunk_size = len(x) if together else self.batch_size()
        snn = self if traced else self.for_any_T()
        snn = snn.replace(network=snn.network.replace(history=()))  # nothing computed depends on it
        return compiled(snn, x, key, min(chunk_size, len(x)), counted, traced)

    def _key(self, key: Key | None, batch: int) -> Key | None:
        """The key, or keys, of `prng.HASH` that are made of it; None if nothing is random."""
        if not self.random:
            return None
        if key is None:
            raise InputError(f"mode {self.mode!r} draws at random and needs a key: pass key=jax.random.key(seed)")
        if not jnp.issubdtype(getattr(key, "dtype", bool), jax.dtypes.prng_key) or key.shape not in ((), (batch,)):
            raise InputError(
                f"key is one typed PRNG key, such as jax.random.key(0), or one per example, [{batch}]; "
                f"got {getattr(key, 'dtype', type(key))} of shape {getattr(key, 'shape', ())}"
            )
        return prng.hashed(key) if key.ndim == 0 else jax.vmap(prng.hashed)(key)


def to_snn(
    params: Any,
    T: int = 16,
    mode: str | Neuron | dict[str, str | Neuron] = "tpp",
    *,
    example: Any = None,
) -> Snn:
    """The spiking version of a trained network: the same weights, and neurons with threshold theta at each site.

    This is a pure function: it copies and changes nothing, and equal arguments give equal networks, which share one
    compilation.

    Args:
      params: a `Network`, or any network that `trace` takes: an `Ann`, which training returns, or a model of any
        library.
      T: number of time steps.
      mode: the neurons: a name in `tppjax.neurons.NEURONS`, such as "baseline", "shuffle" or "tpp" (the paper's), if
        need be with fields, `"baseline(v_init=0.25)"`; a `Neuron`; or one of these for every site,
        `{"stage1_block1/conv1": "tpp", ...}`.
      example: one input `[1, ...]`, where `trace` needs one.

    Returns:
      The spiking network.

    Raises:
      InputError: if an argument is out of range, or a threshold is missing, not positive or not finite; or as `trace`.

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
    time = {"T": np.float32(T), "tables": {site: neuron.tables(int(T)) for site, neuron in at_sites.items()}}
    return Snn(network, FrozenDict(neurons), int(T), time)

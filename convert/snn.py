"""Conversion: an ANN's parameters to a spiking network over T steps, as a pure function."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from convert import folded, stepped
from convert.checks import check_frames, check_mode, check_order, check_thresholds
from convert.folded import TWO_PHASE
from convert.stepped import Settings, Simulation
from tppjax import prng, sharding
from tppjax.counts import check_steps
from tppjax.errors import InputError, check_number
from tppjax.network import OUTPUT, Network
from tppjax.tracing import trace

RANDOM = ("shuffle", "tpp", "unbiased")


class Trace(struct.PyTreeNode):
    """What happened inside an SNN, step by step.

    Attributes:
      logits: of each step, `[T, B, K]`; their mean over T is what the network answers.
      spikes: `{site: [T, B, ...]}`, in {0, 1}, as they are sent to the next layer.
      potentials: `{site: [T, B, ...]}`, before firing, in the units of theta.
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
      settings: modes, T and how neurons begin; T is None after `for_any_T`.
      time: what sites need to know of time, as arrays: folded ones of T, shuffled ones of a given order.
    """

    network: Network
    settings: Settings = struct.field(pytree_node=False)
    time: dict

    @property
    def T(self) -> int | None:
        """Number of time steps; None after `for_any_T`."""
        return self.settings.T

    @property
    def modes(self) -> dict[str, str]:
        """Of each site, in the order in which they run."""
        return dict(self.settings.modes)

    @property
    def mode(self) -> str | dict[str, str]:
        """The mode of all sites, or of each."""
        kinds = set(self.modes.values())
        return kinds.pop() if len(kinds) == 1 else self.modes

    @property
    def folded(self) -> bool:
        """Whether time is folded away, so that T steps cost one pass."""
        return set(self.modes.values()) <= set(TWO_PHASE)

    @property
    def random(self) -> bool:
        """Whether a key is needed."""
        ordered = {"shuffle"} if "order" in self.time else set()
        return bool(set(self.modes.values()) & set(RANDOM) - ordered)

    def batch_size(self, seeds: int = 1, traced: bool = False) -> int:
        """Examples a call that keep within `sharding.budget()` in a `sharding.sweep` of seeds.

        Step by step all sites remember, folded they come one after another; some four floats a neuron, and T bytes more
        where an order is shared. A trace has three floats more for each step.
        """
        neurons = [math.prod(site.shape) for site in self.network.sites.values()]
        per_step = 12 * traced + self.settings.shared_order
        kept = 16 * max(neurons) if self.folded and not traced else (16 + per_step * self.T) * sum(neurons)
        return sharding.at_once(kept * sharding.side_by_side(sharding.mesh(jax.local_devices()), seeds))

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
        return run.mean, run.fired

    def values(self, x, key, numbers: tuple[int, ...]) -> list[jax.Array]:
        """These values of the graph, means over time, `[B, ...]` each. Errors as `apply`."""
        offsets = {name: offset for name, offset in self.network.offsets.items() if name != OUTPUT}
        network = self.network.replace(graph=self.network.graph.returning(numbers), offsets=offsets)
        return self.replace(network=network).apply(x, key)

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
        return Trace(*jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), tuple(run[2:])))

    def for_any_T(self) -> "Snn":
        """The same network for jit: if folded, all that depends on T is arrays, so one compilation serves every T.

        It can't be traced, its `T` is None, and its network has no history, which may tell of T.
        """
        if not self.folded:
            return self
        settings = dataclasses.replace(self.settings, T=None)
        return self.replace(network=self.network.replace(history=()), settings=settings)

    def _run(self, x, key, counted=False, traced=False) -> Simulation:
        """`_compiled`, once all that `apply` refuses has been."""
        x = self.network.batch(x)
        recorded = x.ndim == len(self.network.graph.shape) + 2
        if self.T is not None and recorded:
            check_frames(x.shape[1], self.T)
        key = self._key(key, len(x))
        # On several devices the examples lie side by side already.
        together = traced or self.folded or jax.local_device_count() > 1
        at_once = len(x) if together else self.batch_size()
        snn = self if traced else self.for_any_T()
        snn = snn.replace(network=snn.network.replace(history=()))  # nothing computed depends on it
        return _compiled(snn, x, key, min(at_once, len(x)), counted, traced)

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


@partial(jax.jit, static_argnames=("at_once", "counted", "traced"))
def _compiled(snn: Snn, x, key, at_once: int, counted: bool, traced: bool) -> Simulation:
    """What every example gives by itself; the spikes of each site if `counted`, every step if `traced`."""
    x = snn.network.frames(x)
    keys = example_keys(key, jnp.arange(len(x))) if key is not None and key.ndim == 0 else key
    one = partial(_folded if snn.folded and not traced else _stepped, snn, traced)
    if len(x) <= at_once:
        run = jax.vmap(one)(x, keys)
    else:
        lots = stepped.lots(len(x), at_once)
        run = jax.lax.map(lambda lot: jax.vmap(one)(*jax.tree.map(lambda a: a[lot], (x, keys))), lots)
        run = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(x)], run)
    return run if counted or traced else Simulation(run.mean, {})


def _folded(snn: Snn, traced, x, key) -> Simulation:
    """One example, of a recording the mean of its frames."""
    x = x if x.ndim == len(snn.network.graph.shape) else x.mean(axis=0)
    mean, fired = folded.run(snn.network, x[None], key, snn.modes, snn.time)
    return jax.tree.map(lambda a: a[0], Simulation(_corrected(snn, mean), fired))


def _stepped(snn: Snn, traced, x, key) -> Simulation:
    """One example, step by step."""
    recorded = x.ndim > len(snn.network.graph.shape)
    x = stepped.at_steps(x, snn.T)[:, None] if recorded else x[None]
    run = stepped.simulate(snn.network, x, key, snn.settings, snn.time.get("order"), traced)
    steps = jax.tree.map(lambda a: a[:, 0], tuple(run[2:]))
    return Simulation(*jax.tree.map(lambda a: a[0], (_corrected(snn, run.mean), run.fired)), *steps)


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
    mode: str | dict[str, str] = "tpp",
    *,
    example=None,
    v_init: float | None = None,
    shift: float | None = None,
    shared_order: bool = False,
    order=None,
) -> Snn:
    """The spiking version of a trained network: same weights, spiking neurons with threshold theta at each site.

    A pure function: nothing is copied or changed, and equal arguments give equal networks that share one compilation.

    Args:
      params: a `Network`, or what `trace` makes one of: an `Ann`, as training returns it, or a model of any library.
      T: number of time steps.
      mode: "baseline", "shuffle", "tpp" (the paper's), "rounded" or "unbiased" (ours); or one for every site,
        `{"stage1_block1/conv1": "tpp", ...}`.
      example: one input `[1, ...]`, where `trace` needs one.
      v_init: potential of `baseline` and `shuffle` neurons before the first step, in thresholds; that of two-phase
        neurons is 0.
      shift: added to the input of `baseline` and `shuffle` neurons over all T steps together, in thresholds. Without
        either, as the baselines' authors have it: v_init 1/2 for QCFS, shift 1/2 for clipped ReLU (RTS) and for ReLU
        (SNNC); with one of them, the other is 0.
      shared_order: in mode "shuffle", one random order for all neurons of a layer, the other reading of Algorithm 2.
      order: in mode "shuffle", this order for all neurons of every layer, `[T]`: step `t` shows what step `order[t]`
        had. Nothing is random then, and one compilation serves every order.

    Returns:
      The spiking network.

    Raises:
      InputError: if an argument is out of range, or a threshold is missing, not positive or not finite; as `trace`.

    Example:
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
    modes = check_mode(mode, network)
    kinds = set(modes.values())
    v_init, shift = _beginning(network, v_init, shift)
    if network.preprocessing is not None:
        check_frames(network.preprocessing.frames, int(T))
    time = folded.in_time(int(T)) if kinds <= set(TWO_PHASE) else {}
    if order is not None:
        check_order(order, int(T), kinds)
        time, shared_order = {"order": np.asarray(order, np.int32)}, True
    return Snn(network, Settings(tuple(modes.items()), int(T), v_init, shift, shared_order), time)


def _beginning(network: Network, v_init, shift) -> tuple[float, float]:
    """`v_init` and `shift` as asked for, or as the authors of the baseline with these activations have them."""
    if v_init is None and shift is None:
        quantised = all(site.kind == "qcfs" for site in network.sites.values())
        return (0.5, 0.0) if quantised else (0.0, 0.5)
    for name, value in (("v_init", v_init), ("shift", shift)):
        if value is not None:
            check_number(name, value, -math.inf)
    return float(v_init or 0), float(shift or 0)

"""Conversion: an ANN's parameters to a spiking network over T steps, as a pure function."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util

from convert import steps
from convert.checks import check_frames, check_mode, check_network, check_order, no_threshold
from tppjax import prng, sharding
from tppjax.activations import QCFS
from tppjax.ann import Ann, check_hashable, sites, size, thresholds
from tppjax.checks import check_ann
from tppjax.counts import check_steps
from tppjax.errors import InputError, check_number
from tppjax.spiking import RANDOM, TWO_PHASE, Spiking, in_time


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

    Images are `[B, H, W, C]`: uint8 pixels, or floats already normalised; the same image enters at every step (constant
    coding) and the first layer of weights is analog, as in all baselines of the paper. Recordings are
    `[B, frames, H, W, C]` and enter frame after frame, each for T / frames steps, or the mean of frames / T for one.
    `key` is one PRNG key, which is folded with each example's place in the batch, or one key per example, `[B]`; of
    whatever kind, `prng.HASH` draws for it. An example's noise depends on its key and the site alone: it does not
    change with the batch or the number of devices, nor under jit and vmap.

    Calls are compiled, once for each structure and shape of `x`: equal networks share it, and folded ones of every T.

    Attributes:
      ann: what it was converted from, whose variables it shares; without preprocessing if those were raw, in which case
        it takes floats.
      model: the ANN's model with `Spiking` in place of its activation.
      time: what sites need to know of time, as arrays: folded ones of T, shuffled ones of a given order.
    """

    ann: Ann
    model: nn.Module = struct.field(pytree_node=False)
    time: dict

    @property
    def variables(self) -> dict:
        """The ANN's."""
        return self.ann.variables

    @property
    def T(self) -> int | None:
        """Number of time steps; None after `for_any_T`."""
        return self.model.act.T

    @property
    def mode(self) -> str | dict[str, str]:
        """The mode of all sites, or of each."""
        return self.model.act.mode if isinstance(self.model.act.mode, str) else dict(self.model.act.mode)

    @property
    def random(self) -> bool:
        """Whether a key is needed."""
        ordered = {"shuffle"} if "order" in self.time else set()
        return bool(_modes(self.mode) & set(RANDOM) - ordered)

    def batch_size(self, input_shape, seeds: int = 1, traced: bool = False) -> int:
        """Images a call, over this host's devices, that keep within `sharding.budget()` in a `sharding.sweep` of seeds.

        Step by step all sites remember, folded they come one after another; some four floats a neuron, and T bytes more
        where an order is shared. A trace has three floats more for each step.
        """
        found, act = sites(self.ann.model, input_shape[-3:]).values(), self.model.act
        neurons = [math.prod(site.shape) for site in found]
        per_step = 12 * traced + act.shared_order
        kept = 16 * max(neurons) if act.folded and not traced else (16 + per_step * act.T) * sum(neurons)
        return sharding.at_once(kept * sharding.side_by_side(sharding.mesh(jax.local_devices()), seeds))

    def __repr__(self):
        modes = ", ".join(sorted(_modes(self.mode)))
        return f"Snn({type(self.model).__name__}, mode={modes!r}, T={self.T}, {size(self.variables)})"

    def apply(self, x, key=None):
        """Logits `[B, K]`, the mean over T; where every site is two-phase, at the cost of one pass whatever T.

        Raises:
          InputError: if a random mode gets no key, or `x` does not fit the network.
        """
        return self._run(x, key, counted=False)

    def activity(self, x, key=None):
        """Logits `[B, K]` and `{site: number of spikes of each neuron}`, `[B, ...]`.

        Raises:
          InputError: as `apply`.
        """
        return self._run(x, key)

    def look(self, x, key, apply):
        """What `apply(model, variables, x, rngs=, mutable=)` gives, less collections; means over time, `[B, ...]`."""
        return self._run(x, key, counted=False, apply=apply)

    def trace(self, x, key=None) -> Trace:
        """Logits, spikes and potentials at every step; time is never folded here, so T passes are paid.

        With the key of `apply` it shows the spikes that `apply` counts, and the mean of its logits is that of `apply`,
        but for rounding. Not where `apply` folds time and a site is "tpp": there `apply` draws the count from its law
        with one random number a neuron, and the trace draws at each of T steps. Both follow one law; counts differ.

        Raises:
          InputError: as `apply`.
        """
        if self.T is None:
            raise InputError("a network for any T can't be traced: trace the one that for_any_T() was called on")
        return self._run(x, key, traced=True)

    def for_any_T(self) -> "Snn":
        """The same network for jit: if folded, all that depends on T is arrays, so one compilation serves every T.

        It can't be traced, its `T` is None, and its ANN has no history, which may tell of T.
        """
        if not self.model.act.folded:
            return self
        model = self.model.clone(act=self.model.act.clone(T=None))
        return self.replace(ann=self.ann.replace(history=()), model=model)

    def _run(self, x, key, traced=False, **asked):
        """`_compiled`, once all that `apply` refuses has been."""
        x = self.ann.batch(x)
        if self.T is not None and x.ndim == 5:
            check_frames(x.shape[1], self.T)
        if self.ann.preprocessing is None:
            check_network(self.ann, self.mode, x.shape[-3:])
        key = self._key(key, len(x))
        # On several devices the examples lie side by side already.
        together = traced or self.model.act.folded or jax.local_device_count() > 1
        at_once = len(x) if together else self.batch_size(x.shape[1:])
        snn = self if traced else self.for_any_T()
        snn = snn.replace(ann=snn.ann.replace(history=()))  # nothing computed depends on it
        return _compiled(snn, x, key, at_once, traced=traced, **asked)

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


@partial(jax.jit, static_argnames=("at_once", "traced", "counted", "apply"))
def _compiled(snn: Snn, x, key, at_once: int, *, traced=False, counted=True, apply=nn.Module.apply):
    """What `apply` gives for every example by itself, means over time; and the spikes of each site, if `counted`.

    Or the `Trace`, if `traced`. Not folded, `at_once` examples are run at a time.
    """
    x = snn.ann.frames(x)
    keys = example_keys(key, jnp.arange(len(x))) if key is not None and key.ndim == 0 else key
    order = sites(snn.ann.model, x.shape[-3:])
    modes = {site: snn.mode if isinstance(snn.mode, str) else snn.mode[site] for site in order}
    time = {f"{site}/{name}": leaf for site in modes for name, leaf in snn.time.items()}
    variables = {**snn.variables, "time": traverse_util.unflatten_dict(time, sep="/")}
    if traced:
        model = snn.model.clone(act=snn.model.act.clone(folded=False))
        run = steps.run(model, variables, x, keys, modes, at_once, traced=True)
        return Trace(*jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), run[2:]))
    run = steps.folded if snn.model.act.folded else partial(steps.run, at_once=at_once)
    mean, fired = run(snn.model, variables, x, keys, modes, apply=apply)[:2]
    return (mean, fired) if counted else mean


def example_keys(key, index):
    """One key of `prng.HASH` per example, `[B]`, from a seed's key and each example's index in the data set, `[B]`."""
    return jax.vmap(jax.random.fold_in, (None, 0))(prng.hashed(key), index)


def to_snn(
    params,
    T: int = 16,
    mode: str | dict[str, str] = "tpp",
    *,
    model: nn.Module | None = None,
    v_init: float | None = None,
    shift: float | None = None,
    shared_order: bool = False,
    order=None,
) -> Snn:
    """The spiking version of a trained network: same parameters, spiking neurons with threshold theta at each site.

    A pure function: nothing is copied or changed, and equal arguments give equal networks that share one compilation.

    Args:
      params: an `Ann`, as training returns it and `tppjax.ann.load` gives it back; or raw variables, with `model`.
      T: number of time steps.
      mode: "baseline", "shuffle", "tpp" (the paper's), "rounded" or "unbiased" (ours); or one for every site,
        `{"stage1_block1/act1": "tpp", ...}`.
      model: the Flax module of raw variables; it has the activation in a field `act` and a copy of it at each site.
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
      InputError: if an argument is out of range, a threshold is missing, not positive or not finite, something between
        two sites is not linear, or a layer counts axes from the front. Says what, and where; for raw variables, the
        last two when images come.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from tppjax import models
      >>> from tppjax.activations import QCFS
      >>> model = models.create("vgg_small", num_classes=10, act=QCFS(L=8))
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
      >>> snn = to_snn(variables, T=16, mode="tpp", model=model)
      >>> snn.apply(jnp.ones((2, 8, 8, 1)), key=jax.random.key(1)).shape
      (2, 10)
    """
    check_steps(T)
    ann = _ann(params, model)
    check_ann(ann)
    check_hashable(ann.model)
    mode = check_mode(mode, thresholds(ann.variables))
    v_init, shift = _beginning(ann.model.act, v_init, shift)
    if ann.preprocessing is not None:
        check_network(ann, mode, ann.preprocessing.input_shape)
        check_frames(ann.preprocessing.frames, int(T))
    if not thresholds(ann.variables):
        raise no_threshold(ann.model.act)
    folded = _modes(mode) <= set(TWO_PHASE)
    time = in_time(int(T)) if folded else {}
    if order is not None:
        check_order(order, int(T), _modes(mode))
        time, shared_order = {"order": np.asarray(order, np.int32)}, True
    act = Spiking(mode, int(T), folded, v_init=v_init, shift=shift, shared_order=shared_order)
    return Snn(ann, ann.model.clone(act=act), time)


def _ann(params, model) -> Ann:
    if isinstance(params, Ann):
        return params if model is None else params.replace(model=model)
    if model is None or not hasattr(params, "keys") or "params" not in params:
        raise InputError(
            "to_snn takes an Ann (tppjax.ann.load gives one), or raw variables {'params': ...} with model= the module "
            f"they belong to; got {type(params).__name__}" + (" without model=" if model is None else "")
        )
    return Ann(params, model)


def _beginning(act, v_init, shift) -> tuple[float, float]:
    """`v_init` and `shift` as asked for, or as the authors of the baseline with this activation have them."""
    if v_init is None and shift is None:
        return (0.5, 0.0) if isinstance(act, QCFS) else (0.0, 0.5)
    for name, value in (("v_init", v_init), ("shift", shift)):
        if value is not None:
            check_number(name, value, -math.inf)
    return float(v_init or 0), float(shift or 0)


def _modes(mode) -> set[str]:
    return {mode} if isinstance(mode, str) else set(dict(mode).values())

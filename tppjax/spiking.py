"""A layer of spiking neurons: the module that takes an activation's place and reads the activation's leaf `theta`."""

import flax.linen as nn
import jax.numpy as jnp

from tppjax import counts, neurons
from tppjax.activations import max_pool

TWO_PHASE = ("tpp", "rounded", "unbiased")
MODES = ("baseline", "shuffle", *TWO_PHASE)
RANDOM = ("shuffle", "tpp", "unbiased")


class Spiking(nn.Module):
    """Spiking neurons over `T` steps, for one example (batches are made by `vmap`, so that each has its own key).

    Folded in time, input and output are means over time: the mean current `[...]` in, the rate `theta count / T` out.
    This is exact where every site of the network is two-phase, since such a neuron reads only the sum of its input,
    and all that lies between two sites is linear. Otherwise the input is the current over time, `[T, ...]` or
    `[1, ...]` for one that does not change, and the output is `theta` times the spikes, `[T, ...]`.

    Attributes:
      mode: one of `MODES`, or a tuple of (site, mode) with one for every site of the network.
      T: number of time steps.
      folded: whether time is folded away.
      v_init: potential of `baseline` and `shuffle` before the first step, in thresholds; two-phase neurons start at 0.
      shift: of `baseline` and `shuffle`, added to the input over all T steps together, in thresholds (RTS).
      shared_order: in mode `shuffle`, one random order for all neurons of the site instead of one for each.
      max_pool: (size, stride, padding) of the windows over whose potentials the maximum is taken before a two-phase
        neuron fires; `baseline` and `shuffle` neurons have no potential to compare before they fire, and refuse.
    """

    mode: str | tuple[tuple[str, str], ...]
    T: int
    folded: bool
    v_init: float = 0.5
    shift: float = 0.0
    shared_order: bool = False
    max_pool: tuple[int, int, int] | None = None

    @nn.compact
    def __call__(self, x):
        """Means over time `[...]` if folded, else over time `[T, ...]`. Random modes draw from the stream "spikes".

        Sows `count` in the collection "activity"; if not folded, `spikes` and `potential` over time in "trace".
        """
        theta = self.get_variable("params", "theta")
        mode = self.mode if isinstance(self.mode, str) else dict(self.mode)["/".join(self.path)]
        if self.folded:
            v = max_pool(self.T * x, self.max_pool)
            theta = jnp.broadcast_to(theta, v.shape)
            count = self._count(mode, v, theta)
            self._sow("activity", "count", count)
            return theta * count / self.T
        current = jnp.broadcast_to(x, (self.T, *x.shape[1:]))
        if mode in TWO_PHASE:  # all the current comes before the first spike
            v_init = max_pool(current.sum(axis=0), self.max_pool)
            theta = jnp.broadcast_to(theta, v_init.shape)
            current = jnp.zeros((self.T, *v_init.shape), v_init.dtype)
        elif self.max_pool:
            raise ValueError(max_pool_refused(mode, "/".join(self.path)))
        else:
            theta = jnp.broadcast_to(theta, current.shape[1:])
            v_init, current = self.v_init * theta, current + (self.shift * theta / self.T)[None]
        spikes = self._fire(mode, current, theta, v_init)
        self._sow("activity", "count", spikes.sum(axis=0))
        self._sow("trace", "spikes", spikes)
        return theta[None] * spikes

    def _count(self, mode, v, theta):
        match mode:
            case "tpp":
                return counts.tpp(v, theta, self.T, self.make_rng("spikes"))
            case "rounded":
                return counts.rounded(v, theta, self.T)
            case "unbiased":
                return counts.unbiased(v, theta, self.T, self.make_rng("spikes"))

    def _fire(self, mode, current, theta, v_init):
        match mode:
            case "baseline" | "shuffle":
                spikes = neurons.integrate_and_fire(current, theta, v_init)
            case "tpp":
                spikes = neurons.tpp(v_init, theta, self.T, self.make_rng("spikes"))
            case "rounded":
                spikes = neurons.rounded(v_init, theta, self.T)
            case "unbiased":
                spikes = neurons.unbiased(v_init, theta, self.T, self.make_rng("spikes"))
        if self.is_mutable_collection("trace"):
            self._sow("trace", "potential", neurons.potential(current, spikes, theta, v_init))
        if mode == "shuffle":
            spikes = neurons.shuffle(spikes, self.make_rng("spikes"), self.shared_order)
        return spikes

    def _sow(self, collection, name, value):
        self.sow(collection, name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)


def max_pool_refused(mode: str, site: str) -> str:
    """Why a network with max-pooling at `site` has no version of `mode`."""
    return (
        f"mode {mode!r} can't have the max-pool at {site}: its neurons fire at every step, and the maximum over the "
        f"spikes of a step is not the maximum over rates; use a two-phase mode ({', '.join(TWO_PHASE)}), which pools "
        "the potentials before it fires, or train with average pooling"
    )

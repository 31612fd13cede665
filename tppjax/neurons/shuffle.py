"""The spikes of the baseline in another order: Algorithm 2, and the given orders of Figures 11 and 12."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.errors import InputError
from tppjax.neurons.base import Delayed
from tppjax.neurons.baseline import IntegrateAndFire
from tppjax.neurons.tpp import fire
from tppjax.types import Key


class Fired(NamedTuple):
    """The state of baseline neurons in the first phase.

    Attributes:
      u: the potential before firing.
      spikes: the number of spikes so far; or, if trains are kept, the spikes of each step, `[T, ...]`.
    """

    u: jax.Array
    spikes: jax.Array


@dataclass(frozen=True)
class Reordered(IntegrateAndFire, Delayed):
    """The spikes of `Baseline` in another order; the first phase keeps the spike trains, or only the counts."""

    trains = True

    def init(self, shape: tuple[int, ...], T: int) -> Fired:
        """No potential, no spikes."""
        return Fired(jnp.zeros(shape), jnp.zeros((T, *shape), bool) if self.trains else jnp.zeros(shape))

    def accumulate(self, state: Fired, x: jax.Array, t: jax.Array, T: int, key: Key | None) -> Fired:
        """A step of the baseline, whose spikes are kept."""
        u, spikes = self.integrate(state.u, x, t, T)
        return Fired(u, state.spikes.at[t].set(spikes > 0) if self.trains else state.spikes + spikes)


@dataclass(frozen=True)
class Shuffle(Reordered):
    """Algorithm 2: random order.

    The train of every neuron gets its own uniform permutation (Appendix G). It is drawn without sorting: a neuron with
    `n` spikes and `k` steps left fires with probability `n / k`, which is Eq. 7 for a whole number of thresholds.

    Attributes:
      shared: whether all neurons of a site share one order, which is the other reading of Algorithm 2.
    """

    random = True
    shared: bool = False

    @property
    def trains(self) -> bool:
        """Whether trains are kept: with a shared order, the counts do not suffice."""
        return self.shared

    def step(self, u: Fired, n: jax.Array, t: jax.Array, T: int, key: Key | None) -> jax.Array:
        """With a shared order the spikes of a step of the baseline, else those of Eq. 7."""
        assert key is not None
        if self.shared:
            return u.spikes[jax.random.permutation(key, T)[t]].astype(jnp.float32)
        return fire(u.spikes, n, T - t, jax.random.fold_in(key, t))


@dataclass(frozen=True)
class Ordered(Reordered):
    """A given order, the same for all neurons.

    Attributes:
      order: a permutation of 0 to T - 1: step `t` sends the spikes of step `order[t]`. All orders share a compilation.
    """

    order: Sequence[int] = field(default=(), compare=False)

    def tables(self, T: int) -> dict[str, np.ndarray]:
        """The order."""
        if np.shape(self.order) != (T,) or sorted(self.order) != list(range(T)):
            raise InputError(f"order has each of the steps 0 to {T - 1} once; got {self.order}")
        return {"order": np.array(self.order, np.int32)}

    def step(self, u: Fired, n: jax.Array, t: jax.Array, T: int, key: Key | None, order: jax.Array) -> jax.Array:
        """Spikes of step `order[t]`."""
        return u.spikes[order[t]].astype(jnp.float32)

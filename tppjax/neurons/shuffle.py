"""The spikes of the baseline in another order: Algorithm 2, and the given orders of Figures 11 and 12."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.errors import InputError
from tppjax.neurons.base import Delayed
from tppjax.neurons.baseline import IntegrateAndFire
from tppjax.neurons.tpp import fire


class Fired(NamedTuple):
    """What baseline neurons did in the first phase.

    Attributes:
      u: their potential before firing.
      spikes: how many they fired; or where trains are kept, what they fired at each step, `[T, ...]`.
    """

    u: jax.Array
    spikes: jax.Array


@dataclass(frozen=True)
class Reordered(IntegrateAndFire, Delayed):
    """The spikes of `Baseline` in another order; the first phase keeps their trains, or only how many they are."""

    trains = True

    def init(self, shape, T):
        """No potential, no spikes."""
        return Fired(jnp.zeros(shape), jnp.zeros((T, *shape), bool) if self.trains else jnp.zeros(shape))

    def accumulate(self, state, x, t, T, key):
        """A step of the baseline, whose spikes are kept."""
        u, spikes = self.integrate(state.u, x, t, T)
        return Fired(u, state.spikes.at[t].set(spikes > 0) if self.trains else state.spikes + spikes)

    def potential(self, state):
        """The baseline's."""
        return state.u


@dataclass(frozen=True)
class Shuffle(Reordered):
    """Algorithm 2: random order.

    Every neuron's train gets its own uniform permutation (Appendix G). It is drawn without sorting: a neuron with `n`
    spikes and `k` steps left fires with probability `n / k`, which is Eq. 7 for a whole number of thresholds.

    Attributes:
      shared: one order for all neurons of a site instead, the other reading of Algorithm 2.
    """

    random = True
    shared: bool = False

    @property
    def trains(self):
        """Where an order is shared, the count does not tell what a neuron fired."""
        return self.shared

    def step(self, u, n, t, T, key):
        """Spikes of one of the baseline's steps where an order is shared, else of random neurons."""
        if self.shared:
            return u.spikes[jax.random.permutation(key, T)[t]].astype(jnp.float32)
        return fire(u.spikes, n, T - t, jax.random.fold_in(key, t))


@dataclass(frozen=True)
class Ordered(Reordered):
    """One given order, the same for all neurons.

    Attributes:
      order: a permutation of 0 to T - 1: step `t` shows what step `order[t]` had. One compilation serves every order.
    """

    order: tuple[int, ...] = field(default=(), compare=False)

    def tables(self, T):
        """The order."""
        if np.shape(self.order) != (T,) or sorted(self.order) != list(range(T)):
            raise InputError(f"order has each of the steps 0 to {T - 1} once; got {self.order}")
        return {"order": np.array(self.order, np.int32)}

    def step(self, u, n, t, T, key, order):
        """Spikes of step `order[t]`."""
        return u.spikes[order[t]].astype(jnp.float32)

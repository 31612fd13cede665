"""The two-phase neuron whose mean count is its accumulated input, as Theorem 1(a) claims for tpp. It is ours."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tppjax.neurons import tpp
from tppjax.neurons.base import Steps, TwoPhase
from tppjax.types import Array, Key


@dataclass(frozen=True)
class Unbiased(TwoPhase):
    """`count = floor(u) + Bernoulli(u - floor(u))`, `u` clipped to 0..T, at uniformly random steps.

    `E[s[t]] = clip(u, 0, T) / T` at every step.
    """

    random = True

    def count(self, u: Array, T: Steps, key: Key | None) -> jax.Array:
        """Whole numbers whose mean is `clip(u, 0, T)`."""
        assert key is not None
        u = jnp.clip(u, 0, T)
        return jnp.floor(u) + jax.random.bernoulli(key, u - jnp.floor(u))

    def step(self, u: jax.Array, n: jax.Array, t: jax.Array, T: int, key: Key | None) -> jax.Array:
        """The spikes of `count` in random order, which is Eq. 7 for a whole number of thresholds."""
        assert key is not None
        return tpp.fire(self.count(u, T, key), n, T - t, jax.random.fold_in(key, t))

    def squared_error(self, x: Array, theta: Array | float, T: int) -> jax.Array:
        """As `Neuron.squared_error`, exactly."""
        return tpp.error_of_two(x, theta, T, lambda u, a: u - a)

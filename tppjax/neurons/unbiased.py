"""The two-phase neuron whose mean count is what it accumulated. Ours: it mends what Theorem 1(a) says of tpp."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tppjax.neurons import tpp
from tppjax.neurons.base import TwoPhase


@dataclass(frozen=True)
class Unbiased(TwoPhase):
    """`count = floor(u) + Bernoulli(u - floor(u))`, `u` clipped to 0..T, at uniformly random steps.

    `E[s[t]] = clip(u, 0, T) / T` at every step.
    """

    random = True

    def count(self, u, T, key):
        """Whole numbers whose mean is `clip(u, 0, T)`."""
        u = jnp.clip(u, 0, T)
        return jnp.floor(u) + jax.random.bernoulli(key, u - jnp.floor(u))

    def step(self, u, n, t, T, key):
        """The spikes of `count` in random order, which is Eq. 7 for a whole number of thresholds."""
        return tpp.fire(self.count(u, T, key), n, T - t, jax.random.fold_in(key, t))

    def squared_error(self, x, theta, T):
        """As `Neuron.squared_error`, exactly."""
        return tpp.error_of_two(x, theta, T, lambda u, a: u - a)

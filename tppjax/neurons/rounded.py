"""The deterministic two-phase neuron, with the nearest count. It is ours; with T = L it is QCFS in spikes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from tppjax.neurons.base import Steps, TwoPhase
from tppjax.types import Array, Key


@dataclass(frozen=True)
class Rounded(TwoPhase):
    """`count = clip(floor(u + 1/2), 0, T)`, spread evenly over the steps.

    With `T = L` it is QCFS (Bu et al., ICLR 2022), so the conversion is exact.
    """

    def count(self, u: Array, T: Steps, key: Key | None) -> jax.Array:
        """The nearest whole number in 0..T."""
        return nearest(u, T)


def nearest(u: Array, most: ArrayLike) -> jax.Array:
    """`clip(floor(u + 1/2), 0, most)`."""
    return jnp.clip(jnp.floor(u + 0.5), 0, most)

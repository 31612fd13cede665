"""The two-phase neuron without chance: the nearest count. Ours; with T = L it is the QCFS activation in spikes."""

from dataclasses import dataclass

import jax.numpy as jnp

from tppjax.neurons.base import TwoPhase


@dataclass(frozen=True)
class Rounded(TwoPhase):
    """`count = clip(floor(u + 1/2), 0, T)`, spread evenly over the steps.

    With `T = L` it is QCFS (Bu et al., ICLR 2022), hence an exact conversion.
    """

    def count(self, u, T, key):
        """The nearest whole number in 0..T."""
        return nearest(u, T)


def nearest(u, most):
    """`clip(floor(u + 1/2), 0, most)`."""
    return jnp.clip(jnp.floor(u + 0.5), 0, most)

"""Burst spikes: up to gamma spikes in a step."""

from dataclasses import dataclass

import jax.numpy as jnp

from tppjax.errors import check_count
from tppjax.neurons.base import OnePhase


@dataclass(frozen=True)
class Burst(OnePhase):
    """`s[t] = clip(floor(u[t]), 0, gamma)`: what is left of the potential goes out within the step.

    Li & Zeng, Conversion of Spiking Neural Network with Burst Spikes, IJCAI 2022; gamma is 2 in their repository
    (Brain-Cog-Lab/Conversion_Burst), 5 in BrainCog. With `gamma=1` it is `Baseline(v_init=0)`. A burst costs gamma
    spikes: T steps are not T binary steps.

    Attributes:
      gamma: the most spikes in a step.
      v_init: potential before the first step, in thresholds; its authors' is 0.
    """

    gamma: int = 5
    v_init: float = 0.0

    def __post_init__(self):
        check_count("gamma", self.gamma)

    @property
    def levels(self):
        """`gamma`."""
        return self.gamma

    def init(self, shape, T):
        """No potential; the first step begins at `v_init`."""
        return jnp.zeros(shape)

    def step(self, state, x, t, T, key):
        """Soft reset by as many thresholds as there are spikes."""
        u = jnp.where(t == 0, self.v_init, state - self.fired(state)) + x
        return u, self.fired(u)

    def fired(self, u):
        """Spikes of a potential."""
        return jnp.clip(jnp.floor(u), 0, self.gamma)

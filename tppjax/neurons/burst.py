"""Burst spikes: up to gamma spikes in a step."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tppjax.errors import check_count, check_number
from tppjax.neurons.base import OnePhase


class Bursting(NamedTuple):
    """The state after a step: potential before firing, spikes fired in it, and the number of all spikes so far."""

    u: jax.Array
    spikes: jax.Array
    n: jax.Array


@dataclass(frozen=True)
class Burst(OnePhase):
    """`s[t] = clip(floor(u[t]), 0, gamma)`: what is left of the potential goes out within the step.

    Li & Zeng, Conversion of Spiking Neural Network with Burst Spikes, IJCAI 2022; gamma is 2 in their repository
    (Brain-Cog-Lab/Conversion_Burst), 5 in BrainCog. With `gamma=1` it is `Baseline(v_init=0)`. A burst costs gamma
    spikes: T steps are not T binary steps.

    Attributes:
      gamma: the most spikes in a step.
      v_init: potential before the first step, in thresholds; its authors' is 0.
      capped: whether a neuron fires T spikes in all at most, so that its rate ends at theta. By default where all
        activations end there too (QCFS, clips); its authors have ReLU.
    """

    gamma: int = 5
    v_init: float = 0.0
    capped: bool | None = None

    def __post_init__(self):
        check_count("gamma", self.gamma)
        check_number("v_init", self.v_init, -math.inf)

    @property
    def levels(self):
        """`gamma`."""
        return self.gamma

    def at(self, kinds):
        """Capped, or not."""
        return self if self.capped is not None else replace(self, capped=kinds <= {"qcfs", "clip"})

    def init(self, shape, T):
        """`v_init`, and no spikes yet."""
        return Bursting(jnp.full(shape, float(self.v_init)), jnp.zeros(shape), jnp.zeros(shape))

    def step(self, state, x, t, T, key):
        """Soft reset by as many thresholds as there are spikes."""
        u = state.u - state.spikes + x
        spikes = jnp.clip(jnp.floor(u), 0, self.gamma)
        spikes = jnp.minimum(spikes, T - state.n) if self.capped else spikes
        return Bursting(u, spikes, state.n + spikes), spikes

    def potential(self, state):
        """Before firing."""
        return state.u

"""The signed neuron with memory: it takes back spikes that came too early."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tppjax.errors import check_number
from tppjax.neurons.base import OnePhase
from tppjax.neurons.baseline import fire


class Signed(NamedTuple):
    """The state after a step: potential before firing, the spike fired, and the sum of all spikes so far."""

    u: jax.Array
    spike: jax.Array
    memory: jax.Array


@dataclass(frozen=True)
class SNM(OnePhase):
    """`s[t] = 1` if `u[t] >= 1`; `-1` if `u[t] <= -1` and the sum of spikes so far is above 0; else 0.

    Wang et al., Signed Neuron with Memory, IJCAI 2022, as their code has it (ppppps/ANN2SNNConversion_SNM_NeuronNorm).
    They choose a threshold for each neuron, the largest activation; here thresholds are chosen as for the others.

    Attributes:
      v_init: potential before the first step, in thresholds; its authors' is 0.
    """

    v_init: float = 0.0
    signed = True

    def __post_init__(self):
        check_number("v_init", self.v_init, -math.inf)

    def init(self, shape, T):
        """`v_init`, and no spikes yet."""
        return Signed(jnp.full(shape, float(self.v_init)), jnp.zeros(shape), jnp.zeros(shape))

    def step(self, state, x, t, T, key):
        """Soft reset: a spike of -1 gives back what it took."""
        u = state.u - state.spike + x
        spike = fire(u) - fire(-u) * (state.memory > 0)
        return Signed(u, spike, state.memory + spike), spike

    def potential(self, state):
        """Before firing."""
        return state.u

"""The signed neuron with memory: it retracts spikes that were fired too early."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tppjax.errors import check_number
from tppjax.neurons.base import OnePhase
from tppjax.neurons.baseline import fire
from tppjax.types import Key


class Signed(NamedTuple):
    """The state after a step: the potential before firing, the spike, and the sum of all spikes so far."""

    u: jax.Array
    spike: jax.Array
    memory: jax.Array


@dataclass(frozen=True)
class SNM(OnePhase):
    """`s[t] = 1` if `u[t] >= 1`; `-1` if `u[t] <= -1` and the sum of spikes so far is above 0; else 0.

    Wang et al., Signed Neuron with Memory, IJCAI 2022, following their code
    (ppppps/ANN2SNNConversion_SNM_NeuronNorm). They use the largest activation of each neuron as its threshold; here
    thresholds are chosen as for the other neurons.

    Attributes:
      v_init: potential before the first step, in thresholds; 0 in the authors' code.
    """

    v_init: float = 0.0
    signed = True

    def __post_init__(self) -> None:
        check_number("v_init", self.v_init, -math.inf)

    def init(self, shape: tuple[int, ...], T: int) -> Signed:
        """`v_init`, and no spikes yet."""
        return Signed(jnp.full(shape, float(self.v_init)), jnp.zeros(shape), jnp.zeros(shape))

    def step(self, state: Signed, x: jax.Array, t: jax.Array, T: int, key: Key | None) -> tuple[Signed, jax.Array]:
        """Soft reset: a spike of -1 returns a threshold."""
        u = state.u - state.spike + x
        spike = fire(u) - fire(-u) * (state.memory > 0)
        return Signed(u, spike, state.memory + spike), spike

"""Two stages, the first of which tells which neurons are to stay silent: residual membrane potential."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tppjax.errors import check_count
from tppjax.neurons.base import OnePhase
from tppjax.neurons.baseline import fire

LEAST = 1e-3  # residual potential, in thresholds, up to which a neuron stays silent, as in their code


class Staged(NamedTuple):
    """The state after a step: potential before firing, and whether the second stage sends on what the neuron fires."""

    u: jax.Array
    open: jax.Array


@dataclass(frozen=True)
class SRP(OnePhase):
    """Integrate-and-fire neurons from half a threshold; those that `tau` steps leave without potential are silenced.

    Hao et al., Reducing ANN-SNN Conversion Error through Residual Membrane Potential, AAAI 2023, as their code has it
    (hzc1208/ANN2SNN_SRP). All layers run at once. In stage 1, steps -tau to -1, they fire as usual. A neuron whose
    potential after that is 0 or less has fired though the ANN's activation is 0, most likely: in stage 2, the T steps
    that count, begun anew, what it fires is not sent on. An image costs tau + T steps.

    Attributes:
      tau: steps of stage 1; 4 for their CIFAR networks, 8 and 14 on ImageNet.
    """

    tau: int = 4

    def __post_init__(self):
        check_count("tau", self.tau)

    @property
    def lead(self):
        """`tau`."""
        return self.tau

    def init(self, shape, T):
        """Nothing is silenced yet."""
        return Staged(jnp.zeros(shape), jnp.ones(shape, bool))

    def step(self, state, x, t, T, key):
        """A step of either stage."""
        residual = state.u - fire(state.u)
        mask = jnp.where(t == 0, residual > LEAST, state.open)
        u = jnp.where((t == 0) | (t == -self.tau), 0.5, residual) + x
        return Staged(u, mask), fire(u) * mask

    def potential(self, state):
        """Before firing, also of those that are silenced."""
        return state.u

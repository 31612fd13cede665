"""Residual membrane potential: two stages, the first of which decides which neurons stay silent."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tppjax.errors import check_count
from tppjax.neurons.base import OnePhase
from tppjax.neurons.baseline import fire
from tppjax.types import Key

LEAST = 1e-3  # residual potential, in thresholds, up to which a neuron stays silent, as in the authors' code


class Staged(NamedTuple):
    """The state after a step: the potential before firing, and whether the second stage sends the neuron's spikes."""

    u: jax.Array
    open: jax.Array


@dataclass(frozen=True)
class SRP(OnePhase):
    """Integrate-and-fire neurons from half a threshold; those without potential after `tau` steps are silenced.

    Hao et al., Reducing ANN-SNN Conversion Error through Residual Membrane Potential, AAAI 2023, following their code
    (hzc1208/ANN2SNN_SRP). All layers run at once. In stage 1, steps -tau to -1, neurons fire as usual. A neuron whose
    potential is then 0 or less has most likely fired although the ANN's activation is 0: in stage 2, the T steps that
    count, which start again from the initial potential, its spikes are not sent. An image costs tau + T steps.

    Attributes:
      tau: number of steps of stage 1; the authors use 4 for CIFAR, 8 and 14 on ImageNet.
    """

    tau: int = 4

    def __post_init__(self) -> None:
        check_count("tau", self.tau)

    @property
    def lead(self) -> int:
        """`tau`."""
        return self.tau

    def init(self, shape: tuple[int, ...], T: int) -> Staged:
        """No neuron is silenced yet."""
        return Staged(jnp.zeros(shape), jnp.ones(shape, bool))

    def step(self, state: Staged, x: jax.Array, t: jax.Array, T: int, key: Key | None) -> tuple[Staged, jax.Array]:
        """A step of either stage."""
        residual = state.u - fire(state.u)
        mask = jnp.where(t == 0, residual > LEAST, state.open)
        u = jnp.where((t == 0) | (t == -self.tau), 0.5, residual) + x
        return Staged(u, mask), fire(u) * mask

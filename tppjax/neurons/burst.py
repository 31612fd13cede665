"""Burst spikes: up to gamma spikes in a step."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tppjax.errors import check_count, check_number
from tppjax.neurons.base import MAX_STEPS, OnePhase
from tppjax.types import Key


class Bursting(NamedTuple):
    """The state after a step: the potential before firing, the spikes of the step, and the number of spikes so far."""

    u: jax.Array
    spikes: jax.Array
    n: jax.Array


@dataclass(frozen=True)
class Burst(OnePhase):
    """`s[t] = clip(floor(u[t]), 0, gamma)`: the remaining potential is sent within the step.

    Li & Zeng, Conversion of Spiking Neural Network with Burst Spikes, IJCAI 2022; gamma is 2 in their repository
    (Brain-Cog-Lab/Conversion_Burst), 5 in BrainCog. With `gamma=1` it is `Baseline(v_init=0)`. A burst costs up to
    gamma spikes: T steps are not T binary steps.

    Attributes:
      gamma: the largest number of spikes in a step.
      v_init: potential before the first step, in thresholds; 0 in the authors' code.
      capped: whether a neuron fires at most T spikes in all, so that its rate saturates at theta. None, the default,
        means that it does if all activations saturate there too (QCFS, clips); the authors use ReLU.
    """

    gamma: int = 5
    v_init: float = 0.0
    capped: bool | None = None

    def __post_init__(self) -> None:
        check_count("gamma", self.gamma, most=MAX_STEPS)
        check_number("v_init", self.v_init, -math.inf)

    @property
    def levels(self) -> int:
        """`gamma`."""
        return self.gamma

    @property
    def largest_rate(self) -> float:
        """`gamma`, or 1 for a capped neuron."""
        return 1 if self.capped else self.gamma

    def at(self, kinds: set[str]) -> "Burst":
        """The neuron with `capped` set, according to the activations."""
        return self if self.capped is not None else replace(self, capped=kinds <= {"qcfs", "clip"})

    def init(self, shape: tuple[int, ...], T: int) -> Bursting:
        """`v_init`, and no spikes yet."""
        return Bursting(jnp.full(shape, float(self.v_init)), jnp.zeros(shape), jnp.zeros(shape))

    def step(self, state: Bursting, x: jax.Array, t: jax.Array, T: int, key: Key | None) -> tuple[Bursting, jax.Array]:
        """Soft reset by as many thresholds as there are spikes."""
        u = state.u - state.spikes + x
        spikes = jnp.clip(jnp.floor(u), 0, self.gamma)
        spikes = jnp.minimum(spikes, T - state.n) if self.capped else spikes
        return Bursting(u, spikes, state.n + spikes), spikes

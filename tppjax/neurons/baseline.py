"""The integrate-and-fire neuron of rate-coded conversion: Eq. 1 and 2, Algorithm 1."""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from tppjax.errors import check_number
from tppjax.neurons.base import Neuron, OnePhase, Steps
from tppjax.types import Array, Key


@dataclass(frozen=True)
class IntegrateAndFire(Neuron):
    """The common base of `Baseline` and the neurons that reorder its spikes.

    If neither field is given, they take the values of the baselines' authors: `v_init` 1/2 for QCFS (Bu et al., ICLR
    2022), else `shift` 1/2 (RTS: Deng & Gu, ICLR 2021; SNNC: Li et al., ICML 2021). If one is given, the other is 0.

    Attributes:
      v_init: potential before the first step, in thresholds; 0.5 is OPI's initial potential (Bu et al., AAAI 2022).
      shift: amount added to the input over all T steps together, in thresholds.
    """

    v_init: float | None = None
    shift: float | None = None

    def __post_init__(self) -> None:
        for name in ("v_init", "shift"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), -math.inf)

    def at(self, kinds: set[str]) -> "IntegrateAndFire":
        """The neuron with the authors' values for these activations, if it has none of its own."""
        v_init, shift = self.v_init, self.shift
        if v_init is None and shift is None:
            v_init, shift = (0.5, 0) if kinds == {"qcfs"} else (0, 0.5)
        return replace(self, v_init=float(v_init or 0), shift=float(shift or 0))

    def integrate(self, u: jax.Array, x: jax.Array, t: Steps, T: int) -> tuple[jax.Array, jax.Array]:
        """`u[t] = u[t-1] - s[t-1] + x[t]`, `s[t] = H(u[t] - 1)`: Eq. 1 and 2, `u` being the potential before firing.

        The reset is soft, with at most one spike per step. The neuron fires if `u >= 1`: the strict `>` of Algorithm 1
        contradicts Eq. 2 and the published code of every baseline.

        Returns:
          `(u, spikes)`.
        """
        u = jnp.where(t == 0, self.v_init or 0.0, u - fire(u)) + x + (self.shift or 0.0) / T
        return u, fire(u)

    def count(self, u: Array, T: Steps, key: Key | None, **tables: Any) -> jax.Array:
        """`clip(floor(u + v_init + shift), 0, T)`, unless the order of the steps matters.

        It does if `v_init` or `shift` is negative, which can delay spikes, or if `v_init` is 1 or more, since negative
        input can't take back a spike.
        """
        v_init, shift = self.v_init or 0.0, self.shift or 0.0
        if min(v_init, shift) < 0 or v_init >= 1:
            return super().count(u, T, key, **tables)
        return jnp.clip(jnp.floor(u + v_init + shift), 0, T)


@dataclass(frozen=True)
class Baseline(IntegrateAndFire, OnePhase):
    """Algorithm 1: the neuron integrates and fires at once. The state is the potential before firing."""

    def init(self, shape: tuple[int, ...], T: int) -> jax.Array:
        """No potential; the first step begins at `v_init`."""
        return jnp.zeros(shape)

    def step(
        self, state: jax.Array, x: jax.Array, t: jax.Array, T: int, key: Key | None
    ) -> tuple[jax.Array, jax.Array]:
        """As `integrate`."""
        return self.integrate(state, x, t, T)


def fire(u: jax.Array) -> jax.Array:
    """`s = H(u - 1)`: Eq. 2 in thresholds."""
    return (u >= 1).astype(u.dtype)

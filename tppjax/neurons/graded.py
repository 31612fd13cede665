"""Graded spikes: a two-phase neuron whose spikes are whole numbers, as neuromorphic chips send them."""

from dataclasses import dataclass

import jax

from tppjax.errors import check_count
from tppjax.neurons.base import MAX_STEPS, Steps, TwoPhase
from tppjax.neurons.rounded import nearest
from tppjax.types import Array, Key


@dataclass(frozen=True)
class Graded(TwoPhase):
    """`count = clip(floor(u + 1/2), 0, T levels)`, spread evenly: a step has the values 0 to `levels`.

    It is the nearest of `T levels + 1` values, so T steps give what `Rounded` gives in `T levels` binary steps. The
    largest spike weighs theta. The neuron is ours; one-phase spikes of several levels are those of `Burst` and of H-MT
    (Zhang et al., AAAI 2026), whose n thresholds are bits: 2^n - 1 levels.

    Attributes:
      levels: the largest spike.
    """

    levels: int = 8

    def __post_init__(self) -> None:
        check_count("levels", self.levels, most=MAX_STEPS)

    @property
    def weight(self) -> float:
        """1 / `levels`, so that a spike of `levels` weighs theta."""
        return 1 / self.levels

    def count(self, u: Array, T: Steps, key: Key | None) -> jax.Array:
        """The nearest whole number in 0 to `T levels`."""
        return nearest(u, T * self.levels)

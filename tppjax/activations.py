"""Activations of the ANN: functions, and the modules that own the leaf `theta` which spiking neurons then read.

A model takes one of these modules as a template and puts a copy of it at each site. `theta` is the height at which the
activation saturates, and becomes the threshold of the spiking neurons at that site. A site can take the maximum over
windows of its input first: for an activation that never falls this equals pooling afterwards, and a two-phase neuron
can do it too.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from tppjax.errors import check_count, check_number
from tppjax.neurons.base import in_thresholds
from tppjax.neurons.rounded import nearest
from tppjax.types import Array


def clipped_relu(x: Float[Array, "*shape"], theta: ArrayLike) -> Float[jax.Array, "*shape"]:
    """`clip(x, 0, theta)` (RTS: Deng & Gu, ICLR 2021); gradient 1 strictly inside, 0 outside."""
    return jnp.where(x < theta, jnp.where(x > 0, x, 0.0), theta)


def qcfs(x: Float[Array, "*shape"], theta: ArrayLike, L: int) -> Float[jax.Array, "*shape"]:
    """`theta / L * clip(floor(x L / theta + 1/2), 0, L)`, straight-through (QCFS: Bu et al., ICLR 2022).

    The gradient is that of `theta * clip(x / theta, 0, 1)`, taken at the quantised value: with respect to `x` it is 1
    strictly inside the clip and 0 outside; with respect to `theta` it is the quantised value over `theta`, minus
    `x / theta` inside the clip.

    Args:
      x: pre-activation, any shape.
      theta: value at which the activation saturates; broadcasts to `x`, in the units of `x`.
      L: number of levels above 0.

    Returns:
      Array of the shape of `x`.
    """
    v = in_thresholds(L * x, theta)
    u = jax.lax.clamp(jnp.zeros((), v.dtype), v, jnp.full((), L, v.dtype))
    level = jax.lax.stop_gradient(nearest(v, L))
    return jnp.multiply(theta, level + (u - jax.lax.stop_gradient(u))) / L


def pooled(x: Array, window: tuple[int, int, int] | None, pool: Callable = nn.max_pool) -> Any:
    """Maximum over windows of `[..., H, W, C]`; `window` is (size, stride, padding) in pixels; None leaves `x`."""
    if window is None:
        return x
    size, stride, padding = window
    pairs: Any = [(padding, padding)] * 2  # which Flax takes, too
    return pool(x, (size, size), (stride, stride), pairs)


class ReLU(nn.Module):
    """`max(x, 0)`. Owns no `theta`: thresholds are chosen afterwards, by `calibration.calibrate`."""

    max_pool: tuple[int, int, int] | None = None

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        """`max(x, 0)`, any shape."""
        return nn.relu(pooled(x, self.max_pool))


class ClippedReLU(nn.Module):
    """`clip(x, 0, theta)` with `theta` fixed at `bound`, one number per layer, even if the variables have no `theta`.

    Raises:
      InputError: if `bound` is not positive and finite.
    """

    bound: float = 2.0
    max_pool: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        check_number("bound of ClippedReLU", self.bound, 0, above=True)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        """`clip(x, 0, theta)`, any shape."""
        x = pooled(x, self.max_pool)
        missing = not self.is_initializing() and not self.has_variable("params", "theta")
        theta = jnp.full(x.shape, self.bound, x.dtype) if missing else _theta(self, self.bound, x.shape)
        return clipped_relu(x, jax.lax.stop_gradient(theta))


class QCFS(nn.Module):
    """Quantisation clip-floor-shift with a trained `theta`, one number per layer (the lambda of Bu et al.).

    Raises:
      InputError: if `L` is not a whole number of at least 1, or `theta_init` is not positive and finite.
    """

    L: int = 8
    theta_init: float = 8.0
    max_pool: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        check_count("L of QCFS, its number of levels,", self.L)
        check_number("theta_init of QCFS", self.theta_init, 0, above=True)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array) -> jax.Array:
        """`qcfs(x, theta, L)`, any shape."""
        x = pooled(x, self.max_pool)
        return qcfs(x, _theta(self, self.theta_init, x.shape), self.L)


def _theta(site: nn.Module, init: float, shape: tuple[int, ...]) -> jax.Array:
    """The site's leaf, for each neuron: initialised as one number, which one number per channel may replace."""
    if site.has_variable("params", "theta"):
        theta = site.get_variable("params", "theta")
    else:
        theta = site.param("theta", nn.initializers.constant(init), ())
    return jnp.broadcast_to(theta, shape)


ACTIVATIONS = {"relu": ReLU, "clipped_relu": ClippedReLU, "qcfs": QCFS}

"""The linear layers that the models share, with the usual settings. They only use the trailing axes."""

from functools import partial
from typing import Any

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_name

from tppjax.errors import InputError
from tppjax.models.convolution import convolution
from tppjax.types import Array

# He initialisation by fan out, as in the baselines' code; padding as in PyTorch.
conv = partial(
    nn.Conv,
    kernel_size=(3, 3),
    padding=1,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    conv_general_dilated=convolution,
)


def norm(train: bool, name: str) -> nn.BatchNorm:
    """Batch norm as in PyTorch: momentum 0.1 there is 0.9 here, epsilon is 1e-5."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


def conv_norm(x: Array, channels: int, train: bool, suffix: str, normed: bool, **options: Any) -> Array:
    """A convolution called "conv" + suffix, followed by "norm" + suffix, or with a bias if `normed` is false."""
    x = conv(channels, use_bias=not normed, name=f"conv{suffix}", **options)(x)
    return norm(train, name=f"norm{suffix}")(x) if normed else x


REMAT_POINT = "remat_point"


def remat_point(x: Array) -> Array:
    """`x`, marked: with rematerialisation, the backward pass keeps these values, and computes the others again."""
    return checkpoint_name(x, REMAT_POINT)


def flatten(x: Array) -> Array:
    """`[..., H, W, C]` to `[..., H W C]`."""
    return x.reshape(*x.shape[:-3], -1)


def avg_pool(x: Array, window: tuple[int, int, int] | None) -> Array:
    """Mean over windows of `[..., H, W, C]`, with padding counted as zeros; `window` as in `activations.max_pool`."""
    if window is None:
        return x
    size, stride, padding = window
    pairs: Any = [(padding, padding)] * 2  # which Flax takes, too
    return nn.avg_pool(x, (size, size), (stride, stride), pairs)


def check_pool(pool: str) -> None:
    """Raises InputError unless the pool is "avg" or "max"."""
    if pool not in ("avg", "max"):
        raise InputError(f"pool is 'avg' or 'max'; got {pool!r}")

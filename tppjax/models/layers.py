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


def shortcut(x: Array, channels: int, stride: int, train: bool, normed: bool) -> Array:
    """`x`, or its 1x1 convolution if the shape changes."""
    if stride == 1 and x.shape[-1] == channels:
        return x
    return conv_norm(x, channels, train, "_shortcut", normed, strides=stride, kernel_size=(1, 1), padding=0)


REMAT_POINT = "remat_point"


def remat_point(x: Array) -> Array:
    """`x`, marked: with rematerialisation, the backward pass keeps these values, and computes the others again."""
    return checkpoint_name(x, REMAT_POINT)


def check_pool(pool: str) -> None:
    """Raises InputError unless the pool is "avg" or "max"."""
    if pool not in ("avg", "max"):
        raise InputError(f"pool is 'avg' or 'max'; got {pool!r}")

"""The linear layers that the models share, with the field's settings. Only trailing axes are touched."""

from functools import partial

import flax.linen as nn
from jax.ad_checkpoint import checkpoint_name

from tppjax.errors import InputError
from tppjax.models.convolution import convolution

# He initialisation by fan out, as the baselines' authors; padding as PyTorch counts it.
conv = partial(
    nn.Conv,
    kernel_size=(3, 3),
    padding=1,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    conv_general_dilated=convolution,
)


def norm(train: bool, name: str) -> nn.BatchNorm:
    """Batch norm as PyTorch has it: momentum 0.1 there is 0.9 here, epsilon 1e-5."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name)


def conv_norm(x, channels: int, train: bool, suffix: str, normed: bool, **options):
    """A convolution called "conv" + suffix, and "norm" + suffix behind it, or a bias if `normed` is false."""
    x = conv(channels, use_bias=not normed, name=f"conv{suffix}", **options)(x)
    return norm(train, name=f"norm{suffix}")(x) if normed else x


REMAT_POINT = "remat_point"


def remat_point(x):
    """`x`; with rematerialisation, what the backward pass keeps, and computes all between two of them again."""
    return checkpoint_name(x, REMAT_POINT)


def flatten(x):
    """`[..., H, W, C]` to `[..., H W C]`."""
    return x.reshape(*x.shape[:-3], -1)


def avg_pool(x, window: tuple[int, int, int] | None):
    """Mean over windows of `[..., H, W, C]`, padding counted as zeros; `window` as in `activations.max_pool`."""
    if window is None:
        return x
    size, stride, padding = window
    return nn.avg_pool(x, (size, size), (stride, stride), [(padding, padding)] * 2)


def check_pool(pool: str) -> None:
    """Refuses what is neither "avg" nor "max"."""
    if pool not in ("avg", "max"):
        raise InputError(f"pool is 'avg' or 'max'; got {pool!r}")

"""The linear layers that the models share, with the field's settings. Only trailing axes are touched."""

from functools import partial

import flax.linen as nn

# He initialisation by fan out, as the baselines' authors; padding as PyTorch counts it.
conv = partial(
    nn.Conv,
    kernel_size=(3, 3),
    padding=1,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
)


EPSILON = 1e-5


def norm(train: bool, name: str) -> nn.BatchNorm:
    """Batch norm as PyTorch has it: momentum 0.1 there is 0.9 here, epsilon 1e-5."""
    return nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=EPSILON, name=name)


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
        raise ValueError(f"pool is 'avg' or 'max'; got {pool!r}")

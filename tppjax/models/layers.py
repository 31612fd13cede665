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

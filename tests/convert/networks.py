"""Small networks whose arithmetic is exact in float32: weights, thresholds and images are short binary fractions."""

import flax.linen as nn
import jax
import numpy as np

from tppjax import models
from tppjax.activations import QCFS


class Mlp(nn.Module):
    """Somebody's own network, as the docs of `to_snn` ask for it: a field `act` and a copy of it at each site."""

    act: nn.Module
    widths: tuple[int, ...] = (6, 5)

    @nn.compact
    def __call__(self, x):
        x = x.reshape(*x.shape[:-3], -1)
        for i, width in enumerate(self.widths):
            x = self.act.copy(name=f"act{i}")(nn.Dense(width, name=f"dense{i}")(x))
        return nn.Dense(3, name="head")(x)


def images(n, shape=(2, 2, 2)):
    return np.random.default_rng(7).integers(0, 9, (n, *shape)).astype(np.float32) / 8


def exact(model, shape=(2, 2, 2)):
    """Variables of `model`: every weight one of -1, -1/2, ..., 1, thresholds and variances 1/2, 1 or 2."""
    rng = np.random.default_rng(3)
    abstract = jax.eval_shape(model.init, jax.random.key(0), images(1, shape))

    def draw(path, leaf):
        values = [0.5, 1, 2] if path[-1].key in ("theta", "var") else [-1, -0.5, 0, 0.5, 1]
        return rng.choice(values, leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def mlp():
    model = Mlp(QCFS(L=4))
    return exact(model), model


def cnn():
    """Two stages of convolutions with average pooling between."""
    model = models.create("vgg_small", 3, QCFS(L=4), stages=((4,), (4,)), norm=False)
    return exact(model, (4, 4, 1)), model


class Pooled(nn.Module):
    """With the maximum taken at the site, as torchvision's networks have it after their activation."""

    act: nn.Module

    @nn.compact
    def __call__(self, x):
        x = self.act.copy(name="act1", max_pool=(2, 2, 0))(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(3, name="head")(x.reshape(*x.shape[:-3], -1))

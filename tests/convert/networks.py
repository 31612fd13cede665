"""Small networks whose arithmetic is exact in float32: weights, thresholds and images are short binary fractions."""

import functools

import flax.linen as nn
import jax
import numpy as np

import convert
from tppjax import models
from tppjax.activations import QCFS


class Mlp(nn.Module):
    """Somebody's own network."""

    act: nn.Module
    widths: tuple[int, ...] = (6, 5)

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), -1)
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


def traced(model, shape=(2, 2, 2)):
    """The network of `model` with the weights of `exact`."""
    return convert.trace((model, exact(model, shape)), images(1, shape))


@functools.cache
def mlp(act=None):
    """Two dense layers, `dense0` and `dense1`."""
    return traced(Mlp(act or QCFS(L=4)))


@functools.cache
def cnn(shape=(4, 4, 1)):
    """Two stages of convolutions, `conv1_1` and `conv2_1`, with average pooling between."""
    return traced(models.create("vgg_small", 3, QCFS(L=4), stages=((4,), (4,)), norm=False), shape)


def layer(network, name):
    """Kernel and bias of a layer."""
    return (np.asarray(network.weights[f"params/{name}/{leaf}"]) for leaf in ("kernel", "bias"))


class Pooled(nn.Module):
    """With the maximum taken at the site, as torchvision's networks have it after their activation."""

    act: nn.Module

    @nn.compact
    def __call__(self, x):
        x = self.act.copy(name="act1", max_pool=(2, 2, 0))(nn.Conv(4, (3, 3), name="conv")(x))
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))

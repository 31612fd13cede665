"""ResNet of basic blocks (He et al., 2016) for small images and for ImageNet, with the activation injected."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from tppjax.activations import pooled
from tppjax.errors import InputError
from tppjax.models.layers import check_pool, conv_norm, remat_point, shortcut
from tppjax.types import Array


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the second site is behind the sum."""

    act: nn.Module
    channels: int
    stride: int
    shortcut: str
    norm: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`[..., H, W, C]` to `[..., H / stride, W / stride, channels]`."""
        y = conv_norm(x, self.channels, train, "1", self.norm, strides=self.stride)
        y = self.act.copy(name="act1")(y)
        y = conv_norm(y, self.channels, train, "2", self.norm)
        return remat_point(self.act.copy(name="act2")(y + self._shortcut(x, train)))

    def _shortcut(self, x: Array, train: bool) -> Array:
        if self.shortcut == "pad" and (self.stride > 1 or x.shape[-1] < self.channels):
            x = x[..., :: self.stride, :: self.stride, :]
            extra = self.channels - x.shape[-1]
            return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(extra // 2, extra - extra // 2)])
        return shortcut(x, self.channels, self.stride, train, self.norm)


class ResNet(nn.Module):
    """A stem, stages of blocks that halve the image and double the channels, global average pool, dense layer.

    Attributes:
      act: template of the activation; every site is a copy of it.
      num_classes: width of the last layer, which stays analog.
      blocks: number of blocks of each stage: (3, 3, 3) is ResNet-20.
      channels: number of channels of the first stage.
      width: factor for all channels; 4 with ResNet-20 is SNNC's network.
      shortcut: type of shortcut where the shape changes: "projection" (1x1 convolution, as in QCFS and SNNC) or "pad"
        (option A: every second pixel, zeros for the new channels).
      norm: whether batch norm follows each convolution.
      stem: "cifar" (3x3), "imagenet" (7x7, stride 2, then a 3x3 pool of stride 2) or "deep" (three 3x3, the first with
        stride 2 and all but the last with half the channels, then the same pool).
      pool: type of the pool of the stems "imagenet" and "deep", "avg" or "max".
    """

    act: nn.Module
    num_classes: int
    blocks: tuple[int, ...] = (3, 3, 3)
    channels: int = 16
    width: int = 1
    shortcut: str = "projection"
    norm: bool = True
    stem: str = "cifar"
    pool: str = "avg"

    def __post_init__(self) -> None:
        if self.shortcut not in ("projection", "pad"):
            raise InputError(f"shortcut is 'projection' or 'pad' (option A); got {self.shortcut!r}")
        if self.stem not in ("cifar", "imagenet", "deep"):
            raise InputError(f"stem is 'cifar', 'imagenet' or 'deep'; got {self.stem!r}")
        check_pool(self.pool)
        if self.stem == "cifar" and self.pool == "max":
            raise InputError("the stem 'cifar' has no pool: pool='max' would have no effect; leave it out")
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch height width channels"], train: bool = False
    ) -> Float[jax.Array, "*batch classes"]:
        """Images `[..., H, W, C]` to logits `[..., num_classes]`."""
        channels = self.channels * self.width
        x = self._stem(x, channels, train)
        for i, blocks in enumerate(self.blocks):
            for j in range(blocks):
                stride, name = 2 if i > 0 and j == 0 else 1, f"stage{i + 1}_block{j + 1}"
                x = Block(self.act, channels * 2**i, stride, self.shortcut, self.norm, name=name)(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean(axis=(-3, -2)))

    def _stem(self, x: Array, channels: int, train: bool) -> Array:
        window = (3, 2, 1) if self.stem != "cifar" else None
        at_site = window if self.pool == "max" else None
        if self.stem == "cifar":
            x = self._conv(x, "stem", channels, train)
        elif self.stem == "imagenet":
            x = self._conv(x, "stem", channels, train, kernel_size=(7, 7), strides=2, padding=3)
        else:
            x = self._conv(x, "stem1", channels // 2, train, strides=2)
            x = self._conv(self.act.copy(name="act_stem1")(x), "stem2", channels // 2, train)
            x = self._conv(self.act.copy(name="act_stem2")(x), "stem", channels, train)
        x = self.act.copy(name="act_stem", max_pool=at_site)(x)
        return remat_point(pooled(x, window, nn.avg_pool) if self.pool == "avg" else x)

    def _conv(self, x: Array, name: str, channels: int, train: bool, **options: Any) -> Array:
        return conv_norm(x, channels, train, f"_{name}", self.norm, **options)

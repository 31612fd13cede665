"""RegNetX (Radosavovic et al., CVPR 2020) with the activation injected."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Float

from tppjax.errors import InputError
from tppjax.models.layers import conv_norm, remat_point, shortcut
from tppjax.types import Array


class Block(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions of equal width, and a shortcut; the third site is behind the sum."""

    act: nn.Module
    channels: int
    stride: int
    group: int
    norm: bool

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """`[..., H, W, C]` to `[..., H / stride, W / stride, channels]`."""
        pointwise: dict[str, Any] = {"kernel_size": (1, 1), "padding": 0}
        groups = self.channels // self.group
        y = conv_norm(x, self.channels, train, "1", self.norm, **pointwise)
        y = self.act.copy(name="act1")(y)
        y = conv_norm(y, self.channels, train, "2", self.norm, strides=self.stride, feature_group_count=groups)
        y = self.act.copy(name="act2")(y)
        y = conv_norm(y, self.channels, train, "3", self.norm, **pointwise)
        return remat_point(self.act.copy(name="act3")(y + shortcut(x, self.channels, self.stride, train, self.norm)))


class RegNet(nn.Module):
    """A 3x3 stem, stages of blocks that halve the image, global average pool, dense layer.

    Attributes:
      act: template of the activation; every site is a copy of it.
      num_classes: width of the last layer, which stays analog.
      blocks: number of blocks of each stage.
      widths: number of channels of each stage.
      group: number of channels in a group of the 3x3 convolutions.
      stem: number of channels of the stem, which has stride 2.
      norm: whether batch norm follows each convolution.
    """

    act: nn.Module
    num_classes: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    group: int
    stem: int = 32
    norm: bool = True

    def __post_init__(self) -> None:
        if len(self.blocks) != len(self.widths) or any(width % self.group for width in self.widths):
            raise InputError(
                f"each stage needs blocks and a width divisible by {self.group}; got {self.blocks} and {self.widths}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch height width channels"], train: bool = False
    ) -> Float[jax.Array, "*batch classes"]:
        """Images `[..., H, W, C]` to logits `[..., num_classes]`."""
        x = self.act.copy(name="act_stem")(conv_norm(x, self.stem, train, "_stem", self.norm, strides=2))
        for i, (blocks, width) in enumerate(zip(self.blocks, self.widths, strict=True), 1):
            for j in range(1, blocks + 1):
                name, stride = f"stage{i}_block{j}", 2 if j == 1 else 1
                x = Block(self.act, width, stride, self.group, self.norm, name=name)(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean(axis=(-3, -2)))

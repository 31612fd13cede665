"""ResNet for 32x32 images (He et al., 2016), with the activation injected."""

import flax.linen as nn
import jax.numpy as jnp

from tppjax.models.layers import conv, norm


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; the second site fires on the sum."""

    act: nn.Module
    channels: int
    stride: int
    shortcut: str
    norm: bool

    @nn.compact
    def __call__(self, x, train: bool):
        """`[..., H, W, C]` to `[..., H / stride, W / stride, channels]`."""
        y = self._conv(x, "1", self.stride, train)
        y = self.act.copy(name="act1")(y)
        y = self._conv(y, "2", 1, train)
        return self.act.copy(name="act2")(y + self._shortcut(x, train))

    def _conv(self, x, number, stride, train):
        x = conv(self.channels, strides=stride, use_bias=not self.norm, name=f"conv{number}")(x)
        return norm(train, name=f"norm{number}")(x) if self.norm else x

    def _shortcut(self, x, train):
        if self.stride == 1 and x.shape[-1] == self.channels:
            return x
        if self.shortcut == "pad":
            x = x[..., :: self.stride, :: self.stride, :]
            extra = self.channels - x.shape[-1]
            return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(extra // 2, extra - extra // 2)])
        x = conv(
            self.channels,
            kernel_size=(1, 1),
            strides=self.stride,
            padding=0,
            use_bias=not self.norm,
            name="conv_shortcut",
        )(x)
        return norm(train, name="norm_shortcut")(x) if self.norm else x


class ResNet(nn.Module):
    """A 3x3 stem, stages of blocks that halve the image and double the channels, global average pool, dense layer.

    Attributes:
      act: template of the activation; every site is a copy of it.
      num_classes: width of the last layer, which stays analog.
      blocks: blocks of each stage: (3, 3, 3) is ResNet-20.
      channels: of the stem and the first stage.
      width: multiplies all channels; 4 with ResNet-20 is SNNC's network.
      shortcut: where the shape changes, "projection" (1x1 convolution, as QCFS and SNNC) or "pad" (option A: every
        second pixel, zeros for the new channels).
      norm: batch norm after each convolution.
    """

    act: nn.Module
    num_classes: int
    blocks: tuple[int, ...] = (3, 3, 3)
    channels: int = 16
    width: int = 1
    shortcut: str = "projection"
    norm: bool = True

    def __post_init__(self):
        if self.shortcut not in ("projection", "pad"):
            raise ValueError(f"shortcut is 'projection' or 'pad' (option A); got {self.shortcut!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Images `[..., H, W, C]` to logits `[..., num_classes]`."""
        channels = self.channels * self.width
        x = conv(channels, use_bias=not self.norm, name="conv_stem")(x)
        if self.norm:
            x = norm(train, name="norm_stem")(x)
        x = self.act.copy(name="act_stem")(x)
        for i, blocks in enumerate(self.blocks):
            for j in range(blocks):
                x = Block(
                    act=self.act,
                    channels=channels * 2**i,
                    stride=2 if i > 0 and j == 0 else 1,
                    shortcut=self.shortcut,
                    norm=self.norm,
                    name=f"stage{i + 1}_block{j + 1}",
                )(x, train)
        return nn.Dense(self.num_classes, name="head")(x.mean(axis=(-3, -2)))

"""VGG for small images, with average pooling, as the conversion baselines train it."""

import flax.linen as nn

from tppjax.models.layers import conv, flatten, norm


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each closed by a 2x2 average pool; then dense layers (Simonyan & Zisserman, 2015).

    Attributes:
      act: template of the activation; every site is a copy of it.
      num_classes: width of the last layer, which stays analog.
      stages: channels of the convolutions, stage by stage.
      hidden: widths of the dense layers before the last: (4096, 4096) as QCFS has it, () as SNNC.
      norm: batch norm after each convolution.
    """

    act: nn.Module
    num_classes: int
    stages: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...] = ()
    norm: bool = True

    @nn.compact
    def __call__(self, x, train: bool = False):
        """Images `[..., H, W, C]` to logits `[..., num_classes]`."""
        for i, channels in enumerate(self.stages, 1):
            for j, width in enumerate(channels, 1):
                x = conv(width, name=f"conv{i}_{j}")(x)
                if self.norm:
                    x = norm(train, name=f"norm{i}_{j}")(x)
                x = self.act.copy(name=f"act{i}_{j}")(x)
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = flatten(x)
        for i, width in enumerate(self.hidden, 1):
            x = nn.Dense(width, name=f"dense{i}")(x)
            x = self.act.copy(name=f"act_dense{i}")(x)
        return nn.Dense(self.num_classes, name="head")(x)

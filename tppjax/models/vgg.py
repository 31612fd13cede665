"""VGG, with average pooling as the conversion baselines train it, or with max-pooling as it was published."""

import flax.linen as nn
import jax
from jaxtyping import Float

from tppjax.activations import pooled
from tppjax.errors import InputError
from tppjax.models.layers import check_pool, conv, norm, remat_point
from tppjax.types import Array

WINDOW = (2, 2, 0)  # size, stride, padding


class VGG(nn.Module):
    """Stages of 3x3 convolutions, each closed by a 2x2 pool; then dense layers (Simonyan & Zisserman, 2015).

    Attributes:
      act: template of the activation; every site is a copy of it.
      num_classes: width of the last layer, which stays analog.
      stages: number of channels of each convolution, by stage.
      hidden: widths of the dense layers before the last: (4096, 4096) in QCFS, () in SNNC.
      norm: whether batch norm follows each convolution.
      pool: type of the pools, "avg", or "max", which precedes the last activation of a stage.
    """

    act: nn.Module
    num_classes: int
    stages: tuple[tuple[int, ...], ...]
    hidden: tuple[int, ...] = ()
    norm: bool = True
    pool: str = "avg"

    def __post_init__(self) -> None:
        check_pool(self.pool)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch height width channels"], train: bool = False
    ) -> Float[jax.Array, "*batch classes"]:
        """Images `[..., H, W, C]` to logits `[..., num_classes]`."""
        if min(x.shape[-3:-1]) < 2 ** len(self.stages):
            raise InputError(f"images of {x.shape[-3]} x {x.shape[-2]} pixels can't be halved {len(self.stages)} times")
        for i, channels in enumerate(self.stages, 1):
            for j, width in enumerate(channels, 1):
                x = conv(width, name=f"conv{i}_{j}")(x)
                if self.norm:
                    x = norm(train, name=f"norm{i}_{j}")(x)
                at_site = WINDOW if self.pool == "max" and j == len(channels) else None
                x = self.act.copy(name=f"act{i}_{j}", max_pool=at_site)(x)
            x = remat_point(pooled(x, WINDOW, nn.avg_pool) if self.pool == "avg" else x)
        x = x.reshape(*x.shape[:-3], -1)
        for i, width in enumerate(self.hidden, 1):
            x = nn.Dense(width, name=f"dense{i}")(x)
            x = self.act.copy(name=f"act_dense{i}")(x)
        return nn.Dense(self.num_classes, name="head")(x)

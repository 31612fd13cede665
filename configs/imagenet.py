"""Recipes for ImageNet."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn

from configs.training import Training, with_defaults, with_network
from tppjax.errors import InputError


@dataclass(frozen=True)
class Imagenet(Training):
    """Train on ImageNet, or on pictures of your own that were prepared like it.

    The paper trains no network on ImageNet itself, but converts published ones. If you have their files, import them.
    This command trains networks of the same kinds with the common recipe (SGD, 90 epochs, batch 256, random resized
    crop and flip, no colour jitter), which has not been run here in full:

        python -m train.imagenet --act=qcfs --arch=resnet34 --stem=cifar --L=8 --out runs/qcfs-resnet34
        python -m train.imagenet --act=qcfs --arch=vgg16 --L=16 --out runs/qcfs-vgg16i
        python -m train.imagenet --act=clipped_relu --arch=vgg16 --bound=3 --out runs/rts-vgg16i
        python -m train.imagenet --act=relu --arch=resnet34 --stem=deep --out runs/snnc-resnet34
        python -m train.imagenet --act=relu --arch=vgg16 --out runs/snnc-vgg16i
        python -m train.imagenet --act=relu --arch=regnetx_4gf --weight_decay 5e-5 --out runs/snnc-regnetx

    The published ones (Tables 1, 5, 6 and 7; ANN in percent):

        ANN 74.32  python -m convert.from_torch FILE --arch resnet34 --layout qcfs --L 8 --out runs/qcfs-resnet34
        ANN 74.22  python -m convert.from_torch FILE --arch vgg16 --layout qcfs --L 16 --out runs/qcfs-vgg16i
        ANN 75.65  python -m convert.from_torch FILE --arch resnet34 --layout snnc --out runs/snnc-resnet34
        ANN 75.37  python -m convert.from_torch FILE --arch vgg16 --pool avg --out runs/snnc-vgg16i
        ANN 78.45  python -m convert.from_torch FILE --arch regnetx_4gf --layout timm --out runs/snnc-regnetx

    The following gives their spiking versions; only SNNC's networks need --calibrate, for thresholds from training
    images:

        python -m convert.studies accuracy --ann runs/snnc-regnetx --calibrate mse --T 16 32 64 128 --data_dir DIR
    """

    lr: float = 0.1
    epochs: int = 90
    batch_size: int = 256
    weight_decay: float = 1e-4
    validation: int = 10_000
    checkpoint_every: int | None = 1000

    arch: Literal["resnet34", "resnet18", "vgg16", "regnetx_4gf"] | None = None
    """Network [default: the one in --init_from, else resnet34]."""

    data_dir: Path | None = None
    """Folder of TFDS data sets, which python -m tppjax.data.jpegs prepares [default: $TFDS_DATA_DIR, else
    ~/tensorflow_datasets]."""

    stem: Literal["imagenet", "deep", "cifar"] | None = None
    """resnets: 7x7 (imagenet), three 3x3 (deep, as in SNNC), or one 3x3 without stride (cifar, as in QCFS, at 15 times
    the cost) [default: imagenet]."""

    pool: Literal["avg", "max"] | None = None
    """resnets and vgg16: pooling; max can only be converted to two-phase modes [default: avg]."""

    hidden: tuple[int, ...] | None = None
    """vgg16: widths of the dense layers before the last [default: 4096 4096]."""

    size: int | None = None
    """Height and width of the network's input in pixels [default: 224, or those of the network in --init_from]."""

    resize: int | None = None
    """Pixels of the shorter side, before the centre is cut out in evaluation [default: 8/7 of --size]."""

    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Interpolation of resizing [default: bilinear]."""

    workers: int | None = None
    """Number of processes that decode pictures; 0 for threads [default: by the number of CPU cores]."""


def recipe(config: Imagenet, model: nn.Module | None = None, preprocessing: Any = None) -> Imagenet:
    """`config` with every None filled in: from the initial model and its preprocessing if given, else the recipe's.

    Args:
      config: the options.
      model: the model of the network in --init_from, if there is one.
      preprocessing: the `tppjax.data.Preprocessing` of that network.

    Raises:
      InputError: if an option is not one of the network's, or contradicts the network in --init_from.
    """
    arch = config.arch or "resnet34"
    own: dict[str, dict] = {"regnetx_4gf": {}, "vgg16": {"pool": "avg", "hidden": (4096, 4096)}}
    network = {"arch": arch, **own.get(arch, {"stem": "imagenet", "pool": "avg"})}
    config = with_network(config, ("stem", "pool", "hidden"), network, model)
    size = (preprocessing.input_shape[0] if preprocessing else 224) if config.size is None else config.size
    reading = {"size": size, "resize": round(size * 8 / 7), "interpolation": "bilinear"}
    if preprocessing:
        reading |= {"resize": preprocessing.resize or reading["resize"], "interpolation": preprocessing.interpolation}
        if size != preprocessing.input_shape[0]:
            raise InputError(
                f"the network in --init_from takes {preprocessing.input_shape[0]} pixels a side; got --size {size}"
            )
    L = (16 if config.arch == "vgg16" else 8) if config.act == "qcfs" else None
    return with_defaults(config, L=L, **reading)

"""Recipes for CIFAR-10 and CIFAR-100 (Appendix C.2 of the paper)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from configs.training import Training


@dataclass(frozen=True)
class Cifar(Training):
    """Train a VGG or ResNet on CIFAR.

    The paper's QCFS networks (its Tables 1 and 7; 300 epochs; lr 0.02 in the paper, 0.1 for CIFAR-10 and 0.05 for
    CIFAR-100 in the code of QCFS's authors, which is what None takes here):

        python -m train.cifar --act=qcfs --arch=resnet20 --dataset=cifar10 --out runs/qcfs-resnet20    ANN 92.43
        python -m train.cifar --act=qcfs --arch=vgg16 --dataset=cifar10 --out runs/qcfs-vgg16          ANN 95.76
        python -m train.cifar --act=qcfs --arch=resnet20 --dataset=cifar100 --out runs/qcfs-resnet20c  ANN 67.10
        python -m train.cifar --act=qcfs --arch=vgg16 --dataset=cifar100 --out runs/qcfs-vgg16c        ANN 76.21

    Its RTS networks, whose neurons have the bound as threshold, and half a threshold more input over the T steps:

        python -m train.cifar --act=clipped_relu --arch=vgg16 --hidden --out runs/rts-vgg16
        python -m convert.evaluate --ann runs/rts-vgg16 --v_init 0 --shift 0.5

    Its SNNC networks without calibration: plain ReLU, thresholds chosen afterwards (four times as wide a ResNet-20):

        python -m train.cifar --act=relu --arch=resnet20 --width=4 --out runs/snnc-resnet20
        python -m convert.evaluate --ann runs/snnc-resnet20 --calibrate mse --v_init 0 --shift 0.5
    """

    arch: Literal["resnet20", "resnet32", "resnet44", "resnet56", "resnet18", "resnet34", "vgg16"] = "resnet20"
    """Network: resnet20 (19 spiking layers) and deeper ones of its kind; resnet18 and 34, wider; or vgg16 (13
    convolutions, then --hidden)."""

    dataset: Literal["cifar10", "cifar100"] = "cifar10"
    """Data set."""

    data_dir: Path | None = None
    """Folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]."""

    shortcut: Literal["projection", "pad"] = "projection"
    """resnets: 1x1 convolutions (QCFS, SNNC), or option A of He et al. (pad)."""

    width: int = 1
    """resnets: multiplies all channels; SNNC's resnet20 has 4."""

    hidden: tuple[int, ...] = (4096, 4096)
    """vgg16: dense layers before the last; QCFS has 4096 4096, SNNC none."""

    pad: int = 4
    """Random crop after padding by this many pixels."""

    cutout: int = 16
    """Side of the square blanked in each training image, in pixels; 0 for none."""


def recipe(config: Cifar) -> Cifar:
    """`config` with every None that depends on the network filled in."""
    lr = {"qcfs": 0.1 if config.dataset == "cifar10" else 0.05, "clipped_relu": 0.1, "relu": 0.1}[config.act]
    defaults = {"L": 4 if config.arch == "vgg16" else 8, "bound": 2.0, "lr": lr}
    return replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})

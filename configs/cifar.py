"""Recipes for CIFAR-10 and CIFAR-100 (Appendix C.2 of the paper)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import flax.linen as nn

from configs.training import Training, with_defaults, with_network


@dataclass(frozen=True)
class Cifar(Training):
    """Train a VGG or ResNet on CIFAR: the networks of the paper's tables, 300 epochs each, ANN in percent.

    QCFS (Tables 1 and 7; lr is 0.02 in the paper, but 0.1 for CIFAR-10 and 0.05 for CIFAR-100 in the code of its
    authors, which are the defaults here, and batches have 300 images there; we measured 92.53 for the first):

        ANN 92.43  python -m train.cifar --act=qcfs --batch_size=300 --autoaugment --out runs/qcfs-resnet20
        ANN 95.76  python -m train.cifar --act=qcfs --arch=vgg16 --batch_size=300 --autoaugment --out runs/qcfs-vgg16
        ANN 67.10  python -m train.cifar --act=qcfs --batch_size=300 --dataset=cifar100 --out runs/qcfs-resnet20c
        ANN 76.21  python -m train.cifar --act=qcfs --arch=vgg16 --batch_size=300 --dataset=cifar100 --out runs/vgg16c

    RTS (Tables 1 and 6), whose neurons have the bound as threshold, and half a threshold more input over T steps:

        ANN 94.99  python -m train.cifar --act=clipped_relu --arch=vgg16 --out runs/rts-vgg16
        ANN 91.07  python -m train.cifar --act=clipped_relu --arch=resnet20 --out runs/rts-resnet20
        ANN 76.13  python -m train.cifar --act=clipped_relu --arch=vgg16 --dataset=cifar100 --out runs/rts-vgg16c
        ANN 67.08  python -m train.cifar --act=clipped_relu --arch=resnet20 --dataset=cifar100 --out runs/rts-resnet20c

    SNNC without calibration (Tables 1, 3 and 4): plain ReLU, with thresholds chosen after training, and a ResNet-20
    that is four times as wide:

        ANN 96.95  python -m train.cifar --act=relu --arch=resnet20 --width=4 --autoaugment --out runs/snnc-resnet20
        ANN 95.69  python -m train.cifar --act=relu --arch=vgg16 --hidden --autoaugment --out runs/snnc-vgg16
        ANN 81.89  python -m train.cifar --act=relu --width=4 --autoaugment --dataset=cifar100 --out runs/snnc-r20c
        ANN 77.87  python -m train.cifar --act=relu --arch=vgg16 --hidden --autoaugment --dataset=cifar100 --out runs/vc

    The following gives the spiking versions of each, beside the paper's rows; add --calibrate mse for SNNC's networks:

        python -m convert.studies accuracy --ann runs/qcfs-resnet20 --T 4 8 16 32 64 128 --data_dir DIR
    """

    arch: Literal["resnet20", "resnet32", "resnet44", "resnet56", "resnet18", "resnet34", "vgg16"] | None = None
    """Network: resnet20 (19 spiking layers) and deeper ones of its kind; resnet18 and 34, wider; or vgg16 (13
    convolutions, then --hidden) [default: the one in --init_from, else resnet20]."""

    dataset: Literal["cifar10", "cifar100"] = "cifar10"
    """Data set."""

    data_dir: Path | None = None
    """Folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]."""

    shortcut: Literal["projection", "pad"] | None = None
    """resnets: 1x1 convolutions (projection, as in QCFS and SNNC), or option A of He et al. (pad) [default:
    projection]."""

    width: int | None = None
    """resnets: factor for all channels; 4 for SNNC's resnet20 [default: 1]."""

    hidden: tuple[int, ...] | None = None
    """vgg16: widths of the dense layers before the last; SNNC has none [default: 4096 4096, as in QCFS]."""

    pad: int = 4
    """Random crop after padding by this many pixels."""

    autoaugment: bool = False
    """Apply AutoAugment's policy for CIFAR-10 to each image, as the authors of QCFS and SNNC do on CIFAR-10, and in
    newer code on CIFAR-100."""

    cutout: int = 16
    """Side of the square blanked in each training image, in pixels; 0 for none."""


C = TypeVar("C", bound=Cifar)


def recipe(config: C, model: nn.Module | None = None) -> C:
    """`config` with every None filled in: from the initial `model` if there is one, else from the recipe.

    Raises:
      InputError: if an option is not one of the network's, or contradicts `model`.
    """
    arch = config.arch or "resnet20"
    own = {"hidden": (4096, 4096)} if arch == "vgg16" else {"shortcut": "projection", "width": 1}
    config = with_network(config, ("shortcut", "width", "hidden"), {"arch": arch, **own}, model)
    lr = {"qcfs": 0.1 if config.dataset == "cifar10" else 0.05, "clipped_relu": 0.1, "relu": 0.1}[config.act]
    return with_defaults(config, lr=lr, L=(4 if config.arch == "vgg16" else 8) if config.act == "qcfs" else None)

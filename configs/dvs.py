"""The recipe for CIFAR10-DVS."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.training import Training, with_defaults, with_network


@dataclass(frozen=True)
class Dvs(Training):
    """Train a ResNet on the event recordings of CIFAR10-DVS.

    The ANN sees the mean of a recording's frames; its spiking version sees them one after another, so T is a multiple
    or a divisor of --frames. The paper's Table 2 has a ResNet-18 of SNNC, with 77.90 % at T = 4 to 83.20 % at T = 64.
    It does not describe its frames; the protocol of its baseline shows all of them as channels, the same at every step:

        python -m train.dvs --act=relu --frames=9 --constant --out runs/snnc-dvs
        python -m convert.studies accuracy --ann runs/snnc-dvs --calibrate mse --T 4 8 16 32 64 --data_dir DIR

    That protocol starts from weights trained on ImageNet, enlarges the frames to 224 pixels and trains with AdamW,
    mixup and label smoothing. This command trains new weights by SGD at --size; it has not been run here in full.
    """

    arch: Literal["resnet18", "resnet34", "vgg16"] = "resnet18"
    """Network."""

    stem: Literal["imagenet", "cifar"] | None = None
    """resnets: 7x7 with stride 2 and a pool, or one 3x3 [default: imagenet]."""

    lr: float = 0.1
    epochs: int = 100
    batch_size: int = 64
    validation: int = 900

    data_dir: Path | None = None
    """Folder that holds cifar10_dvs/CLASS/*.aedat4 [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]."""

    frames: int = 8
    """Number of frames, of equal duration, into which a recording is divided."""

    constant: bool = False
    """Show all frames at once as channels, the same at every step, instead of one after another."""

    size: int = 64
    """Height and width in pixels, a divisor of the camera's 128."""

    pad: int = 4
    """Random crop after padding by this many pixels."""

    skip_damaged: bool = False
    """Leave out recordings that can't be read, and print their number, instead of refusing them."""


def recipe(config: Dvs) -> Dvs:
    """`config` with every None filled in.

    Raises:
      InputError: if the network has no --stem and one is given.
    """
    network = {"arch": config.arch} | ({} if config.arch == "vgg16" else {"stem": "imagenet"})
    return with_defaults(with_network(config, ("stem",), network), L=8 if config.act == "qcfs" else None)

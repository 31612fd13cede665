"""The recipe for images of your own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.cifar import Cifar


@dataclass(frozen=True)
class Own(Cifar):
    """Train a ResNet or VGG on images of your own.

    Pictures in class folders, train/CLASS/* and test/CLASS/* (or val), of any format that Pillow reads:

        python -m train.own --data_dir DIR --size 64 --out runs/mine

    or the arrays x_train, y_train, x_test and y_test in one file, uint8 [N, H, W, C] or [N, H, W]:

        python -m train.own --dataset npz --data_dir FILE.npz --out runs/mine

    Its spiking version, on the test images:

        python -m convert.evaluate --ann runs/mine --data_dir DIR
    """

    dataset: Literal["folder", "npz"] = "folder"
    """Data set."""

    data_dir: Path | None = None
    """Folder of the pictures, or the file of npz."""

    size: int | None = None
    """folder: height and width in pixels to which pictures are resized, after those that are not square are cut to
    their centre [default: their own size, if they all have the same]."""

    pad: int | None = None
    """Random crop after padding by this many pixels [default: an eighth of the shorter side]."""

    flip: bool = True
    """Mirror images at random; --no-flip where left and right differ, as in writing."""

    cutout: int = 0
    """Side of the square blanked in each training image, in pixels; 0 for none."""

    epochs: int = 100
    validation: int | None = None
    """Training images held out to choose the best epoch [default: a tenth]."""

"""Scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, which ship with the package: the default of demo and tests."""

from typing import Any

import numpy as np

from tppjax.data import Images, Preprocessing
from tppjax.errors import InputError, extra
from tppjax.types import DataDir, Select

TEST = 360  # 36 of each digit


def info(name: str, data_dir: DataDir = None) -> Preprocessing:
    """The form of a network's input, with mean and standard deviation of the training split.

    Raises:
      InputError: if a folder is given, which would have no effect.
    """
    if data_dir is not None:
        raise InputError(f"the digits ship with scikit-learn and are not read from a folder; got data_dir {data_dir}")
    return Preprocessing(name, (8, 8, 1), mean=(0.3049,), std=(0.3757,), class_names=tuple("0123456789"))


def load(name: str, split: str, data_dir: DataDir = None, select: Select = np.arange) -> Images:
    """1,437 training or 360 test images, uint8 (the original 0 to 16 scaled to 0 to 255); the split never changes."""
    with extra("data"):
        from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    test = np.concatenate([order[digits.target[order] == digit][: TEST // 10] for digit in range(10)])
    chosen = np.isin(np.arange(len(order)), test) == (split == "test")
    pixels = np.round(digits.images[chosen] * 255 / 16).astype(np.uint8)
    images = Images(pixels[..., None], digits.target[chosen].astype(np.int32))
    return images[select(len(images))]

"""Scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, which ship with the package: the default of demo and tests."""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from tppjax.data import Images, Preprocessing
from tppjax.errors import InputError, extra

TEST = 360  # 36 of each digit


def info(name: str = "digits", data_dir: str | os.PathLike | None = None) -> Preprocessing:
    """The form of a network's input, with mean and standard deviation of the training split.

    Raises:
      InputError: if a folder is given, which would have no effect.
    """
    if data_dir is not None:
        raise InputError(f"the digits ship with scikit-learn and are not read from a folder; got data_dir {data_dir}")
    return Preprocessing(name, (8, 8, 1), mean=(0.3049,), std=(0.3757,), class_names=tuple("0123456789"))


def load(
    name: str = "digits",
    split: str = "train",
    data_dir: str | os.PathLike | None = None,
    select: Callable[[int], Any] = np.arange,
) -> Images:
    """1,437 training or 360 test images, uint8 (the original 0 to 16 scaled to 0 to 255); the split never changes."""
    with extra("data"):
        from sklearn.datasets import load_digits

    digits: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    rank = np.empty(len(order), int)  # the number of images of the same digit that precede it in this order
    for digit in range(10):
        of_digit = order[digits.target[order] == digit]
        rank[of_digit] = np.arange(len(of_digit))
    chosen = (rank < TEST // 10) == (split == "test")
    pixels = np.round(digits.images[chosen] * 255 / 16).astype(np.uint8)
    images = Images(pixels[..., None], digits.target[chosen].astype(np.int32))
    return images[select(len(images))]

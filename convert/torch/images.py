"""The preprocessing of a network from PyTorch: from the options, and the rest from the data set."""

from dataclasses import replace
from typing import Any

import numpy as np

from convert.torch.layouts import CIFAR, IMAGENET, Numbers, Size, Statistics
from tppjax import data
from tppjax.data import Preprocessing
from tppjax.errors import InputError

# Side in pixels and number of classes of data sets that are known without their files.
SIZES = {"cifar10": (32, 10), "cifar100": (32, 100), "digits": (8, 10), "imagenet2012": (224, 1000)}
NAMED = ("cifar10", "cifar100", "digits")  # data sets whose class names are known without their files
LARGEST = 2**14  # pixels of a side


def own_statistics(dataset: str | None) -> dict[str, Statistics]:
    """Mean and standard deviation of a data set of the library, by its name; empty for others."""
    digits = data.info("digits")
    known = {**CIFAR, "digits": (digits.mean, digits.std), "imagenet2012": IMAGENET}
    return {dataset: known[dataset]} if dataset in known else {}


def preprocessing(
    statistics: dict[str, Statistics],
    channels: int,
    classes: int | None,
    dataset: str | None,
    mean: Numbers | None,
    std: Numbers | None,
    size: Size | None,
    **options: Any,
) -> Preprocessing:
    """The preprocessing of the given values, with the missing ones from `statistics` and the data set.

    Args:
      statistics: default mean and standard deviation by data set; without a `dataset`, the first with as many classes
        is taken.
      channels: number of channels of the images.
      classes: number of classes; None if it is not known yet, see `with_classes`.
      dataset: name of the data set.
      mean: mean of each channel, with pixels in [0, 1].
      std: standard deviation of each channel, with pixels in [0, 1].
      size: side of the images in pixels, or height and width.
      **options: further fields of `Preprocessing`.

    Raises:
      InputError: if a value is missing (the message names the option), out of range, or does not fit the others.
    """
    fitting = [name for name in statistics if SIZES[name][1] == classes]
    dataset = fitting[0] if dataset is None and fitting else dataset
    defaults = statistics.get(dataset or "", (None, None))
    mean, std = defaults[0] if mean is None else mean, defaults[1] if std is None else std
    side, expected = SIZES.get(dataset or "", (None, classes))
    size = side if size is None else size
    if not dataset or mean is None or std is None or size is None:
        values = {"dataset": dataset or None, "mean": mean, "std": std, "size": size}
        raise _missing([name for name, value in values.items() if value is None], channels, classes)
    height, width = _sides(size)
    _check_statistics(mean, std, channels)
    if dataset == "imagenet2012":
        options = {"resize": round(max(height, width) * 8 / 7), **options}
    info = Preprocessing(
        dataset, (height, width, channels), tuple(map(float, mean)), tuple(map(float, std)), ("0",), **options
    )
    return with_classes(info, classes or expected or 1)


def _missing(names: list[str], channels: int, classes: int | None) -> InputError:
    images = f"images with {classes} classes and " if classes else "images with "
    return InputError(
        f"nothing tells how {images}{channels} channel{'s' * (channels != 1)} are "
        f"prepared for this network: give --{' and --'.join(names)}; mean and std have {_count(channels)}"
    )


def _count(channels: int) -> str:
    return "one number each" if channels == 1 else f"{channels} numbers each"


def _sides(size: Size) -> tuple[int, int]:
    """Height and width. Raises InputError if `size` is neither a side nor height and width, or out of range."""
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(n, int | np.integer) and 1 <= n <= LARGEST for n in sides):
        raise InputError(f"--size is a whole number of pixels from 1 to {LARGEST}, or height and width; got {size}")
    return int(sides[0]), int(sides[1])


def _check_statistics(mean: Numbers, std: Numbers, channels: int) -> None:
    """Raises InputError unless these are a mean and a standard deviation in range for each channel."""
    numbers = np.shape(mean) == np.shape(std) == (channels,) and np.asarray((mean, std)).dtype.kind in "fi"
    if not numbers or not all(0 <= m <= 1 and 0 < np.float32(s) < np.inf for m, s in zip(mean, std, strict=True)):
        raise InputError(
            f"--mean and --std need {_count(channels)}, as many as the network has input channels, for pixels in "
            f"[0, 1]: the mean in [0, 1], std above 0; got {mean} and {std}"
        )


def with_classes(images: Preprocessing, classes: int) -> Preprocessing:
    """The preprocessing with so many classes, which have the data set's names if it has some, else numbers.

    Raises:
      InputError: if the data set has another number of classes.
    """
    _, expected = SIZES.get(images.dataset, (None, classes))
    if expected != classes:
        raise InputError(f"the network has {classes} classes, {images.dataset} {expected}; give another --dataset")
    numbers = tuple(map(str, range(classes)))
    return replace(images, class_names=data.info(images.dataset).class_names if images.dataset in NAMED else numbers)

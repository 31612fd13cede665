"""What the images of a network from PyTorch are: what was said of them, and the rest from the data set."""

from dataclasses import replace

import numpy as np

from convert.torch.layouts import CIFAR, IMAGENET
from tppjax import data
from tppjax.data import Preprocessing
from tppjax.errors import InputError

# Pixels a side and number of classes of data sets that need not be there to be known.
SIZES = {"cifar10": (32, 10), "cifar100": (32, 100), "digits": (8, 10), "imagenet2012": (224, 1000)}
NAMED = ("cifar10", "cifar100", "digits")  # those whose classes have names that need not be looked up
LARGEST = 2**14  # pixels a side


def own_statistics(dataset: str | None) -> dict:
    """Mean and standard deviation of a data set that has its own, by its name; nothing for others."""
    digits = data.info("digits")
    known = {**CIFAR, "digits": (digits.mean, digits.std), "imagenet2012": IMAGENET}
    return {dataset: known[dataset]} if dataset in known else {}


def preprocessing(
    statistics: dict,
    channels: int,
    classes: int | None,
    dataset: str | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    size: int | tuple[int, int] | None,
    **options,
) -> Preprocessing:
    """What was said of the images, and the rest from `statistics` and the data set.

    Args:
      statistics: mean and standard deviation by data set, where nothing else is said; without a `dataset`, the first
        with as many classes is taken.
      channels: of the images.
      classes: how many there are; None if that is not known yet, see `with_classes`.
      dataset: its name.
      mean: of each channel, with pixels in [0, 1].
      std: likewise.
      size: side of the images in pixels, or height and width.
      **options: of `Preprocessing`.

    Raises:
      InputError: if something is missing (says which options), out of its range, or does not fit together.
    """
    fitting = [name for name in statistics if SIZES[name][1] == classes]
    dataset = fitting[0] if dataset is None and fitting else dataset
    defaults = statistics.get(dataset, (None, None))
    mean, std = defaults[0] if mean is None else mean, defaults[1] if std is None else std
    side, expected = SIZES.get(dataset, (None, classes))
    size = side if size is None else size
    each = "one number each" if channels == 1 else f"{channels} numbers each"
    needed = {"dataset": dataset or None, "mean": mean, "std": std, "size": size}
    if lacking := [name for name, value in needed.items() if value is None]:
        images = f"images with {classes} classes and " if classes else "images with "
        raise InputError(
            f"nothing tells how {images}{channels} channel{'s' * (channels != 1)} are "
            f"prepared for this network: give --{' and --'.join(lacking)}; mean and std have {each}"
        )
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(isinstance(n, int | np.integer) and 1 <= n <= LARGEST for n in sides):
        raise InputError(f"--size is a whole number of pixels from 1 to {LARGEST}, or height and width; got {size}")
    given = np.shape(mean) == np.shape(std) == (channels,) and np.asarray((mean, std)).dtype.kind in "fi"
    if not given or not all(0 <= m <= 1 and 0 < np.float32(s) < np.inf for m, s in zip(mean, std, strict=True)):
        raise InputError(
            f"--mean and --std need {each}, as many as the network has input channels, for pixels in [0, 1]: the "
            f"mean in [0, 1], std above 0; got {mean} and {std}"
        )
    if dataset == "imagenet2012":
        options = {"resize": round(max(sides) * 8 / 7), **options}
    info = Preprocessing(dataset, (*sides, channels), tuple(mean), tuple(std), ("0",), **options)
    return with_classes(info, classes or expected or 1)


def with_classes(images: Preprocessing, classes: int) -> Preprocessing:
    """The same with so many classes, by their names if the data set has some, else numbered.

    Raises:
      InputError: if the data set has another number of classes.
    """
    _, expected = SIZES.get(images.dataset, (None, classes))
    if expected != classes:
        raise InputError(f"the network has {classes} classes, {images.dataset} {expected}; give another --dataset")
    numbers = tuple(map(str, range(classes)))
    return replace(images, class_names=data.info(images.dataset).class_names if images.dataset in NAMED else numbers)

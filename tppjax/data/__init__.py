"""Data sets: `load(name, split, data_dir)` and `info(name, data_dir)` of each."""

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer, Shaped

from tppjax.data.preprocessing import LONGEST, Preprocessing, check_finite
from tppjax.errors import InputError
from tppjax.types import Array, DataDir, Select

__all__ = [
    "LONGEST", "NAMES", "READ_WITH_PREPROCESSING", "Examples", "Images", "Preprocessing", "check_finite",
    "check_memory", "digest", "info", "load",
]  # fmt: skip


class Examples:
    """One split of a data set: `Images` holds it in memory, `tppjax.data.imagenet.Stored` leaves it on disk.

    Attributes:
      images: pixels, uint8 `[N, H, W, C]`; recordings in time `[N, frames, H, W, C]`.
      labels: whole numbers from 0, `[N]`.
    """

    images: Any
    labels: Any

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: Any) -> "Examples":
        raise NotImplementedError

    def stream(self, indices: Any, seed: tuple[int, ...] | None = None) -> Iterator[tuple[Any, Any]]:
        """The pixels `[B, H, W, C]` and labels `[B]` of each row of `indices` `[steps, B]`, one row after another.

        Args:
          indices: indices of the images, from 0.
          seed: numbers that seed what is drawn at random when pictures are read, such as how they are cropped; equal
            numbers give equal crops. Without it nothing is random, and images in memory never are.
        """
        raise NotImplementedError

    def digest(self) -> str:
        """Twelve hexadecimal digits that identify these images."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Images(Examples):
    """One split of a data set, in memory.

    Attributes:
      images: pixels, uint8 `[N, H, W, C]`; recordings in time `[N, frames, H, W, C]`.
      labels: whole numbers from 0, int32 `[N]`.

    Raises:
      InputError: if these are not arrays with as many images as labels.
    """

    images: Shaped[Array, "n *shape"]
    labels: Integer[Array, "n"]

    def __post_init__(self) -> None:
        x, y = self.images, self.labels
        if not all(isinstance(a, np.ndarray | jax.Array) for a in (x, y)):
            raise InputError(f"images and labels are NumPy arrays; got {type(x).__name__} and {type(y).__name__}")
        if x.ndim not in (4, 5) or y.shape != x.shape[:1] or not jnp.issubdtype(y.dtype, jnp.integer):
            raise InputError(
                "images are [N, H, W, C] or [N, frames, H, W, C], and labels N whole numbers; got images of shape "
                f"{x.shape} and labels of {y.dtype} and shape {y.shape}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Images":
        return Images(self.images[index], self.labels[index])

    def stream(self, indices: Any, seed: tuple[int, ...] | None = None) -> Iterator[tuple[Array, Array]]:
        """As `Examples.stream`."""
        return ((self.images[row], self.labels[row]) for row in indices)

    def digest(self) -> str:
        """As `Examples.digest`."""
        return digest(self.images, self.labels)


# The module with `info` and `load` of each data set.
_MODULES = {
    "cifar10": "cifar",
    "cifar100": "cifar",
    "cifar10_dvs": "dvs",
    "digits": "digits",
    "folder": "folder",
    "imagenet2012": "imagenet",
    "npz": "npz",
}
NAMES = tuple(_MODULES)
READ_WITH_PREPROCESSING = ("cifar10_dvs", "folder", "imagenet2012")  # can be read in several sizes and forms


def info(name: str, data_dir: DataDir = None, **options: Any) -> Preprocessing:
    """Shape, statistics and class names of the data set called `name`.

    Args:
      name: one of `NAMES`.
      data_dir: folder of the data, as in `load`.
      **options: how to read a data set of `READ_WITH_PREPROCESSING`: options of its module's `info`, such as
        `size=64, frames=8`.

    Raises:
      InputError: on an unknown name, or damaged data.
      FileNotFoundError: if the data is needed and does not exist.
    """
    return _module(name).info(name, data_dir, **options)


def load(
    name: str,
    split: str,
    data_dir: DataDir = None,
    select: Select = np.arange,
    preprocessing: Preprocessing | None = None,
    **options: Any,
) -> Examples:
    """The images of one split, or some of them.

    Args:
      name: one of `NAMES`.
      split: "train" or "test".
      data_dir: folder of TFDS data sets, by default `$TFDS_DATA_DIR` or ~/tensorflow_datasets; the file for npz, the
        folder of both splits for folder.
      select: function from the number of images to the indices of those to read, in this order; all by default.
      preprocessing: the network's, for data sets of `READ_WITH_PREPROCESSING`; by default what `info` returns.
      **options: further options of `load` in the data set's own module.

    Returns:
      `Images`; for imagenet2012 a `Stored`, which leaves them on disk and has the same methods.

    Raises:
      InputError: on an unknown name or split, or damaged data.
      FileNotFoundError: if the data does not exist; says where it was looked for and how to get it.
    """
    if split not in ("train", "test"):
        raise InputError(f"unknown split {split!r}; known: train, test")
    if name in READ_WITH_PREPROCESSING:
        options["preprocessing"] = preprocessing or info(name, data_dir)
    return _module(name).load(name, split, data_dir, select, **options)


def digest(*arrays: Array) -> str:
    """Twelve hexadecimal digits that identify the contents of these arrays."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()[:12]


def check_memory(content: str, size: int, remedy: str) -> None:
    """Refuses `size` bytes if the machine has less memory: Linux would grant them, and kill the process later.

    Args:
      content: what needs the memory, for the message.
      size: the number of bytes.
      remedy: what to do, for the message.

    Raises:
      InputError: if there is less memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise InputError(
            f"{content} would take {size / 2**30:,.1f} GiB, and this machine has {memory / 2**30:,.1f}: {remedy}"
        )


def _module(name: str) -> ModuleType:
    if name not in _MODULES:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    return import_module(f"tppjax.data.{_MODULES[name]}")

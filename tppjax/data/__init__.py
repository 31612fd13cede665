"""Where images come from: `load(name, split, data_dir)` and `info(name, data_dir)` of every data set."""

import dataclasses
import hashlib
import os
from importlib import import_module

import jax.numpy as jnp
import numpy as np

from tppjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Images:
    """One split of a data set, in memory.

    Attributes:
      images: uint8 `[N, H, W, C]`; recordings in time `[N, frames, H, W, C]`.
      labels: int32 `[N]`.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index) -> "Images":
        return Images(self.images[index], self.labels[index])

    def stream(self, places, draw: tuple[int, ...] | None = None):
        """The pixels `[B, H, W, C]` and labels `[B]` of each row of `places` `[steps, B]`, one after another.

        Args:
          places: of the images, from 0.
          draw: numbers that seed what is drawn at random on reading, such as where a picture is cropped: the same
            numbers, the same crops. Without, nothing is random; and nothing ever is of images in memory.
        """
        return ((self.images[row], self.labels[row]) for row in places)

    def digest(self) -> str:
        """Twelve hexadecimal digits that tell these images from others."""
        return digest(self.images, self.labels)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a network's input is, kept with the network, so that evaluation can't use anything else.

    Attributes:
      dataset: name of the data set.
      input_shape: (height, width, channels).
      mean: of each channel, with pixels scaled to [0, 1].
      std: likewise.
      class_names: in the order of the labels.
      frames: of a recording, in time; None for still images.
      resize: pixels of the shorter side that a picture is brought to, before its centre is cut out; None where all
        pictures of the data set have the network's size.
      interpolation: of that, "bilinear" or "bicubic".
    """

    dataset: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    frames: int | None = None
    resize: int | None = None
    interpolation: str = "bilinear"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: (height, width, channels), or (frames, height, width, channels)."""
        return self.input_shape if self.frames is None else (self.frames, *self.input_shape)

    def __call__(self, images):
        """Pixels to network input: uint8 `[..., H, W, C]` are normalised; floats have been, and pass as they are.

        Raises:
          InputError: if the shape is not the network's, or the type is neither uint8 nor floating.
        """
        if images.shape[-3:] != self.input_shape:
            raise InputError(
                f"the network takes images of shape {self.input_shape} (trained on {self.dataset}); got {images.shape}"
            )
        if jnp.issubdtype(images.dtype, jnp.floating):
            return images
        if images.dtype != jnp.uint8:
            raise InputError(f"images are uint8 pixels, or floats already normalised; got {images.dtype}")
        mean, std = (jnp.broadcast_to(jnp.float32(a), images.shape) for a in (self.mean, self.std))
        return (images / jnp.float32(255) - mean) / std


# Data set to the module that has its `info` and `load`.
_MODULES = {
    "cifar10": "cifar",
    "cifar100": "cifar",
    "cifar10_dvs": "dvs",
    "digits": "digits",
    "imagenet2012": "imagenet",
    "npz": "npz",
}
NAMES = tuple(_MODULES)
READ_LIKE = ("cifar10_dvs", "imagenet2012")  # can be read in several sizes and forms


def info(name: str, data_dir: str | os.PathLike | None = None, **form) -> Preprocessing:
    """Shape, statistics and class names of the data set called `name`.

    Args:
      name: one of `NAMES`.
      data_dir: as in `load`.
      **form: how to read a data set of `READ_LIKE`, as its module's `info` has it; such as `size=64, frames=8`.

    Raises:
      InputError: on an unknown name, or damaged data.
      FileNotFoundError: if it takes the data to tell, and the data is not there.
    """
    return _module(name).info(name, data_dir, **form)


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    choose=np.arange,
    like: Preprocessing | None = None,
    **options,
) -> Images:
    """The images of one split, or some of them.

    Args:
      name: one of `NAMES`.
      split: "train" or "test".
      data_dir: folder of TFDS data sets, otherwise `$TFDS_DATA_DIR`, or ~/tensorflow_datasets; the file for npz.
      choose: from the number of images there are to the places of those to read, in this order; all by default.
      like: what the network takes, for data sets of `READ_LIKE`; by default what `info` says.
      **options: of the data set's own module.

    Returns:
      The images; those of imagenet2012 stay on disk, and have the same methods.

    Raises:
      InputError: on an unknown name or split, or damaged data.
      FileNotFoundError: if the data is not there; says where it was looked for and how to get it.
    """
    if split not in ("train", "test"):
        raise InputError(f"unknown split {split!r}; known: train, test")
    if name in READ_LIKE:
        options["like"] = like or info(name, data_dir)
    return _module(name).load(name, split, data_dir, choose, **options)


def digest(*arrays) -> str:
    """Twelve hexadecimal digits that tell these arrays' contents from others."""
    seen = hashlib.sha256()
    for array in arrays:
        seen.update(np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()[:12]


def _module(name: str):
    if name not in _MODULES:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    return import_module(f"tppjax.data.{_MODULES[name]}")

"""Where images come from: `load(name, split, data_dir)` and `info(name, data_dir)` of every data set."""

import dataclasses
import os
from importlib import import_module

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Images:
    """One split of a data set, in memory.

    Attributes:
      images: uint8 `[N, H, W, C]`.
      labels: int32 `[N]`.
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index) -> "Images":
        return Images(self.images[index], self.labels[index])


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a network's input is, kept with the network, so that evaluation can't use anything else.

    Attributes:
      dataset: name of the data set.
      input_shape: (height, width, channels).
      mean: of each channel, with pixels scaled to [0, 1].
      std: likewise.
      class_names: in the order of the labels.
    """

    dataset: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    def __call__(self, images):
        """Pixels to network input: uint8 `[..., H, W, C]` are normalised; floats have been, and pass as they are.

        Raises:
          ValueError: if the shape is not the network's, or the type is neither uint8 nor floating.
        """
        if images.shape[-3:] != self.input_shape:
            raise ValueError(
                f"the network takes images of shape {self.input_shape} (trained on {self.dataset}); got {images.shape}"
            )
        if jnp.issubdtype(images.dtype, jnp.floating):
            return images
        if images.dtype != jnp.uint8:
            raise ValueError(f"images are uint8 pixels, or floats already normalised; got {images.dtype}")
        mean, std = (jnp.broadcast_to(jnp.float32(a), images.shape) for a in (self.mean, self.std))
        return (images / jnp.float32(255) - mean) / std


# Data set to the module that has its `info` and `load`.
_MODULES = {"cifar10": "cifar", "cifar100": "cifar", "digits": "digits", "npz": "npz"}
NAMES = tuple(_MODULES)


def info(name: str, data_dir: str | os.PathLike | None = None) -> Preprocessing:
    """Shape, statistics and class names of the data set called `name`.

    Args:
      name: one of `NAMES`.
      data_dir: for npz, the file; the others don't need it.

    Raises:
      ValueError: on an unknown name, or a damaged npz file.
      FileNotFoundError: if the npz file is not there.
    """
    return _module(name).info(name, data_dir)


def load(name: str, split: str, data_dir: str | os.PathLike | None = None, choose=np.arange) -> Images:
    """The images of one split, or some of them.

    Args:
      name: one of `NAMES`.
      split: "train" or "test".
      data_dir: folder of TFDS data sets for cifar10 and cifar100 (otherwise `$TFDS_DATA_DIR`, or
        ~/tensorflow_datasets); the file for npz.
      choose: from the number of images there are to the places of those to read, in this order; all by default.

    Raises:
      ValueError: on an unknown name or split, or damaged data.
      FileNotFoundError: if the data is not there; says where it was looked for and how to get it.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; known: train, test")
    return _module(name).load(name, split, data_dir, choose)


def _module(name: str):
    if name not in _MODULES:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    return import_module(f"tppjax.data.{_MODULES[name]}")

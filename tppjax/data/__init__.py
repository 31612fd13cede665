"""Where images come from: `load(name, split, data_dir)` and `info(name, data_dir)` of every data set."""

import dataclasses
import hashlib
import numbers
import os
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Images:
    """One split of a data set, in memory.

    Attributes:
      images: uint8 `[N, H, W, C]`; recordings in time `[N, frames, H, W, C]`.
      labels: int32 `[N]`.

    Raises:
      InputError: if these are not arrays of as many images as labels.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        x, y = self.images, self.labels
        if not all(isinstance(a, np.ndarray | jax.Array) for a in (x, y)):
            raise InputError(f"images and labels are NumPy arrays; got {type(x).__name__} and {type(y).__name__}")
        if x.ndim not in (4, 5) or y.shape != x.shape[:1] or not jnp.issubdtype(y.dtype, jnp.integer):
            raise InputError(
                "images are [N, H, W, C] or [N, frames, H, W, C], and labels N whole numbers; got images of shape "
                f"{x.shape} and labels of {y.dtype} and shape {y.shape}"
            )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index) -> "Images":
        return Images(self.images[index], self.labels[index])

    def stream(self, indices, seed: tuple[int, ...] | None = None):
        """The pixels `[B, H, W, C]` and labels `[B]` of each row of `indices` `[steps, B]`, one after another.

        Args:
          indices: of the images, from 0.
          seed: numbers that seed what is drawn at random on reading, such as where a picture is cropped: the same
            numbers, the same crops. Without, nothing is random; and nothing ever is of images in memory.
        """
        return ((self.images[row], self.labels[row]) for row in indices)

    def digest(self) -> str:
        """Twelve hexadecimal digits that tell these images from others."""
        return digest(self.images, self.labels)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What a network's input is, kept with the network, so that evaluation can't use anything else.

    NumPy's numbers and texts become Python's, so that equal ones are described, saved and compared alike.

    Attributes:
      dataset: name of the data set.
      input_shape: (height, width, channels).
      mean: of each channel, with pixels scaled to [0, 1].
      std: likewise.
      class_names: in the order of the labels.
      frames: of a recording, in time; None for still images.
      resize: pixels of the shorter side that a picture is brought to, before its centre is cut out; None where the
        pictures of the data set have the network's size, or as much of their middle as has its proportions is taken.
      interpolation: of that, "bilinear" or "bicubic".
      channels_first: whether the network itself takes (channels, height, width), as PyTorch's do; pixels have their
        channels last all the same.

    Raises:
      InputError: if one of these can't be.
    """

    dataset: str
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    frames: int | None = None
    resize: int | None = None
    interpolation: str = "bilinear"
    channels_first: bool = False

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        for problem in self._problems():
            raise InputError(f"what the network is given ({self.dataset}) can't be: {problem}")

    def _problems(self):
        if not isinstance(self.dataset, str):
            yield f"the data set's name is text, not {self.dataset!r}"
        if not _sizes(self.input_shape) or len(self.input_shape) != 3:
            yield f"input_shape is (height, width, channels), each 1 to {LONGEST}, not {self.input_shape!r}"
        for name in ("mean", "std"):
            values = getattr(self, name)
            if not _tuple_of((int, float), values) or len(values) != self.input_shape[2]:
                yield f"{name} is a number for each of {self.input_shape[2]} channels, not {values!r}"
            if not all(abs(v) < LARGEST for v in values) or (name == "std" and min(values) < 1 / LARGEST):
                yield f"{name} is finite{', and above 0' * (name == 'std')}; it is {values}"
        if not _tuple_of(str, self.class_names) or not self.class_names:
            yield f"class_names are texts, one or more; they are {self.class_names!r}"
        for name in ("frames", "resize"):
            value = getattr(self, name)
            if value is not None and not _sizes((value,)):
                yield f"{name} is a whole number of 1 to {LONGEST}, or None; it is {value!r}"
        if not isinstance(self.channels_first, bool):
            yield f"channels_first is True or False, not {self.channels_first!r}"
        if self.interpolation not in INTERPOLATIONS:
            yield f"interpolation is {' or '.join(INTERPOLATIONS)}, not {self.interpolation!r}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example: (height, width, channels), or (frames, height, width, channels)."""
        return self.input_shape if self.frames is None else (self.frames, *self.input_shape)

    @property
    def network_shape(self) -> tuple[int, int, int]:
        """Of one image as the network itself takes it."""
        height, width, channels = self.input_shape
        return (channels, height, width) if self.channels_first else self.input_shape

    def measured(self, images) -> "Preprocessing":
        """The same with mean and standard deviation of each channel of these pixels, uint8 `[N, H, W, C]`."""
        n, values = images[..., 0].size, np.arange(256) / 255
        counts = np.zeros((images.shape[-1], 256))
        for start in range(0, len(images), 100):  # all at once would take eight times their memory
            for channel, of_channel in enumerate(counts):
                of_channel += np.bincount(images[start : start + 100, ..., channel].ravel(), minlength=256)
        mean = counts @ values / n
        std = np.sqrt(np.sum(counts * (values - mean[:, None]) ** 2, axis=1) / n)
        # A channel that never changes has no scale of its own.
        return dataclasses.replace(self, mean=tuple(mean), std=tuple(np.where(std > 0, std, 1.0)))

    def __call__(self, images):
        """Pixels to network input: uint8 `[..., H, W, C]` are normalised; floats are that input, and pass as they are.

        Raises:
          InputError: if the shape is not the network's, the type is neither uint8 nor floating, or an array of NumPy's
            holds NaN or infinity.
        """
        if not isinstance(images, np.ndarray | jax.Array):
            raise InputError(f"images are an array of NumPy's or JAX's; got {type(images).__name__}: use np.asarray")
        floats = jnp.issubdtype(images.dtype, jnp.floating)
        shape = self.network_shape if floats else self.input_shape
        if images.shape[-3:] != shape:
            raise InputError(
                f"the network takes images of shape {shape} (trained on {self.dataset}); got {images.shape}"
            )
        if floats:
            check_finite(images)
            return images
        if images.dtype != jnp.uint8:
            raise InputError(f"images are uint8 pixels, or floats already normalised; got {images.dtype}")
        mean, std = (jnp.broadcast_to(jnp.float32(a), images.shape) for a in (self.mean, self.std))
        x = (images / jnp.float32(255) - mean) / std
        return jnp.moveaxis(x, -1, -3) if self.channels_first else x


INTERPOLATIONS = ("bilinear", "bicubic")
LONGEST = 2**16  # pixels a side, channels, or frames, of any network's input
LARGEST = 1e30  # float32 holds this number and its inverse

# Data set to the module that has its `info` and `load`.
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


def info(name: str, data_dir: str | os.PathLike | None = None, **options) -> Preprocessing:
    """Shape, statistics and class names of the data set called `name`.

    Args:
      name: one of `NAMES`.
      data_dir: as in `load`.
      **options: how to read a data set of `READ_WITH_PREPROCESSING`, those of its module's `info`, such as
        `size=64, frames=8`.

    Raises:
      InputError: on an unknown name, or damaged data.
      FileNotFoundError: if it takes the data to tell, and the data is not there.
    """
    return _module(name).info(name, data_dir, **options)


def load(
    name: str,
    split: str,
    data_dir: str | os.PathLike | None = None,
    select=np.arange,
    preprocessing: Preprocessing | None = None,
    **options,
) -> Images:
    """The images of one split, or some of them.

    Args:
      name: one of `NAMES`.
      split: "train" or "test".
      data_dir: folder of TFDS data sets, otherwise `$TFDS_DATA_DIR`, or ~/tensorflow_datasets; the file for npz, the
        folder of both splits for folder.
      select: from the number of images there are to the places of those to read, in this order; all by default.
      preprocessing: what the network takes, for data sets of `READ_WITH_PREPROCESSING`; by default what `info` says.
      **options: of the data set's own module.

    Returns:
      The images; those of imagenet2012 stay on disk, and have the same methods.

    Raises:
      InputError: on an unknown name or split, or damaged data.
      FileNotFoundError: if the data is not there; says where it was looked for and how to get it.
    """
    if split not in ("train", "test"):
        raise InputError(f"unknown split {split!r}; known: train, test")
    if name in READ_WITH_PREPROCESSING:
        options["preprocessing"] = preprocessing or info(name, data_dir)
    return _module(name).load(name, split, data_dir, select, **options)


def digest(*arrays) -> str:
    """Twelve hexadecimal digits that tell these arrays' contents from others."""
    seen = hashlib.sha256()
    for array in arrays:
        seen.update(np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()[:12]


def check_finite(images) -> None:
    """Raises InputError if floats in an array of NumPy's are not finite; arrays on a device pass: asking would wait."""
    if not isinstance(images, np.ndarray) or not jnp.issubdtype(images.dtype, jnp.floating):
        return
    if not (finite := np.isfinite(images)).all():
        place = np.argwhere(~finite)[0].tolist()
        raise InputError(f"the images hold NaN or infinity, first at {place}: give finite numbers, or uint8 pixels")


def check_memory(what: str, size: int, remedy: str) -> None:
    """Refuses `size` bytes if they are more than the machine has: Linux would grant them, and end the process later.

    Raises:
      InputError: names `what` and the `remedy`.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise InputError(
            f"{what} would take {size / 2**30:,.1f} GiB, and this machine has {memory / 2**30:,.1f}: {remedy}"
        )


def _plain(value):
    """Python's own number or text for one of NumPy's; in tuples likewise. Other things, as bool, stay as they are."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    for kind, plain in ((str, str), (bool, bool), (numbers.Integral, int), (numbers.Real, float)):
        if isinstance(value, kind):
            return plain(value)
    return value


def _tuple_of(kind, values) -> bool:
    return isinstance(values, tuple) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def _sizes(values) -> bool:
    return _tuple_of(int, values) and all(1 <= v <= LONGEST for v in values)


def _module(name: str):
    if name not in _MODULES:
        raise InputError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    return import_module(f"tppjax.data.{_MODULES[name]}")

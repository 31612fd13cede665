"""`Preprocessing`: from pixels to the input of a network."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from tppjax.errors import InputError
from tppjax.types import Array

INTERPOLATIONS = ("bilinear", "bicubic")
LONGEST = 2**16  # pixels a side, channels, or frames, of any network's input
LARGEST = 1e30  # float32 holds this number and its inverse


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The form of a network's input, kept with the network, so that evaluation can't use another.

    Numbers and strings of NumPy become Python's, so that equal ones are described, saved and compared alike.

    Attributes:
      dataset: name of the data set.
      input_shape: shape of an image, (height, width, channels).
      mean: mean of each channel, with pixels scaled to [0, 1].
      std: standard deviation of each channel, with pixels scaled to [0, 1].
      class_names: names of the classes, in the order of the labels.
      frames: number of frames of a recording, in time; None for still images.
      resize: length in pixels to which the shorter side of a picture is resized before its centre is cut out; None if
        pictures have the network's size, or if the largest central part with its proportions is to be taken.
      interpolation: method of resizing, "bilinear" or "bicubic".
      channels_first: whether the network itself takes (channels, height, width), as in PyTorch; pixels have their
        channels last in any case.

    Raises:
      InputError: if one of these has an impossible value.
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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        for problem in self._problems():
            raise InputError(f"the preprocessing for {self.dataset} is impossible: {problem}")

    def _problems(self) -> Iterator[str]:
        if not isinstance(self.dataset, str):
            yield f"the name of the data set is text, not {self.dataset!r}"
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
        """Shape of one example: (height, width, channels), or (frames, height, width, channels)."""
        return self.input_shape if self.frames is None else (self.frames, *self.input_shape)

    @property
    def network_shape(self) -> tuple[int, int, int]:
        """Shape of one image as the network itself takes it."""
        height, width, channels = self.input_shape
        return (channels, height, width) if self.channels_first else self.input_shape

    def measured(self, images: UInt8[np.ndarray, "n *image"]) -> "Preprocessing":
        """The same with mean and standard deviation of each channel of these pixels, uint8 `[N, H, W, C]`."""
        n, values = images[..., 0].size, np.arange(256) / 255
        counts = np.zeros((images.shape[-1], 256))
        for start in range(0, len(images), 100):  # all at once would take eight times their memory
            for channel, channel_counts in enumerate(counts):
                channel_counts += np.bincount(images[start : start + 100, ..., channel].ravel(), minlength=256)
        mean = counts @ values / n
        std = np.sqrt(np.sum(counts * (values - mean[:, None]) ** 2, axis=1) / n)
        # A channel that never changes has no scale of its own.
        return dataclasses.replace(self, mean=tuple(mean), std=tuple(np.where(std > 0, std, 1.0)))

    def __call__(self, images: Shaped[Array, "..."]) -> Float[Array, "..."]:
        """Pixels to network input: uint8 `[..., H, W, C]` are normalised; floats are such input, and pass unchanged.

        Raises:
          InputError: if the shape is not the network's, the type is neither uint8 nor floating, or an array of NumPy
            holds NaN or infinity.
        """
        if not isinstance(images, np.ndarray | jax.Array):
            raise InputError(f"images are an array of NumPy or JAX; got {type(images).__name__}: use np.asarray")
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


def check_finite(images: Array) -> None:
    """Raises InputError if floats in an array of NumPy are not finite; arrays on a device pass, to avoid waiting."""
    if not isinstance(images, np.ndarray) or not jnp.issubdtype(images.dtype, jnp.floating):
        return
    if not (finite := np.isfinite(images)).all():
        index = np.argwhere(~finite)[0].tolist()
        raise InputError(f"the images hold NaN or infinity, first at {index}: give finite numbers, or uint8 pixels")


def _plain(value: Any) -> Any:
    """The number or string of Python for one of NumPy, in tuples too; anything else is returned unchanged."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _tuple_of(kind: type | tuple[type, ...], values: Any) -> bool:
    return isinstance(values, tuple) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def _sizes(values: Any) -> bool:
    return _tuple_of(int, values) and all(1 <= v <= LONGEST for v in values)

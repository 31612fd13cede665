"""Checks of what a caller passes in: images, and networks of their own."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from tppjax.data import Preprocessing, check_finite
from tppjax.errors import InputError, refusing
from tppjax.types import Array, ImagesLike


def as_images(images: ImagesLike) -> Array:
    """`images` as one array: from arrays, tensors and lists of them, and the pixels of `tppjax.data.Images`.

    Tracers of JAX pass unchecked, and so do floats on a device: checking that they are finite would mean waiting.

    Raises:
      InputError: if they are none of these, or floats on the host that are not finite; says where.
    """
    if isinstance(images, jax.core.Tracer):
        return images
    if hasattr(type(images), "stream"):  # of the type: asking the object would read pictures from disk
        images = images.images
    if not isinstance(images, np.ndarray | jax.Array):
        images = _converted(images)
    if images.dtype.kind in "OSUM":
        raise InputError(f"images are an array of numbers [N, ...]; got {images.dtype}")
    check_finite(images)
    return images


def _converted(images: Any) -> np.ndarray:
    if hasattr(images, "__array__") or isinstance(images, list | tuple):
        with refusing("the images can't be made one array [N, ...]"):  # such as rows of different lengths
            return np.asarray(images)
    raise InputError(
        f"images are one array [N, ...]; got {type(images).__name__}. From a loader whose batches are (x, labels): "
        "np.concatenate([np.asarray(x) for x, _ in loader]), with .transpose(0, 2, 3, 1) if the network takes channels "
        "last and the loader gives [B, C, H, W]"
    )


def check_prepared(x: Array, recorded: bool, preprocessing: Preprocessing | None) -> None:
    """Raises InputError unless `preprocessing` takes the batch or, without one, it holds floats; nothing is computed.

    Args:
      x: the batch.
      recorded: whether the second axis of the batch is that of the frames of recordings.
      preprocessing: that of the network, or None.
    """
    if preprocessing is None:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise InputError(f"a network without preprocessing takes floats, already normalised; got {x.dtype}")
        return
    if recorded and x.shape[1] != preprocessing.frames:
        raise InputError(f"the network takes recordings of {preprocessing.frames or 'no'} frames; got shape {x.shape}")
    jax.eval_shape(preprocessing, x)


def check_examples(network: Any, images: ImagesLike, purpose: str) -> Array:
    """The images as one array `[N, ...]` that fits the network and is finite, on a device too.

    Args:
      network: a network with a method `frames`, as `Network` and `Ann` have it.
      images: the images, in any form that `as_images` takes.
      purpose: what the images are for, such as "calibration"; appears in the message if there are none.

    Raises:
      InputError: as `as_images` and `frames`, or if there are no images.
    """
    images = as_images(images)
    if not np.shape(images) or len(images) == 0:
        raise InputError(f"{purpose} needs images [N, ...]; got none")
    if isinstance(images, jax.Array):
        check_finite(np.asarray(images))
    jax.eval_shape(network.frames, images[:1])
    return images


def check_leaf(path: str, leaf: np.ndarray, name: str | None = None) -> None:
    """Raises InputError unless all numbers are finite, thresholds positive and variances not negative.

    Args:
      path: path of the leaf, such as "params/act1/theta".
      leaf: the numbers of the leaf.
      name: name of the leaf in the message; by default the path.
    """
    name = path if name is None else name
    if not np.all(np.isfinite(leaf)):
        raise InputError(f"{name} has a number that is not finite")
    if path.endswith("/theta") and not np.all(leaf > 0):
        raise InputError(f"{name} has a threshold that is not positive, {leaf.min()}")
    if path.startswith("batch_stats/") and path.endswith("/var") and np.any(leaf < 0):
        raise InputError(f"{name} has a negative variance, {leaf.min()}")

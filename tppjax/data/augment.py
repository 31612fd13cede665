"""Augmentation of image batches inside jit, on uint8 pixels."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Shaped

from tppjax.errors import InputError
from tppjax.types import Array, Key


def crop(
    images: Shaped[Array, "batch height width channels"], key: Key, pad: int
) -> Shaped[jax.Array, "batch height width channels"]:
    """Random crop of the original size after padding with zeros: uint8 `[B, H, W, C]`, `pad` in pixels.

    Raises:
      InputError: if `pad` is below 0 or larger than the images.
    """
    b, h, w, c = images.shape
    if not 0 <= pad <= min(h, w):
        raise InputError(f"a random crop pads images of {h} x {w} pixels by 0 to {min(h, w)} pixels, not {pad}")
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    corners = jax.random.randint(key, (b, 2), 0, 2 * pad + 1)
    return jax.vmap(lambda image, yx: jax.lax.dynamic_slice(image, (*yx, 0), (h, w, c)))(padded, corners)


def flip(images: Shaped[Array, "batch *shape"], key: Key) -> Shaped[jax.Array, "batch *shape"]:
    """Mirrors each image left to right with probability 1/2: `[B, H, W, C]`."""
    mirrored = jax.random.bernoulli(key, 0.5, (images.shape[0], 1, 1, 1))
    return jnp.where(mirrored, images[:, :, ::-1], images)


def cutout(
    images: Shaped[Array, "batch height width channels"], key: Key, size: int, fill: Array | Sequence[float]
) -> Shaped[jax.Array, "batch height width channels"]:
    """Fills a `size` x `size` square of each image, centred anywhere in it (DeVries & Taylor, 2017).

    Args:
      images: the images, `[B, H, W, C]`.
      key: PRNG key.
      size: side of the square, in pixels; the square may extend beyond the image.
      fill: colour of the square, `[C]`, in the units of `images`.

    Raises:
      InputError: if `size` is below 0 or more than twice the larger side of the images, where nothing of them is left.
    """
    b, h, w, _ = images.shape
    if not 0 <= size <= 2 * max(h, w):
        raise InputError(
            f"cutout's square has a side of 0 to {2 * max(h, w)} in images of {h} x {w} pixels, not {size}"
        )
    low = jax.random.randint(key, (b, 2), 0, jnp.array([[h, w]])) - size // 2
    colour = jnp.asarray(fill, images.dtype)[None, None]

    def cut(image: Array, low: jax.Array) -> jax.Array:
        row, column = jnp.arange(h)[:, None, None] - low[0], jnp.arange(w)[None, :, None] - low[1]
        hole = (row >= 0) & (row < size) & (column >= 0) & (column < size)
        return jnp.where(hole, colour, image)

    return jax.vmap(cut)(images, low)

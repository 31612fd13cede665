"""AutoAugment's policy for CIFAR-10 (Cubuk et al., CVPR 2019) inside jit, on uint8 pixels.

The operations are Pillow's, as the authors of the baselines apply them: a policy is drawn for each image, and each of
its two operations is applied with its own probability. Pixels from outside the image are grey (128).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from tppjax.errors import InputError
from tppjax.types import Array, Key

Image = Float[jax.Array, "height width channels"]
Number = jax.Array | np.floating | float

FILL = 128.0
# (probability, operation, magnitude in 0..9), twice.
POLICIES = (
    ((0.1, "invert", 7), (0.2, "contrast", 6)),
    ((0.7, "rotate", 2), (0.3, "translate_x", 9)),
    ((0.8, "sharpness", 1), (0.9, "sharpness", 3)),
    ((0.5, "shear_y", 8), (0.7, "translate_y", 9)),
    ((0.5, "autocontrast", 8), (0.9, "equalize", 2)),
    ((0.2, "shear_y", 7), (0.3, "posterize", 7)),
    ((0.4, "color", 3), (0.6, "brightness", 7)),
    ((0.3, "sharpness", 9), (0.7, "brightness", 9)),
    ((0.6, "equalize", 5), (0.5, "equalize", 1)),
    ((0.6, "contrast", 7), (0.6, "sharpness", 5)),
    ((0.7, "color", 7), (0.5, "translate_x", 8)),
    ((0.3, "equalize", 7), (0.4, "autocontrast", 8)),
    ((0.4, "translate_y", 3), (0.2, "sharpness", 6)),
    ((0.9, "brightness", 6), (0.2, "color", 8)),
    ((0.5, "solarize", 2), (0.0, "invert", 3)),
    ((0.2, "equalize", 0), (0.6, "autocontrast", 0)),
    ((0.2, "equalize", 8), (0.6, "equalize", 4)),
    ((0.9, "color", 9), (0.6, "equalize", 6)),
    ((0.8, "autocontrast", 4), (0.2, "solarize", 8)),
    ((0.1, "brightness", 3), (0.7, "color", 0)),
    ((0.4, "solarize", 5), (0.9, "autocontrast", 3)),
    ((0.9, "translate_y", 9), (0.7, "translate_y", 9)),
    ((0.9, "autocontrast", 2), (0.8, "solarize", 3)),
    ((0.8, "equalize", 8), (0.1, "invert", 3)),
    ((0.7, "translate_y", 9), (0.9, "autocontrast", 1)),
)


def cifar10_policy(images: UInt8[Array, "batch height width 3"], key: Key) -> UInt8[jax.Array, "batch height width 3"]:
    """Applies one of the 25 policies to each image, drawn uniformly: uint8 `[B, H, W, 3]`.

    Raises:
      InputError: if the images do not have three channels.
    """
    if images.shape[-1] != 3:
        raise InputError(f"AutoAugment's policy is for images of three channels; got {images.shape}")
    names = tuple(OPERATIONS)
    steps = np.array([[(p, names.index(name), MAGNITUDES[name][m]) for p, name, m in policy] for policy in POLICIES])
    choice_key, key = jax.random.split(key)
    chosen = jnp.asarray(steps, jnp.float32)[jax.random.randint(choice_key, images.shape[:1], 0, len(POLICIES))]

    def one(image: jax.Array, chosen: jax.Array, key: Key) -> jax.Array:
        for (probability, operation, magnitude), k in zip(chosen, jax.random.split(key, 2), strict=True):
            apply_key, sign_key = jax.random.split(k)
            magnitude = jnp.where(jax.random.bernoulli(sign_key), magnitude, -magnitude)
            changed = jax.lax.switch(operation.astype(int), list(OPERATIONS.values()), image, magnitude)
            image = jnp.where(jax.random.bernoulli(apply_key, probability), changed, image)
        return image

    floats = jnp.asarray(images, jnp.float32)
    pixels = jax.vmap(one)(floats, chosen, jax.random.split(key, len(images)))
    return pixels.astype(images.dtype)


def translate_x(image: Image, fraction: Number) -> Image:
    """Moves the image by a fraction of its width, to the left if positive; pixels are whole numbers as floats."""
    return _nearest(image, lambda x, y: (x + fraction * image.shape[1], y))


def translate_y(image: Image, fraction: Number) -> Image:
    """Moves the image by a fraction of its height, upwards if positive."""
    return _nearest(image, lambda x, y: (x, y + fraction * image.shape[0]))


def rotate(image: Image, degrees: Number) -> Image:
    """Rotates the image counterclockwise about its centre."""
    angle = -jnp.deg2rad(degrees)
    cos, sin, (h, w) = jnp.cos(angle), jnp.sin(angle), (n / 2 for n in image.shape[:2])
    return _nearest(image, lambda x, y: (cos * (x - w) + sin * (y - h) + w, cos * (y - h) - sin * (x - w) + h))


def shear_y(image: Image, slope: Number) -> Image:
    """Shears the image along its columns: the pixel at (x, y) comes from (x, slope x + y), by cubic interpolation."""
    h, w, _ = image.shape
    x, y = _centres(image)
    x, y = x, slope * x + y
    inside = (y >= 0) & (y < h)
    y = y - 0.5
    low = jnp.floor(y)
    d = (y - low)[..., None]
    rows = (jnp.clip(low.astype(int) + i, 0, h - 1) for i in (-1, 0, 1, 2))
    columns = jnp.arange(w)[None, :]
    a, b, c, e = (image[row, columns] for row in rows)
    cubic = b + d * (c - a + d * (2 * (a - b) + c - e + d * (b - a - c + e)))
    return jnp.where(inside[..., None], _whole(cubic), FILL)


def color(image: Image, more: Number) -> Image:
    """Blends the image with its grey version; a positive `more` increases the colour."""
    return _blend(jnp.broadcast_to(_grey(image)[..., None], image.shape), image, more)


def contrast(image: Image, more: Number) -> Image:
    """Blends the image with its mean grey."""
    return _blend(jnp.full_like(image, jnp.floor(_grey(image).mean() + 0.5)), image, more)


def brightness(image: Image, more: Number) -> Image:
    """Blends the image with black."""
    return _blend(jnp.zeros_like(image), image, more)


def sharpness(image: Image, more: Number) -> Image:
    """Blends the image with itself smoothed by the kernel 1 1 1, 1 5 1, 1 1 1; borders are not smoothed."""
    h, w, _ = image.shape
    summed = sum(image[i : h - 2 + i, j : w - 2 + j] for i in range(3) for j in range(3)) + 4 * image[1:-1, 1:-1]
    return _blend(image.at[1:-1, 1:-1].set(jnp.floor(summed / 13 + 0.5)), image, more)


def posterize(image: Image, bits: Number) -> Image:
    """Keeps the highest bits of each pixel."""
    step = 2.0 ** (8 - jnp.abs(bits))
    return jnp.floor(image / step) * step


def solarize(image: Image, threshold: Number) -> Image:
    """Inverts the pixels at or above the threshold."""
    return jnp.where(image < jnp.abs(threshold), image, 255 - image)


def invert(image: Image, _: Number) -> Image:
    """The negative."""
    return 255 - image


def autocontrast(image: Image, _: Number) -> Image:
    """Stretches each channel to 0..255."""
    low, high = (f(image, axis=(0, 1), keepdims=True) for f in (jnp.min, jnp.max))
    scale = 255 / jnp.maximum(high - low, 1)
    return jnp.where(high > low, _whole(image * scale - low * scale), image)


def equalize(image: Image, _: Number) -> Image:
    """Flattens the histogram of each channel."""
    return jax.vmap(_equalized, in_axes=-1, out_axes=-1)(image)


def _equalized(channel: jax.Array) -> jax.Array:
    level = channel.astype(jnp.int32)
    histogram = jnp.bincount(level.ravel(), length=256)
    step = (channel.size - histogram[level.max()]) // 255
    before = jnp.cumsum(histogram) - histogram
    table = jnp.minimum((step // 2 + before) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table[level].astype(channel.dtype), channel)


OPERATIONS = {
    operation.__name__: operation
    for operation in (
        *(shear_y, translate_x, translate_y, rotate, color, contrast, brightness, sharpness),
        *(posterize, solarize, invert, autocontrast, equalize),
    )
}
MAGNITUDES = {
    "shear_y": np.linspace(0, 0.3, 10),
    **dict.fromkeys(("translate_x", "translate_y"), np.linspace(0, 150 / 331, 10)),
    "rotate": np.linspace(0, 30, 10),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), np.linspace(0, 0.9, 10)),
    "posterize": np.round(np.linspace(8, 4, 10)),
    "solarize": np.linspace(256, 0, 10),
    **dict.fromkeys(("invert", "autocontrast", "equalize"), np.zeros(10)),
}


def _centres(image: Image) -> tuple[jax.Array, jax.Array]:
    """Coordinates x and y of the pixels' centres, `[H, W]` each."""
    x, y = jnp.meshgrid(*(jnp.arange(n) + 0.5 for n in image.shape[1::-1]))
    return x, y


def _nearest(image: Image, source: Callable) -> Image:
    """The pixel at `source(x, y)` for every (x, y)."""
    h, w, _ = image.shape
    x, y = (jnp.floor(v).astype(int) for v in source(*_centres(image)))
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    return jnp.where(inside[..., None], image[jnp.clip(y, 0, h - 1), jnp.clip(x, 0, w - 1)], FILL)


def _blend(other: Image, image: Image, more: Number) -> Image:
    """`other + (1 + more) (image - other)`."""
    return _whole(other + (1 + more) * (image - other))


def _whole(pixels: Image) -> Image:
    """Clipped to 0..255 and truncated to whole numbers, as by Pillow; slightly increased, so that 6.9999995 is 7."""
    return jnp.floor(jnp.clip(pixels + 1e-3, 0, 255))


def _grey(image: Image) -> jax.Array:
    """Luma of ITU-R 601-2: whole numbers, `[H, W]`."""
    return jnp.floor(functools.reduce(jnp.add, (w * image[..., i] for i, w in enumerate((0.299, 0.587, 0.114)))) + 0.5)

"""Convolutions that train fast on CPUs. Images are `[B, H, W, C]`, kernels `[h, w, C, K]`."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tppjax.types import Array

Pair = tuple[int, int]
Taps = dict[int, list[int]]  # the rows of a kernel, by the first row of the image that they meet
Padding = tuple[Pair, Pair]  # ((above, below), (left, right))
_whole = ContextVar("whole", default=False)  # whether every convolution is one operation, see `whole`
BLOCK = 2**21  # bytes of shifted images and gradients that are multiplied at a time: more would exceed the cache


def convolution(
    lhs: jax.Array, rhs: jax.Array, window_strides: Sequence[int], padding: Any, precision: Any = None, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it, but fast in two cases in which XLA is slow on CPUs.

    One is the gradient of the kernel, see `kernel_gradient`. The other is a kernel larger than the image: XLA then
    swaps the two, at ten times the cost, and VGG-16 on CIFAR ends in images of 2 x 2 pixels. XLA itself computes
    convolutions with groups or dilation, or of other than two dimensions. The rest has no forward mode (`jax.jvp`).
    """
    dilation = {*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())}
    if lhs.ndim != 4 or options.get("feature_group_count", 1) > 1 or dilation - {1} or isinstance(padding, str):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, precision=precision, **options)
    (down, across), (rows, columns) = window_strides, map(tuple, padding)
    convolve = tap_by_tap if larger_than_image(lhs, rhs) and not _whole.get() else _by_xla
    return convolve(lhs, rhs, (down, across), (rows, columns), precision)


@contextmanager
def whole() -> Iterator[None]:
    """A context in which every convolution is one operation, even where that is slow, so that tracing recognises it."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def larger_than_image(x: Any, kernel: Any) -> bool:
    """Whether the kernel `[h, w, C, K]` has more pixels than the images `[B, H, W, C]`."""
    return math.prod(kernel.shape[:2]) > math.prod(x.shape[1:3])


def tap_by_tap(x: jax.Array, kernel: Array, strides: Pair, padding: Padding, precision: Any) -> jax.Array:
    """The convolution as a sum of products, one for each tap of the kernel. Arguments as `kernel_gradient`."""
    x, (h, w) = _pad(x, *padding), kernel.shape[:2]
    (height, width), (down, across) = x.shape[1:3], strides
    taps = ((i, j) for i in range(h) for j in range(w))
    factors = ((x[:, i : i + height - h + 1 : down, j : j + width - w + 1 : across], kernel[i, j]) for i, j in taps)
    total: Any = sum(jnp.matmul(*pair, precision=precision) for pair in factors)
    return total


def _pad(x: jax.Array, rows: Pair, columns: Pair = (0, 0)) -> jax.Array:
    """`x` with rows of zeros (above, below) and columns (left, right) added; negative numbers remove some."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))


def _xla(x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, precision: Any) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout, precision=precision)


_by_xla = jax.custom_vjp(_xla, nondiff_argnums=(2, 3, 4))


def _backward(
    strides: Pair, padding: Padding, precision: Any, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    options = {"strides": strides, "padding": padding, "precision": precision}

    def xla(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(partial(_xla, **options), x, kernel)[1](gradient)

    def cpu(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        of_kernel = kernel_gradient(x, gradient, (kernel.shape[0], kernel.shape[1]), **options)
        return xla(x, kernel, gradient)[0], of_kernel.astype(kernel.dtype)

    return lax.platform_dependent(*saved, gradient, cpu=cpu, default=xla)


_by_xla.defvjp(lambda x, kernel, *options: (_xla(x, kernel, *options), (x, kernel)), _backward)


def kernel_gradient(
    x: jax.Array, gradient: jax.Array, window: Pair, strides: Pair, padding: Padding, precision: Any = None
) -> jax.Array:
    """The gradient of a kernel, as one matrix product for each block of images.

    Each of the h w taps of the kernel needs a product, over all pixels, of images shifted by that tap with the gradient
    of the output. Images shifted along the rows, side by side, and gradients shifted along the columns give all of them
    at once, `[w C, pixels]` by `[pixels, h K]`. The shifted arrays are larger than the images, hence the blocks. With a
    stride, each tap meets only some of the rows, and taps that meet the same rows form one product. XLA convolves with
    the batch as channels, which costs two transpositions, and twice the time at 16 channels of 32 x 32 pixels.

    Args:
      x: images `[B, H, W, C]`.
      gradient: gradient of the output, `[B, H', W', K]`.
      window: (h, w) of the kernel.
      strides: (down, across).
      padding: ((above, below), (left, right)).
      precision: precision of the product, as in `jax.lax.dot_general`.

    Returns:
      `[h, w, C, K]`, in float32 where `x` has fewer bits.
    """
    (b, height, *_, c), (*_, width, k), (h, w) = x.shape, gradient.shape, window
    image = height * width * (w * c + h * k) * x.dtype.itemsize
    size = max((n for n in range(1, b + 1) if b % n == 0 and n * image <= BLOCK), default=1)
    blocks = [a.reshape(size, b // size, *a.shape[1:]) for a in (x, gradient)]
    taps = _taps_by_row(h, padding[0][0], strides[0])

    def add(i: jax.Array, total: jax.Array) -> jax.Array:
        x, gradient = (lax.dynamic_index_in_dim(block, i, 1, keepdims=False) for block in blocks)
        return total + _products(x, gradient, taps, w, strides, padding, precision)

    total = jnp.zeros((w * c, h * k), jnp.promote_types(x.dtype, jnp.float32))
    total = lax.fori_loop(0, b // size, add, total)
    order = np.argsort([i for rows in taps.values() for i in rows])
    return total.reshape(w, c, h, k).transpose(2, 0, 1, 3)[order]


def _taps_by_row(h: int, above: int, down: int) -> Taps:
    """The rows of a kernel, by the first row of the image that they meet."""
    taps: Taps = {}
    for i in range(h):
        taps.setdefault((i - above) % down, []).append(i)
    return taps


def _products(
    x: jax.Array, gradient: jax.Array, taps: Taps, w: int, strides: Pair, padding: Padding, precision: Any
) -> jax.Array:
    """All products of a block, `[w C, h K]`, with the kernel's rows in the order of `taps`."""
    (down, across), ((above, _), columns), (*_, width, k) = strides, padding, gradient.shape
    wide, wc = jnp.promote_types(x.dtype, jnp.float32), w * x.shape[-1]
    x = _pad(x, (0, 0), columns)
    x = jnp.concatenate([x[:, :, j : j + (width - 1) * across + 1 : across] for j in range(w)], -1)

    def product(x: jax.Array, first: int) -> jax.Array:
        rows, starts = x.shape[1], [(first + above - i) // down for i in taps[first]]
        padded = _pad(gradient, (-min(starts), rows + max(starts) - gradient.shape[1]))
        shifted = [padded[:, start - min(starts) :][:, :rows] for start in starts]
        factors = x.reshape(-1, wc), jnp.concatenate(shifted, -1).reshape(-1, len(starts) * k)
        return lax.dot_general(*factors, (((0,), (0,)), ((), ())), precision=precision, preferred_element_type=wide)

    return jnp.concatenate([product(x[:, first::down], first) for first in taps], 1)

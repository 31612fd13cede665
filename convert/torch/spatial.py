"""Convolution, pooling, resizing and padding of images `[B, C, *spatial]`, with one to three spatial axes, as in ATen.

Arguments are in the order of ATen's schemas.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tppjax.types import Array

LAYOUTS = {1: ("NCH", "OIH", "NCH"), 2: ("NCHW", "OIHW", "NCHW"), 3: ("NCDHW", "OIDHW", "NCDHW")}
Sizes = int | Sequence[int]  # one number for all axes, or one for each
Resize = Callable[..., jax.Array]
Pads = list[tuple[int, int]]


# Convolution and pooling


def each(value: Sizes, axes: int) -> tuple[int, ...]:
    """One number for each axis; PyTorch also accepts one for all."""
    if isinstance(value, list | tuple) and len(value) == axes:
        return tuple(value)
    return axes * tuple(np.ravel(value).tolist())


def of_channels(vector: Array, x: Array) -> Array:
    """`vector` [C] in a shape that broadcasts to x [B, C, ...]."""
    return vector.reshape(1, -1, *(1,) * (x.ndim - 2))


def convolution(
    x: Array,
    w: Array,
    b: Array | None,
    stride: Sizes,
    padding: Sizes,
    dilation: Sizes,
    transposed: bool,
    output_padding: Sizes,
    groups: int,
) -> jax.Array:
    """Convolution of x [B, C, *spatial] with w [O, C / groups, *kernel], or transposed [C, O / groups, *kernel]."""
    axes = x.ndim - 2
    strides, dilation = each(stride, axes), each(dilation, axes)
    pads, holes = [(p, p) for p in each(padding, axes)], None
    if transposed:  # the input gets holes, and the kernel is flipped
        reach = [d * (k - 1) - p for k, d, (p, _) in zip(w.shape[2:], dilation, pads, strict=True)]
        pads = [(r, r + more) for r, more in zip(reach, each(output_padding, axes), strict=True)]
        strides, holes = (1,) * axes, strides
        w = w.reshape(groups, -1, *w.shape[1:]).swapaxes(1, 2)
        w = jnp.flip(w.reshape(-1, *w.shape[2:]), tuple(range(2, axes + 2)))
    x, w = jnp.asarray(x), jnp.asarray(w)
    y = lax.conv_general_dilated(x, w, strides, pads, holes, dilation, LAYOUTS[axes], groups)
    return y if b is None else y + of_channels(b, y)


def windows(
    x: Array, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, ceil: bool
) -> tuple[tuple[int, ...], tuple[int, ...], Pads, tuple[int, ...]]:
    """Kernel, stride, padding before and after, and dilation, for each of the last axes.

    With `ceil` the last window may begin inside the input and extend past its end.
    """
    axes = x.ndim - 2 if isinstance(kernel, int) or len(kernel) == 1 else len(kernel)
    kernels, paddings, dilations = each(kernel, axes), each(padding, axes), each(dilation, axes)
    strides = each(stride, axes) if stride else kernels
    pads = []
    for n, k, s, p, d in zip(x.shape[-axes:], kernels, strides, paddings, dilations, strict=True):
        reach = d * (k - 1) + 1
        last = (math.ceil if ceil else math.floor)((n + 2 * p - reach) / s)
        last -= ceil and last * s >= n + p
        pads.append((p, max(p, last * s + reach - n - p)))
    return kernels, strides, pads, dilations


def reduce_windows(
    x: Array,
    start: float,
    f: Callable[..., Any],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
) -> jax.Array:
    """`lax.reduce_window` over the last axes."""
    one = (1,) * (x.ndim - len(kernel))
    pads = [(0, 0)] * len(one) + pads
    return lax.reduce_window(x, x.dtype.type(start), f, (*one, *kernel), (*one, *stride), pads, None, (*one, *dilation))


def max_pool(
    x: Array, kernel: Sizes, stride: Sizes = (), padding: Sizes = 0, dilation: Sizes = 1, ceil: bool = False
) -> tuple[jax.Array]:
    """The maxima, the first of ATen's two results; their indices are not computed."""
    least = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return (reduce_windows(x, least, lax.max, *windows(x, kernel, stride, padding, dilation, ceil)),)


def avg_pool(
    x: Array,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    ceil: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> jax.Array:
    """Sums over windows, each divided by `divisor` or by the size of its part inside the input or its padding."""
    kernels, strides, pads, dilation = windows(x, kernel, stride, padding, 1, ceil)
    total = reduce_windows(x, 0, lax.add, kernels, strides, pads, dilation)
    axes, sizes = len(kernels), []
    for n, m, k, s, (p, _) in zip(x.shape[-axes:], total.shape[-axes:], kernels, strides, pads, strict=True):
        first, margin = np.arange(m) * s - p, p * count_include_pad
        sizes.append(np.minimum(first + k, n + margin) - np.maximum(first, -margin))
    if divisor or all((size == k).all() for size, k in zip(sizes, kernels, strict=True)):
        return total * (1 / (divisor or math.prod(kernels)))
    return total * expanded(np.asarray(1 / math.prod(np.ix_(*sizes))), total)


def expanded(constant: np.ndarray, x: Array) -> jax.Array:
    """`constant` in the data type of x, with as many axes as x: axes of length one come before its own."""
    return jnp.asarray(constant.reshape(*(1,) * (x.ndim - constant.ndim), *constant.shape), x.dtype)


def bins(n: int, m: int) -> list[slice]:
    """The m bins, perhaps overlapping, into which PyTorch's adaptive pooling divides n positions."""
    return [slice(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def adaptive_avg_pool(x: Array, size: Sequence[int]) -> jax.Array:
    """Means over `size` bins of each of the last axes; the bins may overlap."""
    if set(size) == {1}:
        return jnp.mean(x, tuple(range(x.ndim - len(size), x.ndim)), keepdims=True)
    if all(n % m == 0 for n, m in zip(x.shape[-len(size) :], size, strict=True)):
        return avg_pool(x, [n // m for n, m in zip(x.shape[-len(size) :], size, strict=True)])
    matrices = [np.zeros((m, n)) for n, m in zip(x.shape[-len(size) :], size, strict=True)]
    for matrix in matrices:
        for row, part in zip(matrix, bins(matrix.shape[1], matrix.shape[0]), strict=True):
            row[part] = 1 / (part.stop - part.start)
    return resized(x, matrices)


def adaptive_max_pool(x: Array, size: Sequence[int]) -> tuple[Array]:
    """Maxima over `size` bins of each of the last axes; the first of ATen's two results, as in `max_pool`."""
    if all(n % m == 0 for n, m in zip(x.shape[-len(size) :], size, strict=True)):
        return max_pool(x, [n // m for n, m in zip(x.shape[-len(size) :], size, strict=True)])
    for axis, m in zip(range(x.ndim - len(size), x.ndim), size, strict=True):
        parts = [lax.slice_in_dim(x, b.start, b.stop, axis=axis) for b in bins(x.shape[axis], m)]
        x = jnp.concatenate([part.max(axis, keepdims=True) for part in parts], axis)
    return (x,)


# Resizing and padding


def resized(x: Array, matrices: Sequence[np.ndarray]) -> jax.Array:
    """X with one matrix [new, old] applied to each of its last axes."""
    y = jnp.asarray(x)
    for axis, matrix in zip(range(y.ndim - len(matrices), y.ndim), matrices, strict=True):
        y = jnp.moveaxis(jnp.tensordot(y, jnp.asarray(matrix, y.dtype), ((axis,), (1,))), -1, axis)
    return y


def new_sizes(x: Array, size: Sequence[int] | None, scales: Iterable[Any]) -> list[tuple[int, int, float]]:
    """New size, old size and the step between two positions, for each spatial axis, from PyTorch's arguments."""
    factors: list[Any] = [
        s for some in scales for s in (some if isinstance(some, list | tuple) else [some])
    ]  # by overload
    factors = factors if len(factors) == x.ndim - 2 else [None] * (x.ndim - 2)
    size = size or [math.floor(n * scale) for n, scale in zip(x.shape[2:], factors, strict=True)]
    steps = [1 / s if s else n / m for n, m, s in zip(x.shape[2:], size, factors, strict=True)]
    return list(zip(size, x.shape[2:], steps, strict=True))


def nearest(shift: float) -> Resize:
    """Upsampling to the nearest position; `shift` is 0, or 0.5 for nearest-exact."""

    def upsample(x: Array, size: Sequence[int] | None = None, *scales: Any) -> jax.Array:
        y = jnp.asarray(x)
        for axis, (m, n, step) in enumerate(new_sizes(y, size, scales), 2):
            at = (np.arange(m, dtype=np.float32) + np.float32(shift)) * np.float32(step)  # as PyTorch rounds it
            indices = np.minimum(np.floor(at), n - 1).astype(int)
            whole = m % n == 0 and (indices == np.arange(m) // (m // n)).all()
            y = jnp.repeat(y, m // n, axis) if whole else jnp.take(y, indices, axis, mode="clip")
        return y

    return upsample


def interpolated(weights: Callable[[np.ndarray], tuple[np.ndarray, ...]]) -> Resize:
    """Upsampling along one axis after the other, by `weights(fraction)` of the 2 or 4 nearest positions."""

    def upsample(x: Array, size: Sequence[int] | None = None, align_corners: bool = False, *scales: Any) -> jax.Array:
        matrices = []
        for m, n, step in new_sizes(x, size, scales):
            at = np.arange(m) * (n - 1) / max(m - 1, 1) if align_corners else (np.arange(m) + 0.5) * step - 0.5
            at = np.maximum(at, 0) if weights is linear and not align_corners else at
            matrix, first = np.zeros((m, n)), np.floor(at)
            taps = weights(at - first)
            for i, tap in enumerate(taps, 1 - len(taps) // 2):
                np.add.at(matrix, (np.arange(m), np.clip(first + i, 0, n - 1).astype(int)), tap)
            matrices.append(matrix)
        return resized(x, matrices)

    return upsample


def linear(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights of the positions before and after, for a fraction of the way between them."""
    return 1 - t, t


def cubic(t: np.ndarray, a: float = -0.75) -> tuple[np.ndarray, ...]:
    """Weights of the two positions before and the two after, for a fraction of the way between the middle ones."""

    def near(d: np.ndarray) -> np.ndarray:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: np.ndarray) -> np.ndarray:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)


def padded(mode: str) -> Callable[..., jax.Array]:
    """Padding by `[before, after, before, ...]`, from the last axis on."""

    def pad(x: Array, pads: Sequence[int], value: float | None = 0) -> jax.Array:
        pairs = [(0, 0)] * (x.ndim - len(pads) // 2) + list(zip(pads[::2], pads[1::2], strict=True))[::-1]
        if mode == "constant":
            return lax.pad(x, jnp.asarray(value or 0, x.dtype), [(*pair, 0) for pair in pairs])
        y = jnp.pad(x, [(max(before, 0), max(after, 0)) for before, after in pairs], mode)
        return y[
            tuple(slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(y.shape, pairs, strict=True))
        ]

    return pad


def pixel_shuffle(x: Array, r: int) -> Array:
    """[..., C r r, H, W] to [..., C, H r, W r]."""
    *batch, c, h, w = x.shape
    k = len(batch)
    x = x.reshape(*batch, c // r**2, r, r, h, w).transpose(*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return x.reshape(*batch, c // r**2, h * r, w * r)

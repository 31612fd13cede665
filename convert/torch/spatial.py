"""Convolution, pooling, resizing and padding of images `[B, C, *spatial]`, with one to three spatial axes, as in ATen.

Arguments are in the order of ATen's schemas.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax

LAYOUTS = {1: ("NCH", "OIH", "NCH"), 2: ("NCHW", "OIHW", "NCHW"), 3: ("NCDHW", "OIDHW", "NCDHW")}


# Convolution and pooling


def each(value, axes: int) -> tuple:
    """One number for each axis, where PyTorch takes one for all as well."""
    return tuple(value) if isinstance(value, list | tuple) and len(value) == axes else axes * tuple(np.ravel(value))


def of_channels(vector, x):
    """`vector` [C] as it multiplies x [B, C, ...]."""
    return vector.reshape(1, -1, *(1,) * (x.ndim - 2))


def convolution(x, w, b, stride, padding, dilation, transposed, output_padding, groups):
    """X [B, C, *spatial]; w [O, C / groups, *kernel], or transposed [C, O / groups, *kernel]."""
    axes = x.ndim - 2
    strides, dilation = each(stride, axes), each(dilation, axes)
    pads, holes = [(p, p) for p in each(padding, axes)], None
    if transposed:  # the input gets holes, and the kernel is turned round
        reach = [d * (k - 1) - p for k, d, (p, _) in zip(w.shape[2:], dilation, pads, strict=True)]
        pads = [(r, r + more) for r, more in zip(reach, each(output_padding, axes), strict=True)]
        strides, holes = (1,) * axes, strides
        w = w.reshape(groups, -1, *w.shape[1:]).swapaxes(1, 2)
        w = jnp.flip(w.reshape(-1, *w.shape[2:]), tuple(range(2, axes + 2)))
    y = lax.conv_general_dilated(x, w, strides, pads, holes, dilation, LAYOUTS[axes], groups)
    return y if b is None else y + of_channels(b, y)


def windows(x, kernel, stride, padding, dilation, ceil):
    """Kernel, stride, padding before and behind, and dilation, for each of the last axes.

    With `ceil` a last window may begin inside the input and reach past its end.
    """
    axes = x.ndim - 2 if np.size(kernel) == 1 else len(kernel)
    kernel, padding, dilation = each(kernel, axes), each(padding, axes), each(dilation, axes)
    stride = each(stride, axes) if stride else kernel
    pads = []
    for n, k, s, p, d in zip(x.shape[-axes:], kernel, stride, padding, dilation, strict=True):
        reach = d * (k - 1) + 1
        last = (math.ceil if ceil else math.floor)((n + 2 * p - reach) / s)
        last -= ceil and last * s >= n + p
        pads.append((p, max(p, last * s + reach - n - p)))
    return kernel, stride, pads, dilation


def reduce_windows(x, start, f, kernel, stride, pads, dilation):
    """`lax.reduce_window` over the last axes."""
    one = (1,) * (x.ndim - len(kernel))
    pads = [(0, 0)] * len(one) + pads
    return lax.reduce_window(x, x.dtype.type(start), f, (*one, *kernel), (*one, *stride), pads, None, (*one, *dilation))


def max_pool(x, kernel, stride=(), padding=0, dilation=1, ceil=False):
    """The first of two results: where the maxima are is not computed."""
    least = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return (reduce_windows(x, least, lax.max, *windows(x, kernel, stride, padding, dilation, ceil)),)


def avg_pool(x, kernel, stride=(), padding=0, ceil=False, count_include_pad=True, divisor=None):
    """Sums over windows, each divided by `divisor` or by how much of it lies inside the input or its padding."""
    kernel, stride, pads, dilation = windows(x, kernel, stride, padding, 1, ceil)
    total = reduce_windows(x, 0, lax.add, kernel, stride, pads, dilation)
    axes, sizes = len(kernel), []
    for n, m, k, s, (p, _) in zip(x.shape[-axes:], total.shape[-axes:], kernel, stride, pads, strict=True):
        first, margin = np.arange(m) * s - p, p * count_include_pad
        sizes.append(np.minimum(first + k, n + margin) - np.maximum(first, -margin))
    if divisor or all((size == k).all() for size, k in zip(sizes, kernel, strict=True)):
        return total * (1 / (divisor or math.prod(kernel)))
    return total * expanded(1 / math.prod(np.ix_(*sizes)), total)


def expanded(constant: np.ndarray, x):
    """`constant` with axes of one before its own, as many as x has, in the data type of x."""
    return jnp.asarray(constant.reshape(*(1,) * (x.ndim - constant.ndim), *constant.shape), x.dtype)


def bins(n: int, m: int) -> list[slice]:
    """Where PyTorch's adaptive pooling divides n places into m, which may overlap."""
    return [slice(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]


def adaptive_avg_pool(x, size):
    """Means over `size` bins of each of the last axes; the bins may overlap."""
    if set(size) == {1}:
        return x.mean(tuple(range(x.ndim - len(size), x.ndim)), keepdims=True)
    if all(n % m == 0 for n, m in zip(x.shape[-len(size) :], size, strict=True)):
        return avg_pool(x, [n // m for n, m in zip(x.shape[-len(size) :], size, strict=True)])
    matrices = [np.zeros((m, n)) for n, m in zip(x.shape[-len(size) :], size, strict=True)]
    for matrix in matrices:
        for row, place in zip(matrix, bins(*matrix.shape[::-1]), strict=True):
            row[place] = 1 / (place.stop - place.start)
    return resized(x, matrices)


def adaptive_max_pool(x, size):
    """Maxima over `size` bins of each of the last axes; the first of two results, as `max_pool`."""
    for axis, m in zip(range(x.ndim - len(size), x.ndim), size, strict=True):
        parts = [lax.slice_in_dim(x, b.start, b.stop, axis=axis) for b in bins(x.shape[axis], m)]
        x = jnp.concatenate([part.max(axis, keepdims=True) for part in parts], axis)
    return (x,)


# Resizing and padding


def resized(x, matrices):
    """X with one matrix [new, old] applied to each of its last axes."""
    for axis, matrix in zip(range(x.ndim - len(matrices), x.ndim), matrices, strict=True):
        x = jnp.moveaxis(jnp.tensordot(x, jnp.asarray(matrix, x.dtype), ((axis,), (1,))), -1, axis)
    return x


def new_sizes(x, size, scales):
    """New and old size and the step between two places, for each spatial axis, from PyTorch's arguments."""
    scales = [s for some in scales for s in (some if isinstance(some, list | tuple) else [some])]  # by overload
    scales = scales if len(scales) == x.ndim - 2 else [None] * (x.ndim - 2)
    size = size or [math.floor(n * scale) for n, scale in zip(x.shape[2:], scales, strict=True)]
    steps = [1 / s if s else n / m for n, m, s in zip(x.shape[2:], size, scales, strict=True)]
    return list(zip(size, x.shape[2:], steps, strict=True))


def nearest(shift):
    """Upsampling to the nearest place; `shift` is 0, or 0.5 for nearest-exact."""

    def upsample(x, size=None, *scales):
        for axis, (m, n, step) in enumerate(new_sizes(x, size, scales), 2):
            places = np.minimum(np.floor((np.arange(m) + shift) * np.float32(step)), n - 1).astype(int)
            whole = m % n == 0 and (places == np.arange(m) // (m // n)).all()
            x = jnp.repeat(x, m // n, axis) if whole else jnp.take(x, places, axis, mode="clip")
        return x

    return upsample


def interpolated(weights):
    """Upsampling by `weights(fraction)`, those of the 2 or 4 nearest places, along one axis after the other."""

    def upsample(x, size=None, align_corners=False, *scales):
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


def linear(t):
    """Weights of the places before and after, for a fraction of the way."""
    return 1 - t, t


def cubic(t, a=-0.75):
    """Weights of the two places before and the two after."""

    def near(d):
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d):
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return far(t + 1), near(t), near(1 - t), far(2 - t)


def padded(mode):
    """Padding from the last axis on, `[before, behind, before, ...]`."""

    def pad(x, pads, value=0):
        pairs = [(0, 0)] * (x.ndim - len(pads) // 2) + list(zip(pads[::2], pads[1::2], strict=True))[::-1]
        if mode == "constant":
            return lax.pad(x, jnp.asarray(value or 0, x.dtype), [(*pair, 0) for pair in pairs])
        return jnp.pad(x, pairs, mode)

    return pad


def pixel_shuffle(x, r):
    """[..., C r r, H, W] to [..., C, H r, W r]."""
    *batch, c, h, w = x.shape
    k = len(batch)
    x = x.reshape(*batch, c // r**2, r, r, h, w).transpose(*range(k), k, k + 3, k + 1, k + 4, k + 2)
    return x.reshape(*batch, c // r**2, h * r, w * r)


def channel_shuffle(x, groups):
    """[B, C, ...]: channel i of each group, for every i."""
    return x.reshape(x.shape[0], groups, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape)

"""Convolutions that train fast on CPUs. Images are `[B, H, W, C]`, kernels `[h, w, C, K]`."""

import math
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_whole = ContextVar("whole", default=False)  # whether every convolution is one operation, see `whole`
BLOCK = 2**21  # bytes of shifted images and gradients that are multiplied at a time: more would leave the cache


def convolution(lhs, rhs, window_strides, padding, feature_group_count=1, precision=None, **options):
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it, and fast in two places where XLA is slow on CPUs.

    One is the gradient of the kernel, see `kernel_gradient`. The other are kernels larger than the image: there XLA
    takes the one for the other, at ten times the cost, and VGG-16 on CIFAR ends in images of 2 x 2 pixels. With groups
    or dilation, and where images do not have two dimensions, all is XLA's own. Elsewhere there is no forward mode
    (`jax.jvp`).
    """
    dilation = {*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())}
    if lhs.ndim != 4 or feature_group_count > 1 or dilation - {1} or isinstance(padding, str):
        options |= {"feature_group_count": feature_group_count, "precision": precision}
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    convolve = tap_by_tap if larger_than_image(lhs, rhs) and not _whole.get() else _by_xla
    return convolve(lhs, rhs, tuple(window_strides), tuple(map(tuple, padding)), precision)


@contextmanager
def whole():
    """While this is open, a convolution is one operation also where it is slow, for those who look at it."""
    token = _whole.set(True)
    try:
        yield
    finally:
        _whole.reset(token)


def larger_than_image(x, kernel) -> bool:
    """Whether the kernel `[h, w, C, K]` has more pixels than the images `[B, H, W, C]`."""
    return math.prod(kernel.shape[:2]) > math.prod(x.shape[1:3])


def tap_by_tap(x, kernel, strides, padding, precision):
    """The convolution as a sum of products, one for each tap of the kernel. Arguments as `convolution`."""
    x, (h, w) = _pad(x, *padding), kernel.shape[:2]
    (height, width), (down, across) = x.shape[1:3], strides
    taps = ((i, j) for i in range(h) for j in range(w))
    seen = ((x[:, i : i + height - h + 1 : down, j : j + width - w + 1 : across], kernel[i, j]) for i, j in taps)
    return sum(jnp.matmul(*pair, precision=precision) for pair in seen)


def _pad(x, rows, columns=(0, 0)):
    """`x` with rows of zeros (above, below) and columns (left, right) added; numbers below 0 take some away."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _by_xla(x, kernel, strides, padding, precision):
    return _xla(x, kernel, strides, padding, precision)


def _xla(x, kernel, strides, padding, precision):
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=layout, precision=precision)


def _backward(strides, padding, precision, saved, gradient):
    how = {"strides": strides, "padding": padding, "precision": precision}

    def xla(x, kernel, gradient):
        return jax.vjp(partial(_xla, **how), x, kernel)[1](gradient)

    def cpu(x, kernel, gradient):
        return xla(x, kernel, gradient)[0], kernel_gradient(x, gradient, kernel.shape[:2], **how).astype(kernel.dtype)

    return lax.platform_dependent(*saved, gradient, cpu=cpu, default=xla)


_by_xla.defvjp(lambda x, kernel, *how: (_xla(x, kernel, *how), (x, kernel)), _backward)


def kernel_gradient(x, gradient, window, strides, padding, precision=None):
    """The gradient of a kernel, block by block of images as one matrix product.

    It is one product for each of the h w taps of the kernel: of images shifted by that tap with the gradient of the
    output, over all pixels. Images shifted along the rows, side by side, and gradients shifted along the columns give
    all of them at once, `[w C, pixels]` by `[pixels, h K]`. What is shifted is larger than the images, hence blocks.
    With a stride, each tap meets one row in so many only, and those of the same rows are one product. XLA convolves
    with the batch as channels, which costs it two transpositions, and twice the time at 16 channels of 32 x 32 pixels.

    Args:
      x: images `[B, H, W, C]`.
      gradient: of the output, `[B, H', W', K]`.
      window: (h, w) of the kernel.
      strides: (down, across).
      padding: ((above, below), (left, right)).
      precision: of the product.

    Returns:
      `[h, w, C, K]`, in float32 where `x` has fewer bits.
    """
    (b, height, *_, c), (*_, width, k), (h, w), (down, across) = x.shape, gradient.shape, window, strides
    (above, _), columns = padding
    taps = {}  # of the kernel's rows, by the first of the image's rows that they meet
    for i in range(h):
        taps.setdefault((i - above) % down, []).append(i)
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def product(x, gradient, first, those):
        rows, starts = x.shape[1], [(first + above - i) // down for i in those]
        gradient = _pad(gradient, (-min(starts), rows + max(starts) - gradient.shape[1]))
        shifted = [gradient[:, start - min(starts) :][:, :rows] for start in starts]
        factors = x.reshape(-1, w * c), jnp.concatenate(shifted, -1).reshape(-1, len(those) * k)
        return lax.dot_general(*factors, (((0,), (0,)), ((), ())), precision=precision, preferred_element_type=wide)

    def products(x, gradient):
        x = _pad(x, (0, 0), columns)
        x = jnp.concatenate([x[:, :, j : j + (width - 1) * across + 1 : across] for j in range(w)], -1)
        return jnp.concatenate([product(x[:, first::down], gradient, first, taps[first]) for first in taps], 1)

    image = height * width * (w * c + h * k) * x.dtype.itemsize
    size = max((n for n in range(1, b + 1) if b % n == 0 and n * image <= BLOCK), default=1)
    blocks = [a.reshape(size, b // size, *a.shape[1:]) for a in (x, gradient)]

    def add(i, total):
        return total + products(*(lax.dynamic_index_in_dim(block, i, 1, keepdims=False) for block in blocks))

    total = lax.fori_loop(0, b // size, add, jnp.zeros((w * c, h * k), wide))
    order = np.argsort([i for those in taps.values() for i in those])
    return total.reshape(w, c, h, k).transpose(2, 0, 1, 3)[order]

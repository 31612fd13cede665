"""Convolutions that are fast on CPUs, gradients too. Images are `[B, H, W, C]`, kernels `[h, w, C, K]`."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

BLOCK = 2**22  # bytes that a block of images takes, shifted: larger ones leave the cache


def convolution(lhs, rhs, window_strides, padding, feature_group_count=1, precision=None, **options):
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it, and fast on CPUs where XLA's is not.

    Those are its gradients (`kernel_gradient`), and kernels larger than the image: XLA takes the one for the other
    there, at ten times the cost, and VGG-16 on CIFAR ends in images of 2 x 2 pixels. With groups, dilation or images
    that do not have two dimensions it is XLA's own. Elsewhere `jax.grad` works, but no forward mode (`jax.jvp`).
    """
    dilation = {*(options.get("lhs_dilation") or ()), *(options.get("rhs_dilation") or ())}
    if lhs.ndim != 4 or feature_group_count > 1 or dilation > {1} or isinstance(padding, str):
        options |= {"feature_group_count": feature_group_count, "precision": precision}
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    how = tuple(window_strides), tuple(map(tuple, padding)), precision
    return (_by_xla if math.prod(rhs.shape[:2]) <= math.prod(lhs.shape[1:3]) else _tap_by_tap)(lhs, rhs, *how)


def _tap_by_tap(x, kernel, strides, padding, precision):
    x, (h, w) = _pad(x, *padding), kernel.shape[:2]
    (height, width), (down, across) = x.shape[1:3], strides
    taps = ((i, j) for i in range(h) for j in range(w))
    seen = ((x[:, i : i + height - h + 1 : down, j : j + width - w + 1 : across], kernel[i, j]) for i, j in taps)
    return sum(jnp.matmul(*pair, precision=precision) for pair in seen)


def _pad(x, rows, columns):
    """`x` with zeros around its pixels: (above, below), (left, right); less than 0 takes pixels away."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)))


def _xla(x, kernel, strides, padding, precision):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=dimensions, precision=precision)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _by_xla(x, kernel, strides, padding, precision):
    """XLA's own, and on CPUs our gradients."""
    return _xla(x, kernel, strides, padding, precision)


def _forward(x, kernel, *how):
    return _xla(x, kernel, *how), (x, kernel)


def _backward(strides, padding, precision, saved, gradient):
    def of(convolve):
        return lambda x, kernel, gradient: jax.vjp(convolve, x, kernel)[1](gradient)

    xla = partial(_xla, strides=strides, padding=padding, precision=precision)
    ours = partial(_at_stride_1, strides=strides, padding=padding, precision=precision)
    return lax.platform_dependent(*saved, gradient, cpu=of(ours), default=of(xla))


_by_xla.defvjp(_forward, _backward)


def _at_stride_1(x, kernel, strides, padding, precision):
    """The same at stride 1: the pixels that a step passes over become channels, each with its part of the kernel.

    XLA computes the gradient of a strided convolution's images at several times the cost of its forward pass.
    """
    if strides == (1, 1):
        return _unit(x, kernel, padding, precision)
    ends = []
    for n, k, s, (before, after) in zip(x.shape[1:3], kernel.shape, strides, padding, strict=False):
        steps, taps = (n + before + after - k) // s + 1, -(-k // s)
        ends.append((before, (steps + taps - 1) * s - n - before))
    x = _pad(x, *ends)
    short = [(0, -k % s) for k, s in zip(kernel.shape, strides, strict=False)]
    kernel = jnp.pad(kernel, (*short, (0, 0), (0, 0)))
    (b, h, w, c), (i, j, _, o), (down, across) = x.shape, kernel.shape, strides
    x = x.reshape(b, h // down, down, w // across, across, c).transpose(0, 1, 3, 2, 4, 5)
    kernel = kernel.reshape(i // down, down, j // across, across, c, o).transpose(0, 2, 1, 3, 4, 5)
    return _unit(x.reshape(*x.shape[:3], -1), kernel.reshape(*kernel.shape[:2], -1, o), ((0, 0), (0, 0)), precision)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _unit(x, kernel, padding, precision):
    return _xla(x, kernel, (1, 1), padding, precision)


def _unit_backward(padding, precision, saved, gradient):
    x, kernel = saved
    (of_x,) = jax.vjp(lambda x: _xla(x, kernel, (1, 1), padding, precision), x)[1](gradient)
    return of_x, kernel_gradient(x, gradient, kernel.shape[:2], padding, precision).astype(kernel.dtype)


_unit.defvjp(lambda *args: (_unit(*args), args[:2]), _unit_backward)


def kernel_gradient(x, gradient, window, padding, precision=None):
    """The gradient of a kernel `[h, w, C, K]` at stride 1, as one matrix product for each block of images.

    A kernel's gradient is h w products of shifted images with the output's gradient, over all pixels. Images shifted
    along the rows, side by side, with gradients shifted along the columns, are all of them in one product, `[w C,
    pixels]` by `[pixels, h K]`; in blocks, since what is shifted is several times the images and should stay in the
    cache. XLA on CPUs convolves with the batch as channels, which costs it two transpositions.
    """
    (h, w), (b, height, width, k), c = window, gradient.shape, x.shape[-1]

    def product(x, gradient):
        x, gradient = _pad(x, *padding), _pad(gradient, (h - 1, h - 1), (0, 0))
        x = jnp.concatenate([x[:, :, j : j + width] for j in range(w)], -1)
        gradient = jnp.concatenate([gradient[:, i : i + height + h - 1] for i in reversed(range(h))], -1)
        return jnp.tensordot(x, gradient, ((0, 1, 2),) * 2, precision=precision, preferred_element_type=wide)

    wide = jnp.promote_types(x.dtype, jnp.float32)
    image = (height + h - 1) * width * (w * c + h * k) * x.dtype.itemsize
    size = max(n for n in range(1, b + 1) if b % n == 0 and n * image <= max(BLOCK, image))
    blocks = [a.reshape(size, b // size, *a.shape[1:]) for a in (x, gradient)]

    def add(i, total):
        return total + product(*(lax.dynamic_index_in_dim(a, i, 1, keepdims=False) for a in blocks))

    total = lax.fori_loop(0, b // size, add, jnp.zeros((w * c, h * k), wide))
    return total.reshape(w, c, h, k).transpose(2, 0, 1, 3)

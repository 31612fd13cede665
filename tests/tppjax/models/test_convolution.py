"""Convolutions whose kernel's gradient is our own on CPUs, against XLA's own."""

import os
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tppjax.models import convolution as module
from tppjax.models.convolution import convolution

LAYOUT = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
SAME = ((1, 1), (1, 1))
XLA = lax.conv_general_dilated

# batch, height, width; window; strides; padding (above, below), (left, right)
SHAPES = {
    "3x3": ((6, 9, 8), (3, 3), (1, 1), SAME),
    "3x3 strided": ((6, 8, 8), (3, 3), (2, 2), SAME),
    "3x3 strided, odd": ((5, 9, 7), (3, 3), (2, 1), ((0, 1), (2, 0))),
    "1x1": ((4, 5, 6), (1, 1), (1, 1), ((0, 0), (0, 0))),
    "1x1 strided": ((4, 7, 6), (1, 1), (2, 2), ((0, 0), (0, 0))),
    "5x5": ((3, 9, 9), (5, 5), (1, 1), ((2, 2), (2, 2))),
    "5x3, stride 3": ((3, 10, 9), (5, 3), (3, 3), ((2, 1), (0, 2))),
    "7x7 strided": ((3, 12, 13), (7, 7), (2, 2), ((3, 3), (3, 3))),
    "2x2 skipping pixels": ((2, 9, 9), (2, 2), (3, 3), ((0, 0), (0, 0))),
    "more padding than kernel": ((2, 6, 6), (3, 3), (1, 1), ((4, 3), (5, 0))),
    "less than no padding": ((2, 8, 8), (3, 3), (1, 1), ((-1, 0), (0, -1))),
    "one row": ((2, 1, 9), (1, 3), (2, 2), ((0, 0), (1, 1))),
    "kernel larger than the image": ((3, 2, 2), (3, 3), (1, 1), SAME),
}


def operands(size, window, channels=(3, 4), dtype=jnp.float32):
    image, kernel = jax.random.split(jax.random.key(0))
    return jax.random.normal(image, (*size, channels[0]), dtype), jax.random.normal(kernel, (*window, *channels), dtype)


def gradients(convolve, x, kernel, strides=(1, 1), padding=SAME, **options):
    """The convolution, and its gradients where each output pixel counts differently."""

    def forward(x, kernel):
        y = convolve(x, kernel, strides, padding, **LAYOUT, **options)
        return jnp.sum(y.astype(jnp.float32) * jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)), y

    (_, y), found = jax.value_and_grad(forward, (0, 1), has_aux=True)(x, kernel)
    return y, *found


def assert_as_xla(of, *arguments, tolerance=1e-4):
    """That `of` gives the same by our convolution as by XLA's."""
    ours, theirs = jax.jit(lambda *arguments: [of(c, *arguments) for c in (convolution, XLA)])(*arguments)
    for mine, its in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, its, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SHAPES)
def test_gradients_are_those_of_xla(name, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2**12)  # one to three images
    size, window, *how = SHAPES[name]
    assert_as_xla(lambda convolve, *given: gradients(convolve, *given, *how), *operands(size, window))


@pytest.mark.parametrize(("batch", "block"), [(6, 1), (7, 2**13), (12, 2**14), (6, 2**30)])
def test_any_number_of_images_in_a_block(batch, block, monkeypatch):
    """One, where none fits or the batch is prime; some; all."""
    monkeypatch.setattr(module, "BLOCK", block)
    assert_as_xla(gradients, *operands((batch, 9, 8), (3, 3)))


@pytest.mark.parametrize("options", [{"feature_group_count": 3}, {"rhs_dilation": (2, 2)}, {"lhs_dilation": (2, 1)}])
def test_groups_and_dilation_are_left_to_xla(options):
    x, kernel = operands((2, 6, 6), (3, 3), (3, 3))
    kernel = kernel[:, :, : 3 // options.get("feature_group_count", 1)]
    ours, theirs = (str(jax.make_jaxpr(partial(gradients, c, **options))(x, kernel)) for c in (convolution, XLA))
    assert ours == theirs


def test_nothing_changes_where_nothing_is_trained():
    x, kernel = operands((2, 8, 8), (3, 3))
    forward = {c: jax.jit(lambda x, kernel, c=c: c(x, kernel, (2, 2), SAME, **LAYOUT)) for c in (convolution, XLA)}
    ours, theirs = (re.findall(r"stablehlo\..*", fn.lower(x, kernel).as_text()) for fn in forward.values())
    assert ours == theirs


@pytest.mark.parametrize("precision", [None, "highest"])
@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 2), ("cuda", 3), ("tpu", 3)])
def test_only_cpus_multiply(platform, convolutions, precision):
    """The kernel's gradient is a convolution elsewhere, and on CPUs one matrix product of the given precision."""
    train = jax.jit(partial(gradients, convolution, precision=precision))
    text = train.trace(*operands((8, 8, 8), (3, 3))).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == (platform == "cpu")
    assert all(("HIGHEST" in line) == (precision == "highest") for line in products)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
def test_under_vmap(axes):
    x, kernel = operands((3, 4, 6, 6), (3, 3))
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])
    given = [a if axis == 0 else a[0] for a, axis in zip((x, kernels), axes, strict=True)]
    assert_as_xla(lambda convolve, *given: jax.vmap(partial(gradients, convolve), axes)(*given), *given)


def test_in_a_scan_with_rematerialisation():
    """Two layers with the same kernel, of whose inputs nothing is kept."""

    def loss(convolve, x, kernel):
        layer = jax.checkpoint(lambda x, _: (jnp.tanh(convolve(x, kernel, (1, 1), SAME, **LAYOUT)), None))
        return jnp.sum(lax.scan(layer, x, None, 2)[0] ** 2)

    assert_as_xla(
        lambda convolve, *given: jax.grad(partial(loss, convolve), (0, 1))(*given), *operands((4, 6, 6), (3, 3), (3, 3))
    )


def test_bfloat16_is_added_up_in_float32():
    x, kernel = operands((64, 8, 8), (3, 3), dtype=jnp.bfloat16)
    wide = jax.jit(partial(gradients, XLA))(*(a.astype(jnp.float32) for a in (x, kernel)))[2]
    ours = jax.jit(partial(gradients, convolution))(x, kernel)[2]
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(ours.astype(jnp.float32), wide, rtol=0.02, atol=0.02 * float(jnp.abs(wide).max()))


@pytest.mark.slow
def test_batches_split_over_devices():
    """By jit with the batch in pieces, and by pmap, on four devices in a process of its own."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    subprocess.run([sys.executable, "-c", FOUR_DEVICES], env={**os.environ, "XLA_FLAGS": flags}, check=True)


FOUR_DEVICES = """
import jax, numpy as np
from functools import partial
from tests.tppjax.models.test_convolution import XLA, convolution, gradients, operands
from tppjax import sharding
assert jax.device_count() == 4
x, kernel = operands((16, 8, 8), (3, 3))
expected = gradients(XLA, x, kernel)
split = jax.jit(partial(gradients, convolution))(sharding.split(x, sharding.device_mesh()), kernel)
for mine, its in zip(split, expected):
    np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-4)
mapped = jax.pmap(partial(gradients, convolution), in_axes=(0, None))(x.reshape(4, 4, 8, 8, 3), kernel)
alone = jax.vmap(partial(gradients, XLA), (0, None))(x.reshape(4, 4, 8, 8, 3), kernel)
for mine, its in zip(mapped, alone):
    np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-4)
"""

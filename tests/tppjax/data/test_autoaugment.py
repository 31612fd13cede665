"""AutoAugment, operation by operation against Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from tppjax.data import autoaugment
from tppjax.data.autoaugment import MAGNITUDES, OPERATIONS, POLICIES


def photographs(n=6):
    """Smooth colours with edges and noise, 32 x 32; one of one colour, one of two."""
    rng = np.random.default_rng(0)
    waves = [np.sin(rng.normal(size=(1, 1, 3)) * np.arange(32)[:, None, None] / 4
                    + rng.normal(size=(1, 1, 3)) * np.arange(32)[None, :, None] / 4) for _ in range(n)]  # fmt: skip
    images = [np.clip(128 + 90 * wave + rng.normal(0, 12, wave.shape), 0, 255) for wave in waves]
    halves = np.zeros((32, 32, 3)) + 60
    halves[:, 20:] = 200
    return np.array([*images, np.full((32, 32, 3), 77), halves]).astype(np.uint8)


def moved(image, matrix, how=Image.Resampling.NEAREST):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, how, fillcolor=(128,) * 3)


PILLOW = {
    "shear_y": lambda i, m: moved(i, (1, 0, 0, m, 1, 0), Image.Resampling.BICUBIC),
    "translate_x": lambda i, m: moved(i, (1, 0, m * 32, 0, 1, 0)),
    "translate_y": lambda i, m: moved(i, (1, 0, 0, 0, 1, m * 32)),
    "rotate": lambda i, m: i.rotate(m, fillcolor=(128,) * 3),
    "color": lambda i, m: ImageEnhance.Color(i).enhance(1 + m),
    "contrast": lambda i, m: ImageEnhance.Contrast(i).enhance(1 + m),
    "brightness": lambda i, m: ImageEnhance.Brightness(i).enhance(1 + m),
    "sharpness": lambda i, m: ImageEnhance.Sharpness(i).enhance(1 + m),
    "posterize": lambda i, m: ImageOps.posterize(i, int(abs(m))),
    "solarize": lambda i, m: ImageOps.solarize(i, abs(m)),
    "invert": lambda i, m: ImageOps.invert(i),
    "autocontrast": lambda i, m: ImageOps.autocontrast(i),
    "equalize": lambda i, m: ImageOps.equalize(i),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_pillows(name):
    assert ImageFilter.SMOOTH.filterargs[1] == 13  # what sharpness is made of
    operation, changed = jax.jit(OPERATIONS[name]), 0
    for image in photographs():
        for magnitude in {*MAGNITUDES[name][[1, 5, 9]], *-MAGNITUDES[name][[3, 9]]}:
            wanted = np.asarray(PILLOW[name](Image.fromarray(image), float(magnitude)), np.int32)
            got = np.asarray(operation(image.astype(np.float32), jnp.float32(magnitude)))
            assert np.array_equal(got, np.floor(got))
            assert got.min() >= 0
            assert got.max() <= 255
            off = np.abs(got - wanted)
            # Rounding: by one where pixels are computed, and a few pixels elsewhere where they are looked up.
            wrong = (off > 0).any(axis=-1) if name in ("rotate", "translate_x", "translate_y") else off > 1
            assert wrong.mean() < 0.01, (name, magnitude, off.max())
            assert (off > 1).mean() < 0.03
            changed += (wanted != image).any()
    assert changed > 0


def test_policies_are_the_published_ones():
    assert len(POLICIES) == 25
    assert all(0 <= p <= 1 and name in OPERATIONS and 0 <= m <= 9 for policy in POLICIES for p, name, m in policy)
    assert POLICIES[1] == ((0.7, "rotate", 2), (0.3, "translate_x", 9))
    assert POLICIES[-1] == ((0.7, "translate_y", 9), (0.9, "autocontrast", 1))


@pytest.mark.slow
def test_each_image_gets_a_policy_of_its_own():
    """Every result is what one of the policies makes, with both signs, and many of them occur."""
    image = photographs(1)[0]
    images = jnp.asarray(np.tile(image, (400, 1, 1, 1)))
    results = np.asarray(jax.jit(autoaugment.cifar10_policy)(images, jax.random.key(3)))
    assert results.dtype == np.uint8

    def outcomes(x, step):
        p, name, m = step
        changed = [OPERATIONS[name](x, jnp.float32(s * MAGNITUDES[name][m])) for s in (1, -1)] if p > 0 else []
        return [x, *changed]

    allowed = set()
    for first, second in POLICIES:
        for x in outcomes(jnp.asarray(image, jnp.float32), first):
            allowed |= {np.asarray(y).astype(np.uint8).tobytes() for y in outcomes(x, second)}
    seen = [r.tobytes() for r in results]
    assert np.mean([s in allowed for s in seen]) > 0.97  # compiled, a pixel may round the other way
    assert len(set(seen)) > 60
    again = np.asarray(jax.jit(autoaugment.cifar10_policy)(images, jax.random.key(4)))
    assert not np.array_equal(again, results)
    unchanged = np.mean([s == image.tobytes() for s in seen])
    expected = np.mean([(1 - a[0]) * (1 - b[0]) for a, b in POLICIES])
    assert expected - 0.02 < unchanged < expected + 0.15  # some operations leave it as it is


def test_grey_images_are_refused():
    with pytest.raises(ValueError, match="images of three channels"):
        autoaugment.cifar10_policy(jnp.zeros((2, 8, 8, 1), jnp.uint8), jax.random.key(0))

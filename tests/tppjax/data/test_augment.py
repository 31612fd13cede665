"""Augmentation: every result is one of those that it may be, and all of them occur."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tppjax.data import augment
from tppjax.errors import InputError

IMAGE = np.arange(1, 33, dtype=np.uint8).reshape(4, 4, 2)
BATCH = jnp.array(np.tile(IMAGE, (200, 1, 1, 1)))


def assert_each_occurs(images, allowed):
    seen = {np.asarray(image).tobytes() for image in images}
    assert seen == {np.ascontiguousarray(a).tobytes() for a in allowed}


def test_crop_is_one_of_all_shifts():
    padded = np.pad(IMAGE, ((1, 1), (1, 1), (0, 0)))
    shifts = [padded[y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
    assert_each_occurs(augment.crop(BATCH, jax.random.key(0), pad=1), shifts)


def test_sizes_that_leave_nothing_of_an_image_are_refused():
    for pad in (-1, 5, 100_000):
        with pytest.raises(InputError, match=f"a random crop pads images of 4 x 4 pixels by 0 to 4 pixels, not {pad}"):
            augment.crop(BATCH, jax.random.key(0), pad)
    for size in (-1, 9, 10**12):
        with pytest.raises(InputError, match=f"a side of 0 to 8 in images of 4 x 4 pixels, not {size}"):
            augment.cutout(BATCH, jax.random.key(0), size, [0, 0])


def test_flip_mirrors_left_to_right():
    assert_each_occurs(augment.flip(BATCH, jax.random.key(0)), [IMAGE, IMAGE[:, ::-1]])


def test_cutout_fills_a_square_centred_anywhere():
    def cut(y, x):
        image = IMAGE.copy()
        image[max(y - 1, 0) : y + 1, max(x - 1, 0) : x + 1] = (7, 9)
        return image

    cuts = [cut(y, x) for y in range(4) for x in range(4)]
    assert_each_occurs(augment.cutout(BATCH, jax.random.key(0), 2, fill=[7, 9]), cuts)

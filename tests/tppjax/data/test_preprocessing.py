"""What a network is given checks itself when it is made."""

from dataclasses import replace

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from tppjax import data
from tppjax.data import Images, Preprocessing
from tppjax.errors import InputError

GOOD = Preprocessing("mine", (4, 5, 2), (0.5, 0.4), (0.2, 0.3), ("a", "b"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dataset", 5, "the name of the data set is text"),
        ("input_shape", (4, 5), r"input_shape is \(height, width, channels\), each 1 to 65536, not \(4, 5\)"),
        ("input_shape", [4, 5, 2], "input_shape is"),
        ("input_shape", (4, 5.0, 2), "input_shape is"),
        ("input_shape", (4, 0, 2), "input_shape is"),
        ("input_shape", (4, 2**40, 2), "input_shape is"),
        ("input_shape", (4, 5, 3), r"mean is a number for each of 3 channels, not \(0.5, 0.4\)"),
        ("mean", 0.5, "mean is a number for each of 2"),
        ("mean", (0.5, "0.4"), "mean is a number"),
        ("mean", (0.5, np.nan), "mean is finite; it is"),
        ("mean", (0.5, 10**400), "mean is finite"),
        ("std", (0.2, 0), "std is finite, and above 0"),
        ("std", (0.2, -1.0), "std is finite, and above 0"),
        ("std", (0.2, np.inf), "std is finite"),
        ("std", (0.2, 1e-45), "std is finite, and above 0"),
        ("std", (True, 0.3), "std is a number"),
        ("class_names", (), "class_names are texts, one or more"),
        ("class_names", ("a", 5), "class_names are texts"),
        ("class_names", "ab", "class_names are texts"),
        ("frames", 0, "frames is a whole number of 1 to 65536, or None; it is 0"),
        ("frames", 2.0, "frames is a whole number"),
        ("resize", -1, "resize is a whole number"),
        ("interpolation", "nearest", "interpolation is bilinear or bicubic, not 'nearest'"),
        ("interpolation", None, "interpolation is"),
    ],
)
def test_preprocessing_that_can_not_be(name, value, message):
    with pytest.raises(InputError, match=message):
        replace(GOOD, **{name: value})


def test_numbers_of_numpys_become_pythons(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # they are not what the annotations say
    mean, std = np.float32([0.5, 0.25]), np.float64([0.2, 0.3])
    made = replace(GOOD, input_shape=tuple(np.int32([4, 5, 2])), mean=tuple(mean), std=tuple(std), resize=np.int64(9))
    made = replace(made, class_names=tuple(np.array(["a", "b"])))
    assert repr(made) == repr(replace(GOOD, mean=(0.5, 0.25), resize=9))


def test_what_is_no_image():
    pixels = np.zeros((3, 4, 5, 2), np.uint8)
    np.testing.assert_array_equal(GOOD(pixels), GOOD(jnp.asarray(pixels)))
    floats = pixels.astype(np.float32)
    assert GOOD(floats) is floats
    for wrong in (np.nan, np.inf):
        floats[1, 2, 3, 0] = wrong
        with pytest.raises(InputError, match=r"the images hold NaN or infinity, first at \[1, 2, 3, 0\]"):
            GOOD(floats)
    for wrong, message in (
        (pixels.tolist(), "an array of NumPy or JAX; got list"),
        (pixels.astype(int), "uint8 pixels, or floats already normalised; got int64"),
        (pixels[..., :1], r"takes images of shape \(4, 5, 2\)"),
        (pixels[0, 0], r"takes images of shape \(4, 5, 2\)"),
    ):
        with pytest.raises(InputError, match=message):
            GOOD(wrong)


def test_images_that_can_not_be():
    pixels, labels = np.zeros((3, 4, 5, 2), np.uint8), np.zeros(3, np.int32)
    assert len(Images(pixels, labels)[:2]) == 2
    for x, y in ((pixels, labels[:2]), (pixels[0], labels), (pixels, labels / 2), (pixels, labels[:, None])):
        with pytest.raises(InputError, match=r"images are \[N, H, W, C\] or"):
            Images(x, y)
    with pytest.raises(InputError, match="images and labels are NumPy arrays; got list and ndarray"):
        Images(pixels.tolist(), labels)


def test_memory_is_asked_for_first():
    data.check_memory("this", 1000, "")
    with pytest.raises(InputError, match=r"this would take 931,322\.6 GiB, and this machine has .*: take less"):
        data.check_memory("this", 10**15, "take less")

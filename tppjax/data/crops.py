"""Pictures of any size to a network's input, on the host, by Pillow: as torchvision does it, pixel for pixel."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tppjax.data import Preprocessing
from tppjax.errors import InputError, extra

if TYPE_CHECKING:
    from PIL import Image

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of random crops: area in parts of the picture's, and width / height

LONGEST = 100  # times the shorter side: what is looked at of a very long picture, which would take gigabytes


@contextmanager
def decoding(sentence: str) -> Iterator[None]:
    """While this is open, an error, which must be Pillow's, becomes an InputError; its message follows the sentence."""
    try:
        yield
    except Exception as e:  # of many kinds
        raise InputError(f"{sentence}{e or type(e).__name__}") from e


def check(preprocessing: Preprocessing) -> None:
    """Raises an InputError unless `preprocessing` says how pictures of any size become images."""
    if (
        preprocessing.resize is None
        or preprocessing.resize < max(preprocessing.input_shape[:2])
        or preprocessing.input_shape[2] != 3
    ):
        raise InputError(
            f"pictures become images [H, W, 3] cut out of what has the shorter side resize, which is at least H and "
            f"W; got input_shape {preprocessing.input_shape} and resize {preprocessing.resize}"
        )


def centre(picture: "Image.Image", preprocessing: Preprocessing) -> "Image.Image":
    """The middle of the picture once its shorter side is `preprocessing.resize`."""
    left, top = (max(0, side - LONGEST * min(picture.size)) // 2 for side in picture.size)
    if left or top:
        picture = picture.crop((left, top, picture.width - left, picture.height - top))
    shorter, (height, width, _) = min(picture.size), preprocessing.input_shape
    picture = _bring(picture, [preprocessing.resize * side // shorter for side in picture.size], preprocessing)
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def drawn(picture: "Image.Image", preprocessing: Preprocessing, rng: np.random.Generator) -> "Image.Image":
    """A part of the picture drawn at random (Szegedy et al., 2015), brought to size."""
    height, width, _ = preprocessing.input_shape
    return _bring(picture.crop(random_box(*picture.size, rng)), (width, height), preprocessing)


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), in pixels, of a part of a picture so wide and high.

    The area is uniform in `SCALE`, width / height log-uniform in `RATIO`; after 10 that do not fit, it is the largest
    part in the middle whose ratio does.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(*map(math.log, RATIO)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _bring(picture: "Image.Image", size, preprocessing: Preprocessing) -> "Image.Image":
    with extra("data"):
        from PIL import Image
    return picture.resize(tuple(size), Image.Resampling[preprocessing.interpolation.upper()])

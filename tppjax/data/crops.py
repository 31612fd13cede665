"""Pictures of any size to a network's input, on the host, by Pillow: identical to torchvision in every pixel."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tppjax.data import Preprocessing
from tppjax.errors import InputError, extra

if TYPE_CHECKING:
    from PIL import Image

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of random crops: area as a fraction of the picture's, and width / height

LONGEST = 100  # times the shorter side: the part used of a very long picture, which would take gigabytes


def check(preprocessing: Preprocessing) -> None:
    """Raises InputError unless `preprocessing` says how pictures of any size become images."""
    *sides, channels = preprocessing.input_shape
    if channels != 3 or (preprocessing.resize or 0) < max(sides):
        raise InputError(
            f"pictures are resized to the shorter side resize, then cut to [H, W, 3]: resize must be at least H and "
            f"W; got input_shape {preprocessing.input_shape} and resize {preprocessing.resize}"
        )


def centre(picture: "Image.Image", preprocessing: Preprocessing) -> "Image.Image":
    """The centre of the picture, after its shorter side is resized to `preprocessing.resize`."""
    assert preprocessing.resize is not None
    left, top = (max(0, side - LONGEST * min(picture.size)) // 2 for side in picture.size)
    if left or top:
        picture = picture.crop((left, top, picture.width - left, picture.height - top))
    shorter, (height, width, _) = min(picture.size), preprocessing.input_shape
    picture = _bring(picture, [preprocessing.resize * side // shorter for side in picture.size], preprocessing)
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def drawn(picture: "Image.Image", preprocessing: Preprocessing, rng: np.random.Generator) -> "Image.Image":
    """A random part of the picture (Szegedy et al., 2015), resized to the network's input."""
    height, width, _ = preprocessing.input_shape
    return _bring(picture.crop(random_box(*picture.size, rng)), (width, height), preprocessing)


def random_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, right, bottom), in pixels, of a random part of a picture of this width and height.

    The area is uniform in `SCALE`, width / height log-uniform in `RATIO`. After 10 draws that do not fit, it is the
    largest central part whose ratio is in `RATIO`.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*SCALE)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * RATIO[1])), min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def _bring(picture: "Image.Image", size: Sequence[int], preprocessing: Preprocessing) -> "Image.Image":
    with extra("data"):
        from PIL import Image
    width, height = size
    return picture.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])

"""Your own images: one .npz file with `x_train`, `y_train`, `x_test` and `y_test`."""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from tppjax import files
from tppjax.data import Images, Preprocessing, check_memory
from tppjax.errors import InputError, refusing
from tppjax.types import DataDir, Select

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
MOST_CLASSES = 100_000


def info(name: str, data_dir: DataDir = None) -> Preprocessing:
    """The form of a network's input, with the statistics of the training images; classes are named by their numbers."""
    arrays = _read(data_dir)
    images = arrays["x_train"]
    classes = tuple(str(c) for c in range(int(arrays["y_train"].max()) + 1))
    unit = (1.0,) * images.shape[-1]
    return Preprocessing(name, images.shape[1:], unit, unit, classes).measured(images)


def load(name: str, split: str, data_dir: DataDir = None, select: Select = np.arange) -> Images:
    """Images uint8 `[N, H, W, C]`, from `[N, H, W]` too; labels `[N]`, whole numbers from 0.

    Raises:
      FileNotFoundError: if there is no such file.
      InputError: if an array is missing or does not fit; names it and says what is expected.
    """
    arrays = _read(data_dir)
    images = Images(arrays[f"x_{split}"], arrays[f"y_{split}"].astype(np.int32))
    return images[select(len(images))]


def _read(data_dir: DataDir) -> dict[str, np.ndarray]:
    if data_dir is None:
        raise InputError("data set npz needs data_dir, the path of the .npz file: give --data_dir")
    path = Path(data_dir)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path.absolute()}; make it with np.savez(path, {', '.join(ARRAYS)})")
    with files.regular(path).open("rb") as file:
        arrays = _unpacked(path, file)
    if arrays.keys() != set(ARRAYS):
        raise InputError(f"{path} must hold {', '.join(ARRAYS)}; it holds {', '.join(sorted(arrays)) or 'nothing'}")
    arrays = {name: a[..., None] if name[0] == "x" and a.ndim == 3 else a for name, a in arrays.items()}
    for problem in _problems(arrays):
        raise InputError(f"{path}: {problem}")
    return arrays


def _unpacked(path: Path, file: IO[bytes]) -> dict[str, np.ndarray]:
    """All arrays, after a check that they have the size that the file claims and fit into memory."""
    with refusing(f"{path} is not an .npz file of plain arrays"), zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        size = sum(_size(archive, member) for member in members.values())
        check_memory(f"the arrays of {path}", size, "save fewer images")
        return {name: _array(archive, member) for name, member in members.items()}


def _size(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Bytes of the array, according to its header; NumPy would allocate whatever that claims."""
    with archive.open(member) as file:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(file)
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or file.tell() + size != member.file_size:
            raise ValueError(f"{member.filename} claims {dtype} of shape {shape}, and has {member.file_size} bytes")
    return size


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        array = npy.read_array(file, allow_pickle=False)
        file.read()  # to the end, where the checksum is compared
    return array


def _problems(arrays: dict[str, np.ndarray]) -> Iterator[str]:
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.dtype != np.uint8:
            yield f"x_{split} is {x.dtype}; save pixels as uint8, 0 to 255"
        if x.ndim != 4 or 0 in x.shape:
            yield f"x_{split} has shape {x.shape}; images are [N, H, W, C] or [N, H, W], with at least one image"
        if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
            yield f"y_{split} is {y.dtype} of shape {y.shape}; labels are whole numbers, [N]"
        if len(x) != len(y):
            yield f"x_{split} has {len(x)} images but y_{split} {len(y)} labels"
        if y.min() < 0:
            yield f"y_{split} has the label {y.min()}; labels count from 0"
        if y.max() >= MOST_CLASSES:
            yield f"y_{split} has the label {y.max()}; labels count from 0 and stay below {MOST_CLASSES}"
    if arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        yield f"x_train has images of {arrays['x_train'].shape[1:]}, x_test of {arrays['x_test'].shape[1:]}"
    if arrays["y_test"].max() > arrays["y_train"].max():
        yield f"y_test has the label {arrays['y_test'].max()}, y_train none above {arrays['y_train'].max()}"

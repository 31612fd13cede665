"""Your own pictures in class folders: `train/CLASS/*`, and `test/CLASS/*` (or val, or validation).

They can have any format that Pillow reads, in grey or in colour, and are resized to one size when they are read.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from tppjax import files
from tppjax.data import Images, Preprocessing, check_memory, crops
from tppjax.errors import InputError, extra, refusing
from tppjax.types import DataDir, Select

with extra("data"):
    from PIL import Image, ImageOps

SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}
GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")  # Pillow's modes
MEASURED = 1000  # number of training pictures for mean and standard deviation
NAMED = 5  # number of files that an error names


def info(
    name: str, data_dir: DataDir = None, *, size: int | tuple[int, int] | None = None, channels: int | None = None
) -> Preprocessing:
    """The form of a network's input: classes are the folders in `train`; statistics are those of 1,000 pictures there.

    Args:
      name: name of the data set.
      data_dir: folder of the two splits.
      size: height and width to which pictures are resized; by default that of all training pictures, if it is one.
      channels: 1 or 3; by default 1, if all training pictures are grey, else 3.

    Raises:
      FileNotFoundError: if there are no training pictures.
      InputError: if pictures have several sizes, are damaged, or files are not pictures.
    """
    root = _root(data_dir)
    folder = split_folder(root, SPLITS["train"])
    classes = class_names(folder)
    labelled = _listed(folder, classes)
    height, width = (size, size) if isinstance(size, int) else size or _common_size([file for file, _ in labelled])
    if channels is None:
        channels = 3 if any(_header(file)[1] in COLOUR for file, _ in labelled) else 1
    preprocessing = Preprocessing(name, (height, width, channels), (0.0,) * channels, (1.0,) * channels, tuple(classes))
    sample = [labelled[i][0] for i in np.random.default_rng(0).permutation(len(labelled))[:MEASURED]]
    return preprocessing.measured(read(sample, preprocessing, f"measuring {name}"))


def load(
    name: str, split: str, data_dir: DataDir = None, select: Select = np.arange, *, preprocessing: Preprocessing
) -> Images:
    """Images uint8 `[N, *preprocessing.input_shape]`, in a fixed random order, so that any part has all classes.

    A picture of another size is resized to the network's: by `preprocessing.resize`, if that is given, as for ImageNet;
    otherwise the largest central part with the right proportions is taken. EXIF orientation is ignored.

    Raises:
      FileNotFoundError: if there are no pictures of this split.
      InputError: if pictures are damaged, or do not fit `preprocessing` or the memory; names them.
    """
    folder = split_folder(_root(data_dir), SPLITS[split])
    labelled = _listed(folder, _known(folder, preprocessing))
    indices = np.random.default_rng(0).permutation(len(labelled))[select(len(labelled))]
    images = read([labelled[i][0] for i in indices], preprocessing, f"reading {name} {split}")
    return Images(images, np.array([labelled[i][1] for i in indices], np.int32))


def split_folder(root: Path, names: Iterable[str], pattern: str = "*", otherwise: str = "") -> Path:
    """The first of these folders in `root` that exists, with nothing but folders in it.

    Args:
      root: folder of all splits.
      names: alternative names of the folder.
      pattern: pattern of the files in the class folders, for the message.
      otherwise: what else would be accepted, for the message.

    Raises:
      FileNotFoundError: if none exists.
      InputError: if there is something other than class folders in it.
    """
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        patterns = " or ".join(f"{name}/CLASS/{pattern}" for name in names)
        raise FileNotFoundError(f"{root} has no {next(iter(names))} pictures; looked for {patterns}{otherwise}")
    if others := [name for name in _visible(folder) if not (folder / name).is_dir()]:
        raise InputError(f"{folder} must hold a folder for each class, and nothing else; it holds {others[0]}")
    return folder


def class_names(folder: Path) -> list[str]:
    """Names of the folders in the folder of a split, sorted.

    Raises:
      InputError: if there is none, or a name is not one line of text.
    """
    classes = _visible(folder)
    if wrong := [name for name in classes if not _is_text(name) or name.splitlines() != [name.strip()]]:
        raise InputError(f"{folder} has the class {wrong[0]!r}: a class's name is one line of UTF-8 text; rename it")
    if not classes:
        raise InputError(f"{folder} is empty; it must hold a folder of pictures for each class")
    return classes


def pictures(folder: Path, kind: str, suffixes: Iterable[str]) -> list[Path]:
    """The files of one class, sorted by name; InputError if there is none, and as `refuse_others`."""
    names = _visible(folder)
    if not names:
        raise InputError(f"{folder} is empty; every class needs pictures")
    refuse_others(names, folder, kind, suffixes)
    return [folder / name for name in names]


def refuse_others(names: list[str], place: Path, kind: str, suffixes: Iterable[str]) -> None:
    """Raises InputError, naming some, if there are files in `place` whose names end with none of the suffixes."""
    if unnamed := [name for name in names if not _is_text(name)]:
        raise InputError(f"{place} has files whose names are not UTF-8, such as {unnamed[0]!r}: rename them")
    if others := [name for name in names if Path(name).suffix.lower() not in suffixes]:
        examples = f"{', '.join(others[:NAMED])} ({len(others)} in all)"
        raise InputError(f"{place} must hold {kind} and nothing else; others: {examples}")


def _visible(folder: Path) -> list[str]:
    """Names in a folder, sorted, without hidden files, which file managers leave behind."""
    return sorted(f.name for f in folder.iterdir() if not f.name.startswith("."))


def _is_text(name: str) -> bool:
    """Whether the name is UTF-8; Python represents other bytes as halves of surrogate pairs."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _root(data_dir: DataDir) -> Path:
    if data_dir is None:
        raise InputError(
            "data set folder needs data_dir, the folder with train/CLASS/* and test/CLASS/*: give --data_dir"
        )
    root = Path(data_dir).absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is a file, not a folder" if root.exists() else f"there is no folder {root}")
    return root


def _listed(folder: Path, classes: list[str]) -> list[tuple[Path, int]]:
    """Each picture with its label, the index of its class in `classes`."""
    Image.init()
    kind, suffixes = "pictures that Pillow reads", Image.registered_extensions()
    return [
        (file, classes.index(name)) for name in class_names(folder) for file in pictures(folder / name, kind, suffixes)
    ]


def _known(folder: Path, preprocessing: Preprocessing) -> list[str]:
    """The classes in the order of the network's labels."""
    classes, known = class_names(folder), list(preprocessing.class_names)
    unnamed = known == [str(i) for i in range(len(known))]
    unknown = [name for name in classes if name not in known]
    if unnamed and not unknown and len(known) > 10:
        raise InputError(
            f"{folder} has numbered folders, and the network's classes have no names, so it can't be known whether 10 "
            "comes after 9 or after 1: rename the folders to 00, 01, ... in the order of the network's labels"
        )
    if unnamed and len(classes) == len(known):
        return classes
    if unknown:
        names = ", ".join(known[:NAMED]) + ", ..." * (len(known) > NAMED)
        problem = f"{folder} has the class {unknown[0]}, which the network does not know"
        raise InputError(f"{problem}; its {len(known)} classes are {names}")
    return known


def _header(file: Path) -> tuple[tuple[int, int], str]:
    """Height and width, and Pillow's mode."""
    with refusing(f"{file} can't be read"), Image.open(files.regular(file)) as picture:
        (width, height), mode = picture.size, picture.mode
    if mode not in GREY + COLOUR:
        raise InputError(f"{file} has Pillow's mode {mode}, not 8 bits per channel: convert it to 8 bits per channel")
    return (height, width), mode


def _common_size(files: list[Path]) -> tuple[int, int]:
    first, *others = files
    size = _header(first)[0]
    for file in tqdm(others, desc="looking at pictures", disable=None, leave=False):
        other = _header(file)[0]
        if other != size:
            raise InputError(
                f"{first} has {size[1]} x {size[0]} pixels, and {file} has {other[1]} x {other[0]}: give --size, the "
                "height and width to which all are resized"
            )
    return size


def read(
    files: list[Path], preprocessing: Preprocessing, progress: str | None = None
) -> UInt8[np.ndarray, "n height width channels"]:
    """Pictures as a network takes them, one array `[N, H, W, C]` of uint8.

    Raises:
      InputError: if the network takes no pictures; or if some can't be read, or do not have 8 bits per channel, and
        names all of them, or the first few.
    """
    if preprocessing.frames is not None or preprocessing.input_shape[2] not in (1, 3):
        raise InputError(
            f"pictures have 1 or 3 channels and no frames; the network takes inputs of shape {preprocessing.shape}"
        )
    shape = (len(files), *preprocessing.input_shape)
    remedy = "give a smaller --size, or prepare them for train.imagenet by python -m tppjax.data.jpegs"
    check_memory(f"{len(files)} pictures of {preprocessing.input_shape}", int(np.prod(shape, dtype=float)), remedy)
    images, damaged = np.empty(shape, np.uint8), []

    def read(i: int) -> str:
        try:
            images[i] = _pixels(files[i], preprocessing)
        except InputError as e:
            return str(e)
        return ""

    bar = {"total": len(files), "desc": progress, "disable": None if progress else True, "leave": False}
    with ThreadPoolExecutor() as pool:
        problems: Any = pool.map(read, range(len(files)))  # a generator
        for problem in tqdm(problems, **bar):
            damaged += [problem] if problem else []
            if len(damaged) == NAMED:
                break
        problems.close()
    if damaged:
        raise InputError("; ".join(damaged) + "; ..." * (len(damaged) == NAMED))
    return images


def _pixels(file: Path, preprocessing: Preprocessing) -> np.ndarray:
    """`[H, W, C]` of one picture."""
    height, width, channels = preprocessing.input_shape
    _header(file)
    with refusing(f"{file} can't be read"), Image.open(file) as picture:
        picture = picture.convert("L" if channels == 1 else "RGB")
        if preprocessing.resize is not None:
            picture = crops.centre(picture, preprocessing)
        elif picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling[preprocessing.interpolation.upper()])
    return np.asarray(picture).reshape(height, width, channels)

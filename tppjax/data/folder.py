"""Your own pictures in class folders: `train/CLASS/*`, and `test/CLASS/*` (or val, or validation).

They are of any format that Pillow reads, grey or in colour, and are brought to one size as they are read into memory.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tppjax import files
from tppjax.data import Images, Preprocessing, check_memory, crops
from tppjax.errors import InputError, extra

with extra("data"):
    from PIL import Image, ImageOps

SPLITS = {"train": ("train",), "test": ("test", "val", "validation")}
GREY, COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")  # Pillow's modes
MEASURED = 1000  # training pictures, for mean and standard deviation
NAMED = 5  # damaged files, or others, that an error names


def info(
    name="folder",
    data_dir: str | os.PathLike | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> Preprocessing:
    """Classes are the folders in `train`, sorted by name; mean and standard deviation are of 1,000 pictures there.

    Args:
      name: of the data set.
      data_dir: folder of the two splits.
      size: height and width that pictures are brought to; by default that of all training pictures, if it is one.
      channels: 1 or 3; by default 1, if all training pictures are grey, else 3.

    Raises:
      FileNotFoundError: if there are no training pictures.
      InputError: if they are of several sizes, damaged, or no pictures.
    """
    root = _root(data_dir)
    folder = split_folder(root, SPLITS["train"])
    classes = class_names(folder)
    found = _listed(folder, classes)
    height, width = (size, size) if isinstance(size, int) else size or _common_size(found)
    if channels is None:
        channels = 3 if any(_header(file)[1] in COLOUR for file, _ in found) else 1
    preprocessing = Preprocessing(name, (height, width, channels), (0.0,) * channels, (1.0,) * channels, tuple(classes))
    some = [found[i] for i in np.random.default_rng(0).permutation(len(found))[:MEASURED]]
    return preprocessing.measured(read([file for file, _ in some], preprocessing, f"measuring {name}"))


def load(
    name="folder",
    split="train",
    data_dir: str | os.PathLike | None = None,
    select=np.arange,
    *,
    preprocessing: Preprocessing,
) -> Images:
    """Images uint8 `[N, *preprocessing.input_shape]`, in a fixed random order, so that the first few are of any class.

    A picture of another size is brought to the network's: by `preprocessing.resize`, if that is given, as for
    ImageNet; else the largest central part with the right proportions is taken. EXIF orientation is ignored.

    Raises:
      FileNotFoundError: if there are no pictures of this split.
      InputError: if some are damaged, or do not fit `preprocessing` or the memory; names them.
    """
    if preprocessing.frames is not None or preprocessing.input_shape[2] not in (1, 3):
        raise InputError(
            f"pictures have 1 or 3 channels and no frames; the network takes inputs of shape {preprocessing.shape}"
        )
    folder = split_folder(_root(data_dir), SPLITS[split])
    found = _listed(folder, _known(folder, preprocessing))
    indices = np.random.default_rng(0).permutation(len(found))[select(len(found))]
    chosen = [found[place] for place in indices]
    images = read([file for file, _ in chosen], preprocessing, f"reading {name} {split}")
    return Images(images, np.array([label for _, label in chosen], np.int32))


def split_folder(root: Path, names: Iterable[str], pattern: str = "*", otherwise: str = "") -> Path:
    """The first of these folders in `root` that is there, with nothing but folders in it.

    Args:
      root: of all splits.
      names: of the folder, one of which is enough.
      pattern: of the files wanted in the class folders, for the message.
      otherwise: what else would do, for the message.

    Raises:
      FileNotFoundError: if none is there.
      InputError: if something else lies beside the class folders.
    """
    folder = next((root / name for name in names if (root / name).is_dir()), None)
    if folder is None:
        wanted = " or ".join(f"{name}/CLASS/{pattern}" for name in names)
        raise FileNotFoundError(f"{root} has no {next(iter(names))} pictures; looked for {wanted}{otherwise}")
    if astray := [name for name in _visible(folder) if not (folder / name).is_dir()]:
        raise InputError(f"{folder} must hold a folder for each class, and nothing else; it holds {astray[0]}")
    return folder


def class_names(folder: Path) -> list[str]:
    """Names of the folders in a split's folder, sorted.

    Raises:
      InputError: if there is none, or one can't be written as a line of text.
    """
    classes = _visible(folder)
    if wrong := [name for name in classes if not _is_text(name) or name.splitlines() != [name.strip()]]:
        raise InputError(f"{folder} has the class {wrong[0]!r}: a class's name is one line of UTF-8 text; rename it")
    if not classes:
        raise InputError(f"{folder} is empty; it must hold a folder of pictures for each class")
    return classes


def pictures(folder: Path, kind: str, suffixes: Iterable[str]) -> list[Path]:
    """The files of one class, sorted by name; InputError if there is none, or as `refuse_others`."""
    names = _visible(folder)
    if not names:
        raise InputError(f"{folder} is empty; every class needs pictures")
    refuse_others(names, folder, kind, suffixes)
    return [folder / name for name in names]


def refuse_others(names: list[str], where: Path, kind: str, suffixes: Iterable[str]) -> None:
    """Raises InputError, naming some, if there are files whose names do not end with one of the suffixes."""
    if unnamed := [name for name in names if not _is_text(name)]:
        raise InputError(f"{where} has files whose names are not UTF-8, such as {unnamed[0]!r}: rename them")
    if others := [name for name in names if Path(name).suffix.lower() not in suffixes]:
        named = f"{', '.join(others[:NAMED])} ({len(others)} in all)"
        raise InputError(f"{where} must hold {kind} and nothing else; others: {named}")


def _visible(folder: Path) -> list[str]:
    """Names in a folder, sorted, without hidden ones, which file managers leave behind."""
    return sorted(f.name for f in folder.iterdir() if not f.name.startswith("."))


def _is_text(name: str) -> bool:
    """Whether the name is UTF-8; Python reads names that are not as halves of surrogate pairs."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _root(data_dir) -> Path:
    if data_dir is None:
        raise InputError(
            "data set folder needs data_dir, the folder with train/CLASS/* and test/CLASS/*: give --data_dir"
        )
    root = Path(data_dir).absolute()
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is a file, not a folder" if root.exists() else f"there is no folder {root}")
    return root


def _listed(folder: Path, known: list[str]) -> list[tuple[Path, int]]:
    """Each picture with its label, the place of its class among those that are `known`."""
    Image.init()
    kind, suffixes = "pictures that Pillow reads", Image.registered_extensions()
    return [
        (file, known.index(name)) for name in class_names(folder) for file in pictures(folder / name, kind, suffixes)
    ]


def _known(folder: Path, preprocessing: Preprocessing) -> list[str]:
    """The classes in the order of the network's labels."""
    classes = class_names(folder)
    unknown = [name for name in classes if name not in preprocessing.class_names]
    if unknown and preprocessing.class_names == tuple(map(str, range(len(classes)))):
        return classes  # of a network whose classes have no names
    if unknown:
        named = ", ".join(preprocessing.class_names[:NAMED]) + ", ..." * (len(preprocessing.class_names) > NAMED)
        raise InputError(
            f"{folder} has the class {unknown[0]}, which the network does not know; its "
            f"{len(preprocessing.class_names)} classes are {named}"
        )
    return list(preprocessing.class_names)


def _header(file: Path) -> tuple[tuple[int, int], str]:
    """Height and width, and Pillow's mode."""
    with crops.decoding(f"{file} can't be read: "), Image.open(files.regular(file)) as picture:
        (width, height), mode = picture.size, picture.mode
    if mode not in GREY + COLOUR:
        raise InputError(f"{file} has pixels of Pillow's mode {mode}, not of 8 bits a channel: save it so")
    return (height, width), mode


def _common_size(found: list[tuple[Path, int]]) -> tuple[int, int]:
    first, size = found[0][0], None
    for file, _ in tqdm(found, desc="looking at pictures", disable=None, leave=False):
        now = _header(file)[0]
        size = size or now
        if now != size:
            raise InputError(
                f"{first} is {size[1]} x {size[0]} pixels, and {file} {now[1]} x {now[0]}: give --size, the pixels a "
                "side that all are brought to"
            )
    return size


def read(chosen: list[Path], preprocessing: Preprocessing, progress: str | None = None) -> np.ndarray:
    """Pictures as a network takes them, one array `[N, H, W, C]` of uint8.

    Raises:
      InputError: if some can't be read, or have other than 8 bits a channel; names all of them, or the first few.
    """
    shape = (len(chosen), *preprocessing.input_shape)
    remedy = "give a smaller --size, or prepare them for train.imagenet by python -m tppjax.data.jpegs"
    check_memory(f"{len(chosen)} pictures of {preprocessing.input_shape}", int(np.prod(shape, dtype=float)), remedy)
    images, damaged = np.empty(shape, np.uint8), []

    def read(i: int) -> str:
        try:
            images[i] = _pixels(chosen[i], preprocessing)
        except InputError as e:
            return str(e)
        return ""

    with ThreadPoolExecutor() as pool:
        read_all = pool.map(read, range(len(chosen)))
        for problem in tqdm(
            read_all, total=len(chosen), desc=progress, disable=None if progress else True, leave=False
        ):
            damaged += [problem] if problem else []
            if len(damaged) == NAMED:
                break
        read_all.close()
    if damaged:
        raise InputError("; ".join(damaged) + "; ..." * (len(damaged) == NAMED))
    return images


def _pixels(file: Path, preprocessing: Preprocessing) -> np.ndarray:
    """`[H, W, C]` of one picture."""
    height, width, channels = preprocessing.input_shape
    _header(file)
    with crops.decoding(f"{file} can't be read: "), Image.open(file) as picture:
        picture = picture.convert("L" if channels == 1 else "RGB")
        if preprocessing.resize is not None:
            picture = crops.centre(picture, preprocessing)
        elif picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling[preprocessing.interpolation.upper()])
    return np.asarray(picture).reshape(height, width, channels)

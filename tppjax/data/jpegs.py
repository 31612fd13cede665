"""Prepares ImageNet, or JPEG files of your own, in TFDS's layout of imagenet2012; without TensorFlow.

python -m tppjax.data.jpegs --source SOURCE --data_dir DIR [--skip_damaged]

SOURCE holds `train/CLASS/*.JPEG` and `validation/CLASS/*.JPEG` (or `val`, or `test`), or else the official archives
`ILSVRC2012_img_train.tar` and `ILSVRC2012_img_val.tar`, which are read without unpacking them. An interrupted run
continues where it stopped.
"""

import tarfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from tqdm import tqdm

from tppjax import cli
from tppjax.data import folder, prepared, shards
from tppjax.data.shards import Picture
from tppjax.errors import InputError, check_count
from tppjax.files import regular
from tppjax.types import DataDir, PathLike

NAME, VERSION = "imagenet2012", "5.1.0"  # of TFDS's builder, whose features are used here
FOLDERS = {"train": ("train",), "validation": ("validation", "val", "test")}
ARCHIVES = {"train": "ILSVRC2012_img_train.tar", "validation": "ILSVRC2012_img_val.tar"}
SUFFIXES = (".jpeg", ".jpg", ".jpe")
KIND = f"JPEG files ({', '.join(SUFFIXES)})"


@dataclass(frozen=True)
class Original:
    """The expected content of the official archives, and the labels that they do not contain.

    Attributes:
      classes: names of the classes, in the order of the labels.
      validation: class of each validation picture, in the order of the pictures' names.
      train: number of training pictures.
    """

    classes: list[str]
    validation: list[str]
    train: int


def prepare(
    source: PathLike,
    data_dir: DataDir = None,
    *,
    skip_damaged: bool = False,
    per_shard: int = 1250,
    original: Original | None = None,
) -> Path:
    """Writes `data_dir/imagenet2012/VERSION`; files that are finished are kept.

    Args:
      source: folder of class folders, or of the official archives.
      data_dir: folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets].
      skip_damaged: whether to leave out damaged pictures instead of refusing them.
      per_shard: minimum number of pictures in a file, if there are enough; 1,250 gives TFDS's 1,024 files of ImageNet.
      original: expected content of the archives [default: ILSVRC 2012].

    Returns:
      The folder of the prepared data.

    Raises:
      FileNotFoundError: if the source, or one of its two splits, does not exist.
      InputError: if it has neither layout, pictures are damaged, or the folder holds data of another source.
    """
    folder_, target = Path(source).absolute(), prepared.root(data_dir) / NAME / VERSION
    if not folder_.is_dir():
        raise FileNotFoundError(f"there is no folder {folder_}")
    check_count("per_shard, the pictures in a file,", per_shard)
    if any((folder_ / archive).is_file() for archive in ARCHIVES.values()):
        classes, pictures = _in_archives(folder_, original or _ilsvrc())
    else:
        classes, pictures = _in_folders(folder_)
    shards.write(NAME, target, shards.plan(classes, pictures, per_shard), skip_damaged)
    return target


def _in_folders(source: Path) -> tuple[list[str], dict[str, list[Picture]]]:
    """Classes and pictures, from a folder per split with a folder per class in it."""
    otherwise = f", and for {' and '.join(ARCHIVES.values())}"
    folders = {split: folder.split_folder(source, names, "*.JPEG", otherwise) for split, names in FOLDERS.items()}
    train, validation = (set(folder.class_names(split_folder)) for split_folder in folders.values())
    if train != validation:
        raise InputError(
            f"{source} has other classes in {folders['train'].name} than in {folders['validation'].name}; in one only: "
            f"{', '.join(sorted(train ^ validation)[:5])} ({len(train ^ validation)} in all)"
        )
    classes, pictures = sorted(train), {split: [] for split in FOLDERS}
    for split, split_folder in folders.items():
        for label in tqdm(classes, desc=f"listing {split}", disable=None, leave=False):
            files = folder.pictures(split_folder / label, KIND, SUFFIXES)
            pictures[split] += [Picture(regular(f), 0, f.stat().st_size, f.name, label) for f in files]
    return classes, pictures


def _in_archives(source: Path, original: Original) -> tuple[list[str], dict[str, list[Picture]]]:
    """Classes and pictures, from the official archives, after a check of their content."""
    train, validation = (source / archive for archive in ARCHIVES.values())
    for archive in (train, validation):
        if not archive.is_file():
            raise FileNotFoundError(f"{source} has no {archive.name}; needed are {' and '.join(ARCHIVES.values())}")
    offsets = {Path(m.name).stem: m.offset_data for m in _members(train)}
    if offsets.keys() != set(original.classes):
        raise InputError(f"{train} has {len(offsets)} classes, not the expected {len(original.classes)}")
    pictures = {"train": [], "validation": []}
    for label in tqdm(original.classes, desc="listing train", disable=None, leave=False):
        pictures["train"] += [_picture(train, m, label) for m in _members(train, offsets[label])]
    members = sorted(_members(validation), key=lambda m: m.name)
    for archive, number, expected in (
        (train, len(pictures["train"]), original.train),
        (validation, len(members), len(original.validation)),
    ):
        if number != expected:
            raise InputError(f"{archive} has {number} pictures, not {expected}: it is incomplete; get it again")
    labels = zip(members, original.validation, strict=True)
    pictures["validation"] = [_picture(validation, m, label) for m, label in labels]
    for split, archive in zip(pictures, (train, validation), strict=True):
        folder.refuse_others([p.name for p in pictures[split]], archive, KIND, SUFFIXES)
    return original.classes, pictures


def _members(archive: Path, offset: int = 0) -> list[tarfile.TarInfo]:
    """Files in the tar that begins at `offset`; their `offset_data` counts from the start of the archive, too."""
    with archive.open("rb") as file:
        file.seek(offset)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                return [member for member in tar if member.isfile()]
        except (tarfile.TarError, ValueError, OverflowError) as e:
            raise InputError(f"{archive} is damaged at byte {file.tell()} ({e}); get it again") from e


def _picture(archive: Path, member: tarfile.TarInfo, label: str) -> Picture:
    return Picture(archive, member.offset_data, member.size, Path(member.name).name, label)


def _ilsvrc() -> Original:
    """ILSVRC 2012, from the lists that TFDS ships; its own functions for them need TensorFlow."""
    lists = resources.files("tensorflow_datasets") / "datasets" / "imagenet2012"
    classes, validation = ((lists / f).read_text().split() for f in ("labels.txt", "validation_labels.txt"))
    return Original(classes, validation, train=1_281_167)


@dataclass(frozen=True)
class Prepare:
    """Write ImageNet, or JPEG files of your own, in TFDS's layout of imagenet2012, without TensorFlow."""

    source: Path
    """Folder of train/CLASS/*.JPEG and validation/CLASS/*.JPEG (or val, or test), or of the two official archives."""

    data_dir: Path | None = None
    """Folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]."""

    skip_damaged: bool = False
    """Leave out damaged pictures instead of refusing them."""

    per_shard: int = 1250
    """Minimum number of pictures in a file, if there are enough."""


if __name__ == "__main__":
    cli.run(lambda c: prepare(c.source, c.data_dir, skip_damaged=c.skip_damaged, per_shard=c.per_shard), Prepare)

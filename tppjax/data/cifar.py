"""CIFAR-10 and CIFAR-100 in TFDS's layout, without TensorFlow: reading prepared data, and preparing it.

python -m tppjax.data.cifar --dataset cifar10 --data_dir DIR [--archive cifar-10-python.tar.gz]

TFDS's own builders need TensorFlow to prepare data; the one here yields PNG bytes and does not need it. TFDS reads what
it writes, and it reads what TFDS writes.
"""

import codecs
import hashlib
import io
import pickle
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from tqdm import tqdm

from tppjax import cli
from tppjax.data import Images, Preprocessing, prepared
from tppjax.errors import InputError, extra, refusing
from tppjax.types import DataDir, PathLike, Select

SHAPE = (32, 32, 3)
VERSION = "3.0.2"  # of TFDS's builders, whose features and names are used here
FINE, COARSE = "label", "coarse_label"


@dataclass(frozen=True)
class Archive:
    """The "python version" that the authors of the data set publish (Krizhevsky, 2009).

    Attributes:
      url: address of the archive.
      md5: MD5 of the archive.
      files: names of the files of each split.
      labels: key in the files of each kind of label, by TFDS's name of that kind.
      meta: name of the file with the class names, and the key there of each kind of label.
      counts: number of images of each split.
    """

    url: str
    md5: str
    files: dict[str, tuple[str, ...]]
    labels: dict[str, bytes]
    meta: tuple[str, dict[str, bytes]]
    counts: dict[str, int]


ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
        labels={FINE: b"labels"},
        meta=("batches.meta", {FINE: b"label_names"}),
        counts={"train": 50_000, "test": 10_000},
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        files={"train": ("train",), "test": ("test",)},
        labels={FINE: b"fine_labels", COARSE: b"coarse_labels"},
        meta=("meta", {FINE: b"fine_label_names", COARSE: b"coarse_label_names"}),
        counts={"train": 50_000, "test": 10_000},
    ),
}

CLASSES = {
    "cifar10": {FINE: "airplane automobile bird cat deer dog frog horse ship truck".split()},
    "cifar100": {
        FINE: """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
            can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur
            dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion
            lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
            pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark
            shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone
            television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split(),
        COARSE: """aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
            household_furniture insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes
            large_omnivores_and_herbivores medium_mammals non-insect_invertebrates people reptiles small_mammals trees
            vehicles_1 vehicles_2""".split(),
    },
}
STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}


def info(name: str, data_dir: DataDir = None) -> Preprocessing:
    """The form of a network's input, with the mean and standard deviation that the authors of the baselines use."""
    mean, std = STATISTICS[name]
    return Preprocessing(name, SHAPE, mean, std, tuple(CLASSES[name][FINE]))


def load(name: str, split: str, data_dir: DataDir = None, select: Select = np.arange) -> Images:
    """The selected images, uint8 `[N, 32, 32, 3]`, and labels (fine ones for CIFAR-100) of prepared TFDS data.

    Raises:
      FileNotFoundError: if there is none; names the folder and the command that gets it. Nothing is downloaded here.
      InputError: if it is incomplete, damaged or of another kind.
    """
    folder = prepared.newest(name, prepared.root(data_dir), f"python -m tppjax.data.cifar --dataset {name}")
    if (classes := list(folder.classes())) != CLASSES[name][FINE]:
        raise InputError(f"{folder.path} has other classes than {name}: {', '.join(classes[:5])}, ...; {folder.remedy}")
    source = folder.records(split, _features(name, FINE), len(classes))
    indices = select(len(source))
    with extra("data"):
        from PIL import Image
    images, labels = np.empty((len(indices), *SHAPE), np.uint8), np.empty(len(indices), np.int32)
    for i, index in enumerate(tqdm(indices, desc=f"reading {name} {split}", disable=None, leave=False)):
        example = source[index]
        with refusing(f"the picture in {source.where(index)} can't be decoded"):
            pixels = np.asarray(Image.open(io.BytesIO(example["image"])))
        if pixels.shape != SHAPE or pixels.dtype != np.uint8:
            raise InputError(f"{source.where(index)} has a picture of {pixels.dtype} and shape {pixels.shape}")
        images[i], labels[i] = pixels, example["label"]
    return Images(images, labels)


def prepare(
    name: str, data_dir: DataDir = None, archive: PathLike | None = None, original: Archive | None = None
) -> Path:
    """Writes `data_dir/name/VERSION` from the original archive, completely or not at all, unless it exists already.

    Args:
      name: "cifar10" or "cifar100".
      data_dir: folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets].
      archive: the original .tar.gz [default: the one in data_dir/downloads, which is downloaded if it is missing].
      original: description of the archive to expect [default: the one that the authors publish].

    Returns:
      The folder of the prepared data.

    Raises:
      FileNotFoundError: if `archive` does not exist.
      InputError: if it is not the original archive, is damaged, or holds anything but arrays.
    """
    root, original = prepared.root(data_dir), original or ARCHIVES[name]
    local = root / "downloads" / original.url.rsplit("/", 1)[1]
    file = Path(archive) if archive else local if local.is_file() else None
    if file and not file.is_file():
        raise FileNotFoundError(f"there is no archive {file.absolute()}; it is published at {original.url}")
    builder = _builder(name, root, file, original)
    if builder.is_prepared():
        print(f"{name} is already in {builder.data_path}")
    else:
        builder.download_and_prepare()
        print(f"prepared {name} in {builder.data_path}")
    return Path(builder.data_path)


def _builder(name: str, data_dir: Path, archive: Path | None, original: Archive) -> Any:
    """TFDS's builder of the same name, except that Pillow encodes the images."""
    tfds = _tfds()

    class Cifar(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore - lazily imported
        """CIFAR (Krizhevsky, 2009)."""

        def _info(self) -> Any:
            features = _features(name, *CLASSES[name], id=tfds.features.Text())
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", FINE))

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
            contents = _unpack(archive or _downloaded(dl_manager, original.url), original, CLASSES[name])
            return {split: _examples(contents, split, original) for split in original.files}

        def _generate_examples(self) -> None:
            raise AssertionError("the examples come from _split_generators")

    Cifar.name, Cifar.VERSION = name, tfds.core.Version(VERSION)
    return Cifar(data_dir=data_dir, file_format="array_record")


def _features(name: str, *labels: str, **more: Any) -> Any:
    """TFDS's description of an example with these kinds of labels."""
    features = _tfds().features
    label_features = {kind: features.ClassLabel(names=CLASSES[name][kind]) for kind in labels}
    return features.FeaturesDict({"image": features.Image(shape=SHAPE), **label_features, **more})


def _downloaded(dl_manager: Any, url: str) -> Path:
    with refusing(f"{url} can't be downloaded", "get it another way, and give it as --archive"):
        return Path(dl_manager.download(url))


def _unpack(archive: Path, original: Archive, classes: Mapping[str, Sequence[str]]) -> dict[str, dict]:
    """`{file: its unpickled content}` of the archive, after it is checked against the description."""
    with archive.open("rb") as f:
        md5 = hashlib.file_digest(f, "md5").hexdigest()
    if md5 != original.md5:
        raise InputError(f"{archive} is not the original archive: its md5 is {md5}, not {original.md5}; get it again")
    meta, keys = original.meta
    names = {meta, *(file for files in original.files.values() for file in files)}
    with tarfile.open(archive) as tar:
        members = {Path(m.name).name: m for m in tar.getmembers() if m.isfile()}
        if missing := names - members.keys():
            raise InputError(f"{archive} lacks {', '.join(sorted(missing))}")
        opened: dict[str, Any] = {name: tar.extractfile(members[name]) for name in names}
        contents = {name: _Plain(file, encoding="bytes").load() for name, file in opened.items()}
    for kind, key in keys.items():
        if [n.decode() for n in contents[meta][key]] != classes[kind]:
            raise InputError(f"{archive} has other class names than TFDS for {kind}")
    for split, files in original.files.items():
        if (n := sum(len(contents[file][b"data"]) for file in files)) != original.counts[split]:
            raise InputError(f"{archive} has {n} images in {split}, not {original.counts[split]}")
    return contents


def _examples(contents: dict[str, dict], split: str, original: Archive) -> Iterator[tuple[str, dict[str, Any]]]:
    """TFDS's examples, images as PNG bytes; in the archive they are rows of 3 x 32 x 32."""
    from PIL import Image

    number = 0
    for file in original.files[split]:
        for i, row in enumerate(contents[file][b"data"]):
            png = io.BytesIO()
            Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(png, "PNG")
            labels = {kind: int(contents[file][key][i]) for kind, key in original.labels.items()}
            name = f"{split}_{number:05}"
            yield name, {"id": name, "image": png.getvalue(), **labels}
            number += 1


RECONSTRUCT = np.zeros(0).__reduce__()[0]  # NumPy's private function that unpickles an array


class _Plain(pickle.Unpickler):
    """Unpickles arrays, bytes and containers; refuses everything else, since a pickle can run code."""

    ADMITTED: ClassVar = {
        "numpy.core.multiarray._reconstruct": RECONSTRUCT,
        "numpy._core.multiarray._reconstruct": RECONSTRUCT,
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        "_codecs.encode": codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The object of this name, if a pickle may use it."""
        if f"{module}.{name}" not in self.ADMITTED:
            raise InputError(f"the archive asks for {module}.{name}, which is neither data nor an array: refused")
        return self.ADMITTED[f"{module}.{name}"]


def _tfds() -> Any:
    with extra("data"):
        import tensorflow_datasets as tfds

    return tfds


@dataclass(frozen=True)
class Prepare:
    """Write CIFAR in TFDS's layout from the original archive, without TensorFlow."""

    dataset: Literal["cifar10", "cifar100"] = "cifar10"
    """Data set."""

    data_dir: Path | None = None
    """Folder of TFDS data sets [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]."""

    archive: Path | None = None
    """The original .tar.gz [default: the one in DATA_DIR/downloads, which is downloaded if it is missing]."""


if __name__ == "__main__":
    cli.run(lambda config: prepare(config.dataset, config.data_dir, config.archive), Prepare)

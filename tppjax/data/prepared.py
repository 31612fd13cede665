"""Prepared TFDS data, read record by record; everything in TFDS's files is checked before it is used.

The data is located without importing TFDS, which takes long, so that missing data is reported at once.
"""

import contextlib
import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from tppjax import files
from tppjax.errors import InputError, extra, refusing
from tppjax.types import DataDir

MOST_SHARDS = 100_000
LABELS = "label.labels.txt"


@dataclass(frozen=True)
class Folder:
    """A prepared version of a data set.

    Attributes:
      path: path of the folder.
      name: name of the data set.
      lengths: number of records in each file, by split.
      remedy: what to do if files are missing or damaged, for messages.
    """

    path: Path
    name: str
    lengths: dict[str, tuple[int, ...]]
    remedy: str

    def shards(self, split: str) -> list[Path]:
        """The files of one split."""
        total = len(self.lengths[split])
        return [shard(self.path, self.name, split, i, total) for i in range(total)]

    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the labels.

        Raises:
          InputError: if there are none, or the file is damaged.
        """
        file = self.path / LABELS
        try:
            names = files.regular(file).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError as e:
            raise InputError(f"{self.path} is incomplete: {LABELS} is missing; {self.remedy}") from e
        except UnicodeDecodeError as e:
            raise InputError(f"{file} is damaged ({e}): {self.remedy}") from e
        if not names or not all(name.strip() for name in names):
            raise InputError(f"{file} is damaged (it has no name for some class): {self.remedy}")
        return tuple(names)

    def records(self, split: str, features: Any, labels: int) -> "Records":
        """The examples of one split.

        Args:
          split: TFDS's name of the split.
          features: TFDS's FeaturesDict of what to read; images are not decoded.
          labels: number of classes.

        Raises:
          InputError: if there is no such split, or a file is damaged or has an unexpected number of records.
        """
        if split not in self.lengths:
            raise InputError(f"{self.path} has no split {split}, only {', '.join(self.lengths)}; {self.remedy}")
        shards, lengths = self.shards(split), self.lengths[split]
        for file, length in zip(shards, lengths, strict=True):
            if (n := count(file, self.remedy)) != length:
                raise InputError(f"{file} has {n} records, not the {length} of dataset_info.json; {self.remedy}")
        with extra("data"):
            import tensorflow_datasets  # noqa: F401 - needed to read the examples
            from array_record.python.array_record_data_source import ArrayRecordDataSource

        return Records(ArrayRecordDataSource([str(file) for file in shards]), shards, lengths, features, labels)


@dataclass(frozen=True, eq=False, repr=False)
class Records(Sequence):
    """Examples on disk, a sequence of `{"image": bytes, "label": int, ...}`.

    Attributes:
      source: the records as TFDS writes them, a sequence of bytes.
      shards: the files with the records.
      lengths: number of records in each file.
      features: TFDS's description of the records.
      labels: number of classes.
    """

    source: Any
    shards: Sequence[Path]
    lengths: Sequence[int]
    features: Any
    labels: int

    def __len__(self) -> int:
        return sum(self.lengths)

    def __repr__(self) -> str:
        return str(self.shards[0].parent)

    def __getitem__(self, index: Any) -> Any:
        """One example.

        Raises:
          InputError: if it is damaged; says where.
        """
        import tensorflow_datasets as tfds

        as_bytes = {"image": tfds.decode.SkipDecoding()}
        with refusing(f"{self.where(index)} is damaged", "prepare the data again"):
            example = self.features.deserialize_example_np(self.source[int(index)], decoders=as_bytes)
        label = example["label"]
        texts = all(isinstance(value, bytes) for name, value in example.items() if name != "label")
        if not texts or not isinstance(label, int) or not 0 <= label < self.labels:
            raise InputError(
                f"{self.where(index)} is of another kind: it should hold an image and a label below {self.labels}, and "
                f"has the label {label}; prepare the data again"
            )
        return example

    def where(self, index: Any) -> str:
        """The file of a record and its index there, for messages."""
        ends = list(accumulate(self.lengths))
        i = min(bisect_right(ends, index), len(ends) - 1)
        return f"record {index - ends[i] + self.lengths[i]} of {self.shards[i]}"


def root(data_dir: DataDir) -> Path:
    """Folder of TFDS data sets: `data_dir`, else `$TFDS_DATA_DIR`, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()


def newest(name: str, data_dir: Path, command: str, mend: str = "remove the folder and ") -> Folder:
    """The newest prepared version of the data set called `name`.

    Args:
      name: TFDS's name of the data set.
      data_dir: folder of TFDS data sets, as `root` returns it.
      command: command that prepares the data, without its --data_dir.
      mend: what has to be done before `command` restores a missing file.

    Raises:
      FileNotFoundError: if there is none; names the folder and the command.
      InputError: if it is in another file format or damaged, or files are missing.
    """
    remedy = f"prepare it with: {command} --data_dir"
    # TFDS leaves folders with other names behind when it is killed.
    versions = {
        version: f.parent for f in (data_dir / name).glob("*/dataset_info.json") if (version := _version(f.parent))
    }
    if not versions:
        raise FileNotFoundError(
            f"no {name} in {data_dir} (looked for {name}/VERSION/dataset_info.json); {remedy} {data_dir}"
        )
    path = versions[max(versions)]
    described = files.read_json(path / "dataset_info.json", f"{mend}{remedy} {data_dir}")
    if (file_format := described.get("fileFormat")) != "array_record":
        raise InputError(
            f"{path} is in the format {file_format}, which needs TensorFlow, not array_record; give another "
            f"--data_dir and {remedy} IT"
        )
    lengths = _lengths(path / "dataset_info.json", described, f"{mend}{remedy} {data_dir}")
    folder = Folder(path, name, lengths, f"{mend}{remedy} {data_dir}")
    for file in (file for split in lengths for file in folder.shards(split)):
        if not file.is_file():
            raise InputError(f"{path} is incomplete: {file.name} is missing; {folder.remedy}")
    return folder


def _lengths(file: Path, described: dict, remedy: str) -> dict[str, tuple[int, ...]]:
    """The number of records in each shard of each split, from the content of dataset_info.json."""
    with refusing(f"the splits in {file} are damaged", remedy):
        lengths = {s["name"]: tuple(map(int, s["shardLengths"])) for s in described["splits"]}
        if not lengths or not all(0 < len(n) <= MOST_SHARDS and min(n) >= 0 and sum(n) for n in lengths.values()):
            raise ValueError("a split has no records")
    return lengths


def shard(folder: Path, name: str, split: str, index: int, total: int) -> Path:
    """The file of one shard of `total`, with TFDS's name."""
    return folder / f"{name}-{split}.array_record-{index:05}-of-{total:05}"


def count(file: Path, remedy: str) -> int:
    """Number of records in a shard.

    Raises:
      InputError: if it is damaged; names the remedy.
    """
    with extra("data"):
        from array_record.python.array_record_module import ArrayRecordReader

    path, refused = str(files.regular(file)), refusing(f"{file} is damaged", remedy, RuntimeError)
    with refused, contextlib.closing(ArrayRecordReader(path)) as reader:
        return reader.num_records()


def _version(folder: Path) -> tuple[int, ...] | None:
    match = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", folder.name)
    return match and tuple(map(int, match.groups()))

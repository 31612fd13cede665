"""Prepared TFDS data, read record by record; of TFDS's own files nothing is believed that was not checked.

Where it lies is looked for without importing TFDS, which takes longer than to say that there is none.
"""

import os
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from tppjax import files
from tppjax.errors import InputError, brief, extra

MOST_SHARDS = 100_000
LABELS = "label.labels.txt"


@dataclass(frozen=True)
class Folder:
    """A prepared version of a data set.

    Attributes:
      path: of the folder.
      name: of the data set.
      lengths: of each split, the number of records in each file.
      remedy: what to do if files of it are missing or damaged, for messages.
    """

    path: Path
    name: str
    lengths: dict[str, tuple[int, ...]]
    remedy: str

    def shards(self, split: str) -> list[Path]:
        """The files of one split."""
        of = len(self.lengths[split])
        return [shard(self.path, self.name, split, i, of) for i in range(of)]

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

    def records(self, split: str, features, labels: int) -> "Records":
        """The examples of one split.

        Args:
          split: as TFDS has it.
          features: TFDS's FeaturesDict of what to read; images are left as they are encoded.
          labels: number of classes.

        Raises:
          InputError: if there is no such split, or a file is damaged or has another number of records than is noted.
        """
        if split not in self.lengths:
            raise InputError(f"{self.path} has no split {split}, only {', '.join(self.lengths)}; {self.remedy}")
        shards, lengths = self.shards(split), self.lengths[split]
        for file, length in zip(shards, lengths, strict=True):
            if (n := count(file, self.remedy)) != length:
                raise InputError(f"{file} has {n} records, not the {length} of dataset_info.json; {self.remedy}")
        with extra("data"):
            import tensorflow_datasets  # noqa: F401 - which reads the examples
            from array_record.python.array_record_data_source import ArrayRecordDataSource

        return Records(ArrayRecordDataSource([str(file) for file in shards]), shards, lengths, features, labels)


@dataclass(frozen=True, eq=False, repr=False)
class Records(Sequence):
    """Examples on disk: place to `{"image": bytes, "label": int, ...}`.

    Attributes:
      source: place to what TFDS has written.
      shards: files that these are in.
      lengths: number of records in each.
      features: how TFDS writes them.
      labels: number of classes.
    """

    source: Sequence[bytes]
    shards: Sequence[Path]
    lengths: Sequence[int]
    features: object
    labels: int

    def __len__(self):
        return sum(self.lengths)

    def __repr__(self):
        return str(self.shards[0].parent)

    def __getitem__(self, place):
        """One example.

        Raises:
          InputError: if it is damaged; says where.
        """
        import tensorflow_datasets as tfds

        as_bytes = {"image": tfds.decode.SkipDecoding()}
        try:
            example = self.features.deserialize_example_np(self.source[int(place)], decoders=as_bytes)
        except Exception as e:  # array_record's, protobuf's and TFDS's, of many kinds
            raise InputError(f"{self.where(place)} is damaged ({brief(e)}); prepare the data anew") from e
        label = example["label"]
        texts = all(isinstance(value, bytes) for name, value in example.items() if name != "label")
        if not texts or not isinstance(label, int) or not 0 <= label < self.labels:
            raise InputError(
                f"{self.where(place)} is of another kind: it should hold an image and a label below {self.labels}, and "
                f"has the label {label}; prepare the data anew"
            )
        return example

    def where(self, place) -> str:
        """The record's file and place there, for messages."""
        ends = list(accumulate(self.lengths))
        i = min(bisect_right(ends, place), len(ends) - 1)
        return f"record {place - ends[i] + self.lengths[i]} of {self.shards[i]}"


def root(data_dir: str | os.PathLike | None) -> Path:
    """Folder of TFDS data sets: `data_dir`, else `$TFDS_DATA_DIR`, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()


def newest(name: str, data_dir: Path, command: str, mend: str = "remove the folder and ") -> Folder:
    """The newest prepared version of the data set called `name`.

    Args:
      name: of the data set, as TFDS has it.
      data_dir: what `root` gives.
      command: what prepares it, without its --data_dir.
      mend: what has to be done before `command` puts back a file that is missing.

    Raises:
      FileNotFoundError: if there is none; names the folder and the command.
      InputError: if it is in another file format, damaged, or files of it are missing.
    """
    remedy = f"prepare it with: {command} --data_dir"
    # Folders of other names are what TFDS leaves behind when it is killed.
    versions = [f.parent for f in (data_dir / name).glob("*/dataset_info.json") if _version(f.parent)]
    if not versions:
        raise FileNotFoundError(
            f"no {name} in {data_dir} (looked for {name}/VERSION/dataset_info.json); {remedy} {data_dir}"
        )
    path = max(versions, key=_version)
    described = files.read_json(path / "dataset_info.json", f"{mend}{remedy} {data_dir}")
    if (file_format := described.get("fileFormat")) != "array_record":
        raise InputError(
            f"{path} is in the format {file_format}, which needs TensorFlow, not array_record; give another "
            f"--data_dir and {remedy} IT"
        )
    try:
        lengths = {s["name"]: tuple(map(int, s["shardLengths"])) for s in described["splits"]}
        if not lengths or not all(0 < len(n) <= MOST_SHARDS and min(n) >= 0 and sum(n) for n in lengths.values()):
            raise ValueError("a split has no records")
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise InputError(
            f"{path / 'dataset_info.json'} is damaged (its splits: {brief(e)}): {mend}{remedy} {data_dir}"
        ) from e
    folder = Folder(path, name, lengths, f"{mend}{remedy} {data_dir}")
    for file in (file for split in lengths for file in folder.shards(split)):
        if not file.is_file():
            raise InputError(f"{path} is incomplete: {file.name} is missing; {folder.remedy}")
    return folder


def shard(folder: Path, name: str, split: str, index: int, of: int) -> Path:
    """The file of one shard, named as TFDS names it."""
    return folder / f"{name}-{split}.array_record-{index:05}-of-{of:05}"


def count(file: Path, remedy: str) -> int:
    """Number of records in a shard.

    Raises:
      InputError: if it is damaged; names the remedy.
    """
    with extra("data"):
        from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(files.regular(file)))
        try:
            return reader.num_records()
        finally:
            reader.close()
    except RuntimeError as e:
        raise InputError(f"{file} is damaged ({brief(e)}); {remedy}") from e


def _version(folder: Path) -> tuple[int, ...] | None:
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", folder.name)
    return found and tuple(map(int, found.groups()))

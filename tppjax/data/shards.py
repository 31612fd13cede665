"""Writes pictures as array_record shards that TFDS reads, one file after another, so that a later run can continue."""

import contextlib
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tppjax import files
from tppjax.data import imagenet, prepared
from tppjax.errors import InputError, brief, extra

with extra("data"):
    from PIL import Image

PLAN = "plan.json"  # the file beside the shards that says from what they are made
LARGEST = 2**28  # bytes of a picture; a record must be smaller than 2**31
FIRST = 5  # number of pictures that an error names


@dataclass(frozen=True)
class Picture:
    """A JPEG file, alone or in an archive.

    Attributes:
      file: the file itself, or the archive that contains it.
      offset: index of its first byte in `file`.
      size: its size in bytes.
      name: name of the JPEG file.
      label: name of its class.
    """

    file: Path
    offset: int
    size: int
    name: str
    label: str

    def __str__(self) -> str:
        return f"{self.label}/{self.name}"


@dataclass(frozen=True)
class Plan:
    """The assignment of pictures to files.

    Attributes:
      classes: names of the classes, in the order of the labels.
      shards: the pictures of each file, by split.
      digest: digest of names, labels, sizes and order of all pictures, but not of the files from which they are read.
    """

    classes: list[str]
    shards: dict[str, list[list[Picture]]]
    digest: str


def plan(classes: list[str], pictures: dict[str, list[Picture]], per_shard: int) -> Plan:
    """Pictures in a fixed random order, so that any part has all classes, in files of `per_shard` or more.

    Args:
      classes: names of the classes, in the order of the labels.
      pictures: the pictures of each split.
      per_shard: minimum number of pictures in a file, if there are enough.
    """
    shards, digest = {}, hashlib.sha256(repr(classes).encode())
    for split, unsorted in pictures.items():
        ordered = sorted(unsorted, key=str)
        order = np.random.default_rng(0).permutation(len(ordered))
        parts = np.array_split(order, max(1, len(order) // per_shard))
        shards[split] = [[ordered[i] for i in part] for part in parts]
        for part in shards[split]:
            digest.update(repr((split, [(p.name, p.label, p.size) for p in part])).encode())
    return Plan(classes, shards, digest.hexdigest())


def write(name: str, folder: Path, plan: Plan, skip_damaged: bool) -> None:
    """Writes the shards that are missing in `folder`, then the metadata that TFDS needs to read them.

    Args:
      name: name of the data set.
      folder: folder of this version of the data set.
      plan: the pictures that belong in each file.
      skip_damaged: whether to leave out damaged pictures instead of refusing them; both name them.

    Raises:
      InputError: if pictures are damaged, or the folder holds something else.
    """
    pictures = [p for parts in plan.shards.values() for part in parts for p in part]
    if not skip_damaged:
        _refuse([f"{p}: empty" for p in pictures if not p.size])
    with files.locked(folder):
        _claim(folder, plan)
        features = imagenet.features(plan.classes)
        lengths = _write_shards(name, folder, plan, features, skip_damaged)
        _describe(name, folder, features, lengths)
    counts = ", ".join(f"{sum(n):,} {split}" for split, n in lengths.items())
    left_out = len(pictures) - sum(map(sum, lengths.values()))
    print(f"prepared {name} in {folder}: {counts} pictures" + f"; {left_out} damaged ones left out" * bool(left_out))


def _write_shards(name: str, folder: Path, plan: Plan, features: Any, skip_damaged: bool) -> dict[str, list[int]]:
    """Writes the shards that are missing; returns the number of records in each shard of each split."""
    total = sum(len(part) for parts in plan.shards.values() for part in parts)
    with ThreadPoolExecutor() as pool, tqdm(total=total, unit=" pictures", desc=name, disable=None) as bar:
        for split, parts in plan.shards.items():
            for i, part in enumerate(parts):
                file = prepared.shard(folder, name, split, i, len(parts))
                if not file.is_file():
                    _write_shard(file, part, features, pool, skip_damaged)
                bar.update(len(part))
    remedy = "remove the file and run the command again"
    lengths = {
        split: [prepared.count(prepared.shard(folder, name, split, i, len(parts)), remedy) for i in range(len(parts))]
        for split, parts in plan.shards.items()
    }
    for split, shard_lengths in lengths.items():
        if not sum(shard_lengths):
            raise InputError(f"every picture of {split} is damaged")
    return lengths


def _claim(folder: Path, plan: Plan) -> None:
    """Records the plan in the folder; refuses a folder with other content."""
    note = {"digest": plan.digest, "shards": {split: len(parts) for split, parts in plan.shards.items()}}
    for leftover in (f for f in folder.iterdir() if f.name.endswith((".new", ".incomplete")) and f.is_file()):
        leftover.unlink()  # of a run that was killed
    file = folder / PLAN
    if not file.exists() and not any(not f.name.startswith(".") for f in folder.iterdir()):
        files.write_json(file, note)
    elif not file.exists() or files.read_json(file, "remove the folder and prepare the data again") != note:
        raise InputError(
            f"{folder} holds data from another source, or in other shards ({PLAN} there does not agree); continue with "
            "that source, remove the folder, or give another --data_dir"
        )


def _write_shard(
    file: Path, pictures: list[Picture], features: Any, pool: ThreadPoolExecutor, skip_damaged: bool
) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    damaged = []
    with files.replacing(file) as new:
        options = "group_size:1"  # needed to read in any order
        with contextlib.closing(ArrayRecordWriter(str(new), options)) as writer:
            for picture, (content, problem) in zip(pictures, pool.map(_read, pictures), strict=True):
                if problem:
                    damaged.append(f"{picture}: {problem}")
                else:
                    example = {"image": content, "label": picture.label, "file_name": picture.name}
                    writer.write(features.serialize_example(example))
        if not skip_damaged:
            _refuse(damaged)
    for line in damaged:
        tqdm.write(f"left out {line}")


def _read(picture: Picture) -> tuple[bytes, str]:
    """The content, and what is wrong with it; decoding at an eighth of the size reads all bytes but costs little."""
    if picture.size > LARGEST:
        return b"", f"{picture.size:,} bytes are too many for a picture"
    with files.regular(picture.file).open("rb") as file:
        file.seek(picture.offset)
        content = file.read(picture.size)
        grown = not picture.offset and file.read(1)  # in an archive, other files follow
    if len(content) != picture.size or grown or not content:
        return content, "cut off, or changed since it was listed" if picture.size else "empty"
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except Exception as e:  # of Pillow, of many types
        return content, brief(e)
    return content, ""


def _refuse(damaged: list[str]) -> None:
    if damaged:
        examples = "; ".join(damaged[:FIRST]) + "; ..." * (len(damaged) > FIRST)
        raise InputError(
            f"damaged pictures, at least {len(damaged)}: {examples}. Get them again, or leave them out with "
            "--skip_damaged"
        )


def _describe(name: str, folder: Path, features: Any, lengths: dict[str, list[int]]) -> None:
    """Writes dataset_info.json, features.json and label.labels.txt."""
    import tensorflow_datasets as tfds

    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=shard_lengths,
            num_bytes=sum(file.stat().st_size for file in folder.glob(f"{name}-{split}.array_record-*")),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=folder,  # pyright: ignore[reportArgumentType] - etils' paths include it
                dataset_name=name,
                split=split,
                filetype_suffix="array_record",
            ),
        )
        for split, shard_lengths in lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=splits, supervised_keys=("image", "label"), check_data=False
    )

"""Writes pictures as array_record shards that TFDS reads, one file after another, so that a later run can go on."""

import hashlib
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from tppjax.data import prepared
from tppjax.errors import InputError

PLAN = "plan.json"  # lies beside the shards, and says what they are made from
FIRST = 5  # pictures that an error names


@dataclass(frozen=True)
class Picture:
    """A JPEG file, or where one lies in an archive.

    Attributes:
      file: that it is in.
      offset: of its first byte there.
      size: in bytes.
      name: of the JPEG file.
      label: its class.
    """

    file: Path
    offset: int
    size: int
    name: str
    label: str

    def __str__(self):
        return f"{self.label}/{self.name}"


@dataclass(frozen=True)
class Plan:
    """Which pictures go where.

    Attributes:
      classes: names, in the order of the labels.
      shards: of each split, the pictures of each file.
      digest: of names, labels, sizes and places of all pictures, but not of where they are read from.
    """

    classes: list[str]
    shards: dict[str, list[list[Picture]]]
    digest: str


def plan(classes: list[str], pictures: dict[str, list[Picture]], per_shard: int) -> Plan:
    """Pictures in an order drawn once for all, so that the first few are of any class, in files of `per_shard` or more.

    Args:
      classes: names, in the order of the labels.
      pictures: of each split.
      per_shard: pictures in a file, at least, where there are enough.
    """
    shards, digest = {}, hashlib.sha256(repr(classes).encode())
    for split, of_split in pictures.items():
        of_split = sorted(of_split, key=str)
        order = np.random.default_rng(0).permutation(len(of_split))
        parts = np.array_split(order, max(1, len(order) // per_shard))
        shards[split] = [[of_split[i] for i in part] for part in parts]
        for part in shards[split]:
            digest.update(repr((split, [(p.name, p.label, p.size) for p in part])).encode())
    return Plan(classes, shards, digest.hexdigest())


def write(name: str, folder: Path, plan: Plan, skip_damaged: bool) -> None:
    """Writes the shards that are missing in `folder`, then what TFDS needs to read them.

    Args:
      name: of the data set.
      folder: of this version of it.
      plan: what belongs there.
      skip_damaged: leave damaged pictures out, instead of refusing them; either way they are named.

    Raises:
      InputError: if pictures are damaged, or the folder holds something else.
    """
    pictures = [p for parts in plan.shards.values() for part in parts for p in part]
    if not skip_damaged:
        _refuse([f"{p}: empty" for p in pictures if not p.size])
    _claim(folder, plan)
    features = _features(plan.classes)
    with ThreadPoolExecutor() as pool, tqdm(total=len(pictures), unit=" pictures", desc=name, disable=None) as bar:
        for split, parts in plan.shards.items():
            for i, part in enumerate(parts):
                file = prepared.shard(folder, name, split, i, len(parts))
                if not file.is_file():
                    _write_shard(file, part, features, pool, skip_damaged)
                bar.update(len(part))
    lengths = {
        split: [_length(prepared.shard(folder, name, split, i, len(parts))) for i in range(len(parts))]
        for split, parts in plan.shards.items()
    }
    for split, of_split in lengths.items():
        if not sum(of_split):
            raise InputError(f"no picture of {split} is whole")
    _describe(name, folder, features, lengths)
    counts = ", ".join(f"{sum(n):,} {split}" for split, n in lengths.items())
    left_out = len(pictures) - sum(map(sum, lengths.values()))
    print(f"prepared {name} in {folder}: {counts} pictures" + f"; {left_out} damaged ones left out" * bool(left_out))


def _claim(folder: Path, plan: Plan) -> None:
    """Notes what is being written there; refuses a folder with anything else."""
    note = {"digest": plan.digest, "shards": {split: len(parts) for split, parts in plan.shards.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / PLAN
    if not file.is_file() and not any(folder.iterdir()):
        incomplete = file.with_suffix(".incomplete")
        incomplete.write_text(json.dumps(note, indent=2))
        os.replace(incomplete, file)
    elif not file.is_file() or json.loads(file.read_text()) != note:
        raise InputError(
            f"{folder} holds data from another source, or in other shards ({PLAN} there does not agree); go on with "
            "that source, remove the folder, or give another --data_dir"
        )


def _write_shard(file: Path, pictures: list[Picture], features, pool: ThreadPoolExecutor, skip_damaged: bool) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    incomplete, damaged = file.with_name(f"{file.name}.incomplete"), []
    writer = ArrayRecordWriter(str(incomplete), "group_size:1")  # what reading in any order needs
    try:
        for picture, (content, problem) in zip(pictures, pool.map(_read, pictures), strict=True):
            if problem:
                damaged.append(f"{picture}: {problem}")
            else:
                example = {"image": content, "label": picture.label, "file_name": picture.name}
                writer.write(features.serialize_example(example))
    finally:
        writer.close()
    if not skip_damaged:
        _refuse(damaged)
    for line in damaged:
        tqdm.write(f"left out {line}")
    os.replace(incomplete, file)


def _read(picture: Picture) -> tuple[bytes, str]:
    """Content, and what is wrong with it. An eighth of the size is decoded: all bytes are read, few are computed."""
    with picture.file.open("rb") as file:
        file.seek(picture.offset)
        content = file.read(picture.size)
    if len(content) != picture.size or not content:
        return content, "cut off" if picture.size else "empty"
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.draft(image.mode, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        return content, str(e) or type(e).__name__
    return content, ""


def _refuse(damaged: list[str]) -> None:
    if damaged:
        named = "; ".join(damaged[:FIRST]) + "; ..." * (len(damaged) > FIRST)
        raise InputError(
            f"damaged pictures, at least {len(damaged)}: {named}. Get them anew, or leave damaged ones out with "
            "--skip_damaged"
        )


def _features(classes: list[str]):
    import tensorflow_datasets as tfds

    image, label = tfds.features.Image(encoding_format="jpeg"), tfds.features.ClassLabel(names=classes)
    return tfds.features.FeaturesDict({"image": image, "label": label, "file_name": tfds.features.Text()})


def _length(shard: Path) -> int:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(shard))
    try:
        return reader.num_records()
    finally:
        reader.close()


def _describe(name: str, folder: Path, features, lengths: dict[str, list[int]]) -> None:
    """Writes dataset_info.json, features.json and label.labels.txt."""
    import tensorflow_datasets as tfds

    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=of_split,
            num_bytes=sum(file.stat().st_size for file in folder.glob(f"{name}-{split}.array_record-*")),
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=folder, dataset_name=name, split=split, filetype_suffix="array_record"
            ),
        )
        for split, of_split in lengths.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=splits, supervised_keys=("image", "label"), check_data=False
    )

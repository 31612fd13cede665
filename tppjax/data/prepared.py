"""Where prepared TFDS data lies, checked without importing TFDS, which takes longer than to say that there is none."""

import json
import os
from pathlib import Path

from tppjax.errors import InputError


def root(data_dir: str | os.PathLike | None) -> Path:
    """Folder of TFDS data sets: `data_dir`, else `$TFDS_DATA_DIR`, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()


def newest(name: str, data_dir: Path, command: str, mend: str = "remove the folder and ") -> Path:
    """The newest prepared version of the data set called `name`.

    Args:
      name: of the data set, as TFDS has it.
      data_dir: what `root` gives.
      command: what prepares it, without its --data_dir.
      mend: what has to be done before `command` puts back a file that is missing.

    Raises:
      FileNotFoundError: if there is none; names the folder and the command.
      InputError: if it is in another file format, or files of it are missing.
    """
    remedy = f"prepare it with: {command} --data_dir"
    versions = [f.parent for f in (data_dir / name).glob("*/dataset_info.json")]
    if not versions:
        raise FileNotFoundError(
            f"no {name} in {data_dir} (looked for {name}/VERSION/dataset_info.json); {remedy} {data_dir}"
        )
    folder = max(versions, key=lambda f: [int(n) if n.isdigit() else -1 for n in f.name.split(".")])
    described = json.loads((folder / "dataset_info.json").read_text())
    if described.get("fileFormat") != "array_record":
        raise InputError(
            f"{folder} is in the format {described.get('fileFormat')}, which needs TensorFlow, not array_record; give "
            f"another --data_dir and {remedy} IT"
        )
    for split in described["splits"]:
        shards = len(split["shardLengths"])
        for i in range(shards):
            file = shard(folder, name, split["name"], i, shards)
            if not file.is_file():
                raise InputError(f"{folder} is incomplete: {file.name} is missing; {mend}{remedy} {data_dir}")
    return folder


def shard(folder: Path, name: str, split: str, index: int, of: int) -> Path:
    """The file of one shard, named as TFDS names it."""
    return folder / f"{name}-{split}.array_record-{index:05}-of-{of:05}"

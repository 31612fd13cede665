"""Where prepared TFDS data lies, checked without importing TFDS, which takes longer than to say that there is none."""

import os
from pathlib import Path


def root(data_dir: str | os.PathLike | None) -> Path:
    """Folder of TFDS data sets: `data_dir`, else `$TFDS_DATA_DIR`, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser().absolute()

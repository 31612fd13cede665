"""A small set of JPEG files of many kinds, in class folders and in archives like the official ones."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tppjax.data.jpegs import ARCHIVES, Original

CLASSES = ["n01", "n02", "n03"]
EACH = {"train": 5, "validation": 2}
# (width, height), mode and options of saving; sides are odd and even, and one picture is smaller than any crop of it.
KINDS = [
    ((50, 37), "RGB", {}),
    ((40, 61), "L", {}),
    ((45, 40), "CMYK", {}),
    ((7, 5), "RGB", {"progressive": True}),
    ((120, 33), "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),  # turned
]


def jpeg(number: int) -> bytes:
    """A JPEG file unlike those of all other numbers."""
    size, mode, options = KINDS[number % len(KINDS)]
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def contents() -> dict[str, dict[tuple[str, str], bytes]]:
    """`{split: {(class, file name): bytes}}`."""
    train = {(c, f"{c}_{i}.JPEG"): jpeg(10 * k + i) for k, c in enumerate(CLASSES) for i in range(EACH["train"])}
    validation = [CLASSES[k % 3] for k in range(3 * EACH["validation"])]
    return {
        "train": train,
        "validation": {(c, f"ILSVRC2012_val_{k:08}.JPEG"): jpeg(100 + k) for k, c in enumerate(validation)},
    }


def original(pictures) -> Original:
    """What the archives of these pictures are recognised by."""
    by_name = sorted((name, label) for label, name in pictures["validation"])
    return Original(CLASSES, [label for _, label in by_name], len(pictures["train"]))


def in_folders(root: Path, pictures, validation="val") -> Path:
    """Writes `train/CLASS/NAME` and likewise for validation; returns `root`."""
    for split, files in pictures.items():
        for (label, name), content in files.items():
            file = root / (validation if split == "validation" else split) / label / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return root


def in_archives(root: Path, pictures) -> Path:
    """Writes one archive of an archive for each class, and a flat one for validation; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    of_class = {}
    for (label, name), content in pictures["train"].items():
        of_class.setdefault(f"{label}.tar", {})[name] = content
    inner = {name: _tar(files) for name, files in of_class.items()}
    (root / ARCHIVES["train"]).write_bytes(_tar(inner))
    # Written out of order, as the official one is.
    flat = {name: content for (_, name), content in reversed(pictures["validation"].items())}
    (root / ARCHIVES["validation"]).write_bytes(_tar(flat))
    return root


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()

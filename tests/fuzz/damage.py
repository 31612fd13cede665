"""Damaged files of every kind that the library reads."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import safetensors.numpy

from convert.experiments.results import Results
from convert.torch import files, import_state_dict
from tests.convert.torch.torch_states import akamaster_state
from tests.fuzz.outcome import refused
from tests.tppjax.data import aedat4_files
from tests.tppjax.data.test_cifar import make_archive
from tppjax import activations, ann, data, models
from tppjax.data import cifar, recordings

WORDS = [b"-1", b"1e999", b"NaN", b"null", b'"x"', b"[]", b"{}", b"1.5", b"9" * 20]  # in the place of a digit


@dataclass(frozen=True)
class Setup:
    """A file or folder that can be damaged.

    Attributes:
      path: the whole one.
      read: `read(path)` gives something comparable of its content.
      checked: whether the format has checksums, so that other content must be refused.
    """

    path: Path
    read: Callable[[Path], object]
    checked: bool = True


def subjects(folder: Path) -> dict[str, Setup]:
    """One of each kind of file that the library reads, made in `folder`."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8), rng.integers(0, 3, 20)
    y[:3] = 0, 1, 2
    np.savez(folder / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    original, _ = make_archive(folder / "archive.tar.gz", "cifar10", per_file=4)
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        cifar.prepare("cifar10", folder / "tfds", folder / "archive.tar.gz", original)
    ann.save(network(), folder / "network")
    safetensors.numpy.save_file(akamaster_state(), folder / "weights.safetensors")
    settings = {"dataset": "digits", "n": 10}
    case, measured = {"mode": "tpp", "T": 4}, {"accuracy": [90.0], "mean": 90.0, "std": 0.0, "seconds": 1.0}
    measured |= {"spikes_per_neuron": 1.0, "history": []}
    Results.open(folder / "results", settings, "convert.evaluate").add(case, measured)
    aedat4_files.write(folder / "recording.aedat4", [(1000 * i, i, i, i % 2) for i in range(100)])
    weights = {"mean": (0.5,) * 3, "std": (0.2,) * 3}

    def imported(path):
        return ann.fingerprint(import_state_dict(files.read(path), "resnet20", **weights))

    def tfds(path):
        return [data.load("cifar10", split, path).digest() for split in ("train", "test")]

    return {
        "npz": Setup(folder / "images.npz", lambda path: data.load("npz", "train", path).digest()),
        "tfds": Setup(folder / "tfds", tfds),
        "network": Setup(folder / "network", lambda path: ann.fingerprint(ann.load(path))),
        "safetensors": Setup(folder / "weights.safetensors", imported, checked=False),
        "results": Setup(folder / "results", lambda path: Results.open(path, settings, "x").rows or None),
        "recording": Setup(folder / "recording.aedat4", lambda path: recordings.read(path).tolist(), checked=False),
    }


def network() -> ann.Ann:
    """A small one with QCFS, for 8 x 8 pixels."""
    model = models.create("vgg_small", 10, activations.QCFS(L=4), stages=((4,), (4,)))
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    return ann.Ann(jax.device_get(variables), model, data.info("digits"))


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content of a file, with some of it changed."""
    changed = bytearray(content)
    at, size = int(rng.integers(len(content) or 1)), int(rng.integers(1, 40))
    match rng.integers(8):
        case 0:
            return bytes(changed[:at])
        case 1:
            changed[at : at + size] = bytes(size)
        case 2:
            changed[at:at] = rng.bytes(size)
        case 3:
            del changed[at : at + size]
        case 4:
            return rng.bytes(size)
        case 5:
            number = rng.choice(
                [b"-1", b"1e999", b"NaN", b"null", b'"x"', b"[]", b"{}", b"1.5", b"99999999999999999999"]
            )
            digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()]
            at = int(rng.choice(digits)) if digits else 0
            changed[at : at + 1] = number
        case _:
            for _ in range(int(rng.integers(1, 4))):
                if changed:
                    changed[int(rng.integers(len(changed)))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def fuzz_file(rng: np.random.Generator, made: dict[str, Setup]) -> str | None:
    """Damages one file."""
    name = str(rng.choice(list(made)))
    setup = made[name]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / setup.path.name
        (shutil.copytree if setup.path.is_dir() else shutil.copy)(setup.path, copy)
        files = sorted(f for f in copy.rglob("*") if f.is_file() and f.name != ".lock") or [copy]
        file = files[int(rng.integers(len(files)))]
        before, what = file.read_bytes(), "changed"
        match rng.integers(12):
            case 0:
                file.unlink()
                what = "removed"
            case 1:
                file.unlink()
                os.mkfifo(file)
                what = "a FIFO"
            case 2:
                file.unlink()
                file.mkdir()
                what = "a folder"
            case _:
                file.write_bytes(damaged(before, rng))
        where = f"{name}: {file.relative_to(folder)} {what}"
        content, problem = refused(lambda: setup.read(copy))
        if problem:
            return f"{where}: {problem}"
        if content is not None and setup.checked and content != setup.read(setup.path):
            return f"{where}: read as something else"
    return None

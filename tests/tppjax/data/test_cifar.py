"""CIFAR without TensorFlow: a tiny data set of ours, made from a tiny archive of ours in the original's layout."""

import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from tppjax import data
from tppjax.data import cifar
from tppjax.errors import InputError


def make_archive(path, name, per_file=3, seed=0, extra=None):
    """Writes an archive in the original's layout; returns what it is recognised by, and what is in it."""
    original, rng, content = cifar.ARCHIVES[name], np.random.default_rng(seed), {}
    meta, keys = original.meta
    content[meta] = {key: [n.encode() for n in cifar.CLASSES[name][kind]] for kind, key in keys.items()}
    for file in (f for files in original.files.values() for f in files):
        content[file] = {b"data": rng.integers(0, 256, (per_file, 3072), dtype=np.uint8)}
        for kind, key in original.labels.items():
            content[file][key] = rng.integers(0, len(cifar.CLASSES[name][kind]), per_file).tolist()
    content.update(extra or {})
    with tarfile.open(path, "w:gz") as tar:
        for file, value in content.items():
            pickled = pickle.dumps(value, protocol=2)
            member = tarfile.TarInfo(f"some-folder/{file}")
            member.size = len(pickled)
            tar.addfile(member, io.BytesIO(pickled))
    counts = {split: per_file * len(files) for split, files in original.files.items()}
    return replace(original, md5=hashlib.md5(path.read_bytes()).hexdigest(), counts=counts), content


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    contents = {}
    for name in ("cifar10", "cifar100"):
        archive = folder / f"{name}.tar.gz"
        original, contents[name] = make_archive(archive, name)
        cifar.prepare(name, folder, archive, original)
    return folder, contents


@pytest.mark.parametrize(("name", "n"), [("cifar10", (15, 3)), ("cifar100", (3, 3))])
def test_what_was_in_the_archive_comes_back(prepared, name, n):
    folder, contents = prepared
    original = cifar.ARCHIVES[name]
    for split, size in zip(("train", "test"), n, strict=True):
        images = data.load(name, split, folder)
        assert len(images) == size
        rows = np.concatenate([contents[name][file][b"data"] for file in original.files[split]])
        labels = np.concatenate([contents[name][file][original.labels["label"]] for file in original.files[split]])
        pixels = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        # TFDS shuffles what it writes; every image is there once, with its label.
        indices = [next(i for i, p in enumerate(pixels) if (p == image).all()) for image in images.images]
        assert sorted(indices) == list(range(size))
        np.testing.assert_array_equal(images.labels, labels[indices])


def test_only_what_is_chosen_is_read(prepared):
    folder, _ = prepared
    everything, indices = data.load("cifar10", "train", folder), np.array([7, 2, 11])
    chosen = data.load("cifar10", "train", folder, lambda n: indices[indices < n])
    np.testing.assert_array_equal(chosen.images, everything.images[indices])
    np.testing.assert_array_equal(chosen.labels, everything.labels[indices])


def test_stock_tfds_reads_it(prepared):
    import tensorflow_datasets as tfds

    folder, _ = prepared
    source = tfds.data_source("cifar100", split="test", data_dir=folder, download=False)
    assert set(source[0]) == {"id", "image", "label", "coarse_label"}
    assert source[0]["image"].shape == (32, 32, 3)


def test_prepared_data_is_left_as_it_is(prepared, capsys):
    folder, _ = prepared
    before = {p: p.stat().st_mtime_ns for p in (folder / "cifar10").rglob("*")}
    cifar.prepare("cifar10", folder)
    assert "already in" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in (folder / "cifar10").rglob("*")} == before


def test_an_archive_lying_in_downloads_is_found(tmp_path):
    (tmp_path / "downloads").mkdir()
    original, _ = make_archive(tmp_path / "downloads" / "cifar-10-python.tar.gz", "cifar10")
    cifar.prepare("cifar10", tmp_path, original=original)
    assert len(data.load("cifar10", "test", tmp_path)) == 3


def test_the_command_refuses_in_one_line(tmp_path):
    make_archive(tmp_path / "a.tar.gz", "cifar10")
    command = [sys.executable, "-m", "tppjax.data.cifar", "--data_dir", tmp_path, "--archive", tmp_path / "a.tar.gz"]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.returncode == 2
    assert "error: " in answer.stderr
    assert "a.tar.gz is not the original archive: its md5 is" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_without_a_network(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def fail(*_):
        raise ConnectionError("no route")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    with pytest.raises(InputError, match=r"cifar-10-python.tar.gz can't be downloaded .* give it as --archive"):
        cifar.prepare("cifar10", tmp_path)


def test_preparing_goes_on_after_a_kill(tmp_path, monkeypatch):
    original, _ = make_archive(tmp_path / "a.tar.gz", "cifar10")
    left = tmp_path / "cifar10" / "incomplete.AAAAAA_3.0.2"  # as TFDS leaves it
    left.mkdir(parents=True)
    (left / "dataset_info.json").write_text("{")
    with pytest.raises(FileNotFoundError, match="no cifar10 in"):
        data.load("cifar10", "test", tmp_path)
    cifar.prepare("cifar10", tmp_path, tmp_path / "a.tar.gz", original)
    assert len(data.load("cifar10", "test", tmp_path)) == 3


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_archives_that_are_not_the_original(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / "a.tar.gz"
    with pytest.raises(FileNotFoundError, match=r"no archive .*a\.tar\.gz; it is published at https"):
        cifar.prepare("cifar10", tmp_path, archive)
    original, _ = make_archive(archive, "cifar10")
    with pytest.raises(ValueError, match="not the original archive: its md5 is"):
        cifar.prepare("cifar10", tmp_path, archive)
    with pytest.raises(ValueError, match="has 15 images in train, not 50000"):
        cifar.prepare("cifar10", tmp_path, archive, replace(original, counts={"train": 50_000, "test": 3}))
    with pytest.raises(ValueError, match="lacks meta, test, train"):
        cifar.prepare("cifar100", tmp_path, archive, replace(cifar.ARCHIVES["cifar100"], md5=original.md5))
    original, _ = make_archive(archive, "cifar10", extra={"test_batch": Bomb()})
    with pytest.raises(ValueError, match="neither data nor an array: refused"):
        cifar.prepare("cifar10", tmp_path, archive, original)
    assert not (tmp_path / "exploded").exists()
    # Whole or not at all: nothing that looks prepared is left.
    with pytest.raises(FileNotFoundError):
        data.load("cifar10", "test", tmp_path)


def test_no_data_is_said_within_2_seconds_with_folder_and_remedy(tmp_path):
    load = f"data.load('cifar10', 'test', {str(tmp_path)!r})"
    # In a process of its own, since loading TFDS or trying to download is what would take the time.
    program = f"import time; from tppjax import data; t = time.time()\ntry: {load}\nfinally: print(time.time() - t)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"no cifar10 in {tmp_path}" in answer.stderr
    assert f"prepare it with: python -m tppjax.data.cifar --dataset cifar10 --data_dir {tmp_path}" in answer.stderr
    assert float(answer.stdout) < 0.5  # jax itself takes a second to load, on top


def test_data_dir_comes_from_the_environment(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared[0]))
    assert len(data.load("cifar10", "test")) == 3


def test_damaged_and_foreign_data(prepared, tmp_path):
    import shutil

    shutil.copytree(prepared[0] / "cifar10", tmp_path / "cifar10")
    shard = next(tmp_path.rglob("*-test.array_record*"))
    shard.rename(tmp_path / "aside")
    with pytest.raises(ValueError, match=r"is incomplete: .*test.* is missing; remove the folder and prepare it with"):
        data.load("cifar10", "test", tmp_path)
    (tmp_path / "aside").rename(shard)
    described = shard.parent / "dataset_info.json"
    described.write_text(described.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        ValueError, match=r"in the format tfrecord, .* give another --data_dir and prepare it with: .* --data_dir IT"
    ):
        data.load("cifar10", "test", tmp_path)


def test_real_cifar10(real_cifar10):
    """10,000 test images, 1,000 of each class; the first 3 pixels' statistics are those that the field uses."""
    images = data.load("cifar10", "test", real_cifar10)
    assert images.images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(images.labels), 1000)
    np.testing.assert_allclose(images.images.mean(axis=(0, 1, 2)) / 255, data.info("cifar10").mean, atol=0.005)


def test_unknown_names():
    with pytest.raises(
        ValueError,
        match="unknown data set 'mnist'; known: cifar10, cifar100, cifar10_dvs, digits, folder, imagenet2012, npz",
    ):
        data.load("mnist", "test")
    with pytest.raises(ValueError, match="unknown split 'validation'; known: train, test"):
        data.load("digits", "validation")

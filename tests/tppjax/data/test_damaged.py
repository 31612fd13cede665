"""Damaged and hostile files: the same arrays as of the whole file, or one sentence; no traceback, no hang."""

import io
import json
import os
import random
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.tppjax.data.test_cifar import make_archive
from tppjax import data
from tppjax.data import cifar, crops, imagenet, npz, prepared, recordings
from tppjax.errors import InputError

ARRAYS = {
    "x_train": np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
    "y_train": np.arange(6) % 3,
    "x_test": np.zeros((2, 4, 5, 3), np.uint8),
    "y_test": np.array([0, 2]),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Folder with a small prepared cifar10."""
    folder = tmp_path_factory.mktemp("tfds")
    original, _ = make_archive(folder / "a.tar.gz", "cifar10")
    cifar.prepare("cifar10", folder, folder / "a.tar.gz", original)
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    shutil.copytree(whole / "cifar10", tmp_path / "cifar10")
    return tmp_path


def version(folder):
    return folder / "cifar10" / cifar.VERSION


def damages(content, n, rng, positions=None):
    """`n` versions of the content: a bit flipped, cut short, or a piece replaced by another."""
    positions = positions or range(len(content))
    for i in range(n):
        new, place = bytearray(content), rng.choice(positions)
        if i % 3 == 0:
            new[place] ^= 1 << rng.randrange(8)
        elif i % 3 == 1:
            del new[place:]
        else:
            other, size = rng.choice(positions), rng.randrange(1, 20)
            new[place : place + size] = new[other : other + size]
        yield bytes(new)


def arrays_of(name, data_dir):
    splits = [data.load(name, split, data_dir) for split in ("train", "test")]
    return [array for split in splits for array in (split.images, split.labels)]


def same_or_refused(file, name, data_dir, n, positions=None):
    """Returns how many of the damages were refused; all others must change nothing."""
    content, expected, sentences = file.read_bytes(), arrays_of(name, data_dir), []
    for damaged in damages(content, n, random.Random(0), positions):
        file.write_bytes(damaged)
        try:
            arrays = arrays_of(name, data_dir)
        except (InputError, FileNotFoundError) as e:
            sentences.append(str(e))
        else:
            for array, whole in zip(arrays, expected, strict=True):
                np.testing.assert_array_equal(array, whole)
    assert all("\n" not in sentence and len(sentence) < 800 for sentence in sentences)
    return len(sentences)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_fuzzed_npz(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    assert same_or_refused(tmp_path / "a.npz", "npz", tmp_path / "a.npz", 90) > 70


@pytest.mark.parametrize(
    ("file", "least"),
    [("dataset_info.json", 20), ("label.labels.txt", 20), ("features.json", 0), ("*-test.array_record*", 20)],
)
def test_fuzzed_cifar10(folder, file, least):
    file = next(version(folder).glob(file))
    used = [i for i, byte in enumerate(file.read_bytes()) if byte]  # a shard of a few records is mostly padding
    assert same_or_refused(file, "cifar10", folder, 36, used) >= least


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"splits": []}, "are damaged"),
        ({"splits": None}, "are damaged"),
        ({"splits": [{"name": "test"}]}, r"are damaged \(KeyError: 'shardLengths'\)"),
        ({"splits": [{"name": "test", "shardLengths": []}]}, "a split has no records"),
        ({"splits": [{"name": "test", "shardLengths": ["1"] * 10**6}]}, "are damaged"),
        ({"splits": [{"name": "train", "shardLengths": ["15"]}]}, "has no split test, only train; remove"),
        ({"splits": [{"name": "test", "shardLengths": ["4"]}]}, "has 3 records, not the 4 of dataset_info"),
        ({"splits": [{"name": "test", "shardLengths": ["-3"]}]}, "are damaged"),
        ({"splits": [{"name": "test", "shardLengths": ["x"]}]}, "are damaged"),
    ],
)
def test_dataset_info_that_does_not_agree(folder, changed, message):
    file = version(folder) / "dataset_info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises(InputError, match=message):
        data.load("cifar10", "test", folder)


def test_class_names_and_shards_that_can_not_be(folder):
    names, shard = version(folder) / "label.labels.txt", next(version(folder).glob("*-test.array_record*"))
    for content, message in ((b"\xff\xfe", "damaged .*utf-8"), (b"", "no name"), (b"cat\n\ndog\n", "no name")):
        names.write_bytes(content)
        with pytest.raises(InputError, match=f"label.labels.txt is {message}|{message}"):
            data.load("cifar10", "test", folder)
    names.unlink()
    with pytest.raises(InputError, match=r"incomplete: label\.labels\.txt is missing; remove the folder and prepare"):
        data.load("cifar10", "test", folder)
    names.write_text("\n".join(cifar.CLASSES["cifar10"]["label"]))
    for content in (b"", b"text", bytes(100_000)):
        shard.write_bytes(content)
        with pytest.raises(InputError, match=r"test\.array_record.* is damaged .*prepare it with"):
            data.load("cifar10", "test", folder)


def png(size=(32, 32), mode="RGB"):
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG")
    return file.getvalue()


RECORDS = {
    "label": ({"image": png(), "label": 10}, "record 1 of .* is of another kind: .* label 10; prepare"),
    "negative": ({"image": png(), "label": -1}, "label -1"),
    "size": ({"image": png((1, 1)), "label": 1}, r"record 1 of .* a picture of uint8 and shape \(1, 1, 3\)"),
    "grey": ({"image": png(mode="L"), "label": 1}, r"shape \(32, 32\)"),
    "cut": ({"image": png()[:60], "label": 1}, "the picture in record 1 of .* can't be decoded: "),
    "none": ({"image": b"", "label": 1}, "can't be decoded: UnidentifiedImageError"),
    "bomb": ({"image": png((20_000, 1))[:16] + b"\0\1\0\0\0\1\0\0" + png()[24:], "label": 1}, "can't be decoded: "),
    "number": ({"image": [5], "label": 1}, "record 1 of .* (is of another kind|is damaged)"),
    "two": ({"image": png(), "label": [1, 2]}, r"record 1 of .* is damaged \(ValueError"),
    "text": ({"image": png(), "label": b"cat"}, "record 1 of .* is damaged"),
    "missing": ({"image": png()}, "has the label None"),
    "bytes": (b"no protobuf", "record 1 of .* is damaged"),
}


def example(content):
    from tensorflow_datasets.proto import tf_example_generated_pb2 as proto

    if isinstance(content, bytes):
        return content
    written = proto.Example()
    for key, value in content.items():
        feature = written.features.feature[key]
        for v in value if isinstance(value, list) else [value]:
            (feature.bytes_list if isinstance(v, bytes) else feature.int64_list).value.append(v)
    return written.SerializeToString()


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("case", RECORDS)
def test_records_of_another_kind(folder, case):
    from array_record.python.array_record_module import ArrayRecordWriter

    bad, message = RECORDS[case]
    writer = ArrayRecordWriter(str(next(version(folder).glob("*-test.array_record*"))), "group_size:1")
    for content in ({"image": png(), "label": 3}, bad, {"image": png(), "label": 4}):
        writer.write(example(content))
    writer.close()
    with pytest.raises(InputError, match=message):
        data.load("cifar10", "test", folder)
    chosen = data.load("cifar10", "test", folder, select=lambda n: np.array([2, 0]))
    np.testing.assert_array_equal(chosen.labels, [4, 3])


def npz_claiming(file, shape, member_claims=None):
    """An .npz file whose x_train claims a shape, and whose directory may claim a number of bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    np.savez(file, **{name: array for name, array in ARRAYS.items() if name != "x_train"})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("x_train.npy", header.getvalue() + bytes(120))
        if member_claims:
            archive.getinfo("x_train.npy").file_size = member_claims + len(header.getvalue())


@pytest.mark.parametrize("claims", [None, 10**12])
def test_npz_that_claims_more_than_there_is(tmp_path, claims):
    """931 GiB: in the array's header, and also in the archive's directory."""
    npz_claiming(tmp_path / "a.npz", (10**12 // 60, 4, 5, 3), claims and 10**12 // 60 * 60)
    with pytest.raises(InputError, match="claims uint8 of shape" if claims is None else "would take 931.3 GiB"):
        npz.load("npz", "train", data_dir=tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("y_train", np.full(6, 2**31), "y_train has the label 2147483648; labels count from 0 and stay below 100000"),
        ("y_train", np.full(6, 2**64 - 1, np.uint64), "y_train has the label 18446744073709551615"),
        ("y_test", np.array([0.0, np.nan]), "y_test is float64"),
        ("y_test", np.array([True, False]), "y_test is bool"),
        ("y_test", np.array(["a", "b"]), "y_test is <U1"),
        ("x_train", np.full((6, 4, 5, 3), np.nan), "x_train is float64"),
    ],
)
def test_npz_with_impossible_values(tmp_path, name, value, message):
    np.savez(tmp_path / "a.npz", **{**ARRAYS, name: value})
    for read, arguments in ((npz.info, ("npz",)), (npz.load, ("npz", "train"))):
        with pytest.raises(InputError, match=message):
            read(*arguments, tmp_path / "a.npz")


def test_only_ordinary_files_are_opened(folder, tmp_path):
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    for file in (pipe, tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match="is a folder, a pipe or a device; give an ordinary file"):
            npz.load("npz", "train", data_dir=file)
    with pytest.raises(InputError, match="a pipe"):
        recordings.read(pipe)
    for name in ("label.labels.txt", "dataset_info.json", "cifar10-test.array_record-00000-of-00001"):
        file = version(folder) / name
        file.rename(tmp_path / "aside")
        os.mkfifo(file)
        with pytest.raises(InputError, match=r"a pipe|is incomplete: cifar10-test"):
            data.load("cifar10", "test", folder)
        file.unlink()
        (tmp_path / "aside").rename(file)


def test_a_very_long_picture_takes_no_gigabytes():
    preprocessing = data.Preprocessing("imagenet2012", (24, 24, 3), (0.5,) * 3, (0.5,) * 3, ("a",), None, 29)
    picture = Image.new("RGB", (60_000, 1))
    picture.putpixel((30_000, 0), (255, 0, 0))
    for turned in (picture, picture.transpose(Image.Transpose.ROTATE_90)):
        cut = np.asarray(crops.centre(turned, preprocessing))
        assert cut.shape == (24, 24, 3)
        assert cut.max() > 100


def test_records_survive_pickling(folder):
    """As they must for the processes that decode."""
    import pickle

    found = prepared.newest("cifar10", folder, "")
    records = found.records("test", imagenet.features(found.classes()), 10)
    assert repr(pickle.loads(pickle.dumps(records))) == str(version(folder))

"""Preparing JPEG files: from folders and archives, interrupted, damaged, and read back by stock TFDS."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.tppjax.data import pictures
from tppjax.data import jpegs, shards
from tppjax.errors import InputError

VERSION = "imagenet2012/5.1.0"


@pytest.fixture(scope="module")
def contents():
    return pictures.contents()


@pytest.fixture(scope="module")
def source(tmp_path_factory, contents):
    return pictures.in_folders(tmp_path_factory.mktemp("folders"), contents)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, source):
    """Folder of shards of 4 pictures or more: 3 of train, 1 of validation."""
    data_dir = tmp_path_factory.mktemp("tfds")
    jpegs.prepare(source, data_dir, per_shard=4)
    return data_dir


def read_back(data_dir, split):
    """What stock TFDS finds there, in order: `{(class, file name): bytes}`."""
    import tensorflow_datasets as tfds

    as_bytes = {"image": tfds.decode.SkipDecoding()}
    source = tfds.data_source("imagenet2012", split=split, data_dir=data_dir, decoders=as_bytes, download=False)
    return {(pictures.CLASSES[e["label"]], e["file_name"].decode()): e["image"] for e in source}


def everything(data_dir):
    """Names of the files, and what is in them, in order; the files' bytes differ from one process to another."""
    splits = [list(read_back(data_dir, split).items()) for split in ("train", "validation")]
    return sorted(f.name for f in (data_dir / VERSION).iterdir()), splits


def test_stock_tfds_reads_the_same_bytes_back(prepared, contents):
    import tensorflow_datasets as tfds

    for split in ("train", "validation"):
        assert read_back(prepared, split) == contents[split]
    builder = tfds.builder_from_directory(prepared / VERSION)
    assert [s.num_examples for s in builder.info.splits.values()] == [15, 6]
    assert builder.info.features["label"].names == pictures.CLASSES
    decoded = {e["file_name"].decode(): e["image"].shape for e in builder.as_data_source(split="validation")}
    assert decoded["ILSVRC2012_val_00000000.JPEG"] == (37, 50, 3)


def test_the_first_few_are_of_any_class(prepared):
    labels = [label for label, _ in read_back(prepared, "train")]
    assert set(labels[:8]) == set(pictures.CLASSES)


@pytest.mark.parametrize("validation", ["validation", "test"])
def test_folders_of_other_names(prepared, contents, validation, tmp_path):
    source = pictures.in_folders(tmp_path / "source", contents, validation)
    (source / ".hidden").touch()
    (source / "train" / "n01" / ".DS_Store").touch()
    jpegs.prepare(source, tmp_path, per_shard=4)
    assert everything(tmp_path) == everything(prepared)


def test_archives_give_the_same_files(prepared, contents, tmp_path):
    source = pictures.in_archives(tmp_path / "source", contents)
    jpegs.prepare(source, tmp_path, per_shard=4, original=pictures.original(contents))
    assert everything(tmp_path) == everything(prepared)


def test_the_official_lists():
    original = jpegs._ilsvrc()
    assert len(original.classes) == 1000
    assert original.classes == sorted(set(original.classes))
    assert len(original.validation) == 50_000
    assert set(original.validation) == set(original.classes)


KILLED_WHILE_WRITING = """
import os, signal, sys
from tppjax.data import jpegs, shards

read, reads = shards._read, []
def read_some(picture):
    reads.append(picture)
    return read(picture) if len(reads) < 8 else os.kill(os.getpid(), signal.SIGKILL)
shards._read = read_some
jpegs.prepare(sys.argv[1], sys.argv[2], per_shard=4)
"""


def test_an_interrupted_run_goes_on(prepared, source, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, source, tmp_path])
    assert killed.returncode == -signal.SIGKILL
    finished = {f: f.stat().st_mtime_ns for f in (tmp_path / VERSION).glob("*-of-00003")}
    assert len(finished) == 1
    assert list(tmp_path.rglob("*.new"))
    command = [
        sys.executable,
        "-m",
        "tppjax.data.jpegs",
        "--source",
        source,
        "--data_dir",
        tmp_path,
        "--per_shard",
        "4",
    ]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert f"prepared imagenet2012 in {tmp_path / VERSION}: 15 train, 6 validation pictures\n" in answer.stdout
    assert {f: f.stat().st_mtime_ns for f in finished} == finished
    assert everything(tmp_path) == everything(prepared)


def test_only_what_is_missing_is_written_again(prepared, source, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    shards = sorted((tmp_path / VERSION).glob("*array_record*"))
    before = {f: f.stat().st_mtime_ns for f in shards}
    shards[1].unlink()
    jpegs.prepare(source, tmp_path, per_shard=4)
    after = {f: f.stat().st_mtime_ns for f in shards}
    assert [f for f in shards if after[f] != before[f]] == [shards[1]]
    assert everything(tmp_path) == everything(prepared)


def test_other_sources_and_other_shards_are_refused(prepared, source, contents, tmp_path):
    before = everything(prepared)
    with pytest.raises(ValueError, match=r"holds data from another source, or in other shards \(plan.json there"):
        jpegs.prepare(source, prepared, per_shard=8)
    other = {**contents, "train": {**contents["train"], ("n01", "more.jpg"): pictures.jpeg(77)}}
    with pytest.raises(ValueError, match="remove the folder, or give another --data_dir"):
        jpegs.prepare(pictures.in_folders(tmp_path / "other", other), prepared, per_shard=4)
    assert everything(prepared) == before
    (tmp_path / VERSION).mkdir(parents=True)
    (tmp_path / VERSION / "dataset_info.json").touch()
    with pytest.raises(ValueError, match="holds data from another source"):
        jpegs.prepare(source, tmp_path, per_shard=4)


def test_what_a_killed_run_leaves_is_no_other_source(prepared, source, tmp_path):
    """Whether it was killed before the plan was renamed, or within a shard, by this version or the last."""
    folder = tmp_path / VERSION
    folder.mkdir(parents=True)
    for name in (".plan.json.77.new", "plan.incomplete", ".imagenet2012-train.array_record-00000-of-00003.77.new"):
        (folder / name).write_bytes(b"{")
    jpegs.prepare(source, tmp_path, per_shard=4)
    assert everything(tmp_path) == everything(prepared)


def test_a_damaged_plan_or_shard_is_named(prepared, source, tmp_path):
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    shard = next((tmp_path / VERSION).glob("*-validation.array_record*"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(InputError, match=r"validation\.array_record.* is damaged .*remove the file and run"):
        jpegs.prepare(source, tmp_path, per_shard=4)
    shard.unlink()
    for content in (b"", b"[]", b"\xff"):
        (tmp_path / VERSION / "plan.json").write_bytes(content)
        with pytest.raises(InputError, match=r"plan\.json is damaged .*remove the folder"):
            jpegs.prepare(source, tmp_path, per_shard=4)


def test_a_picture_that_changes_after_it_was_listed(contents, tmp_path, monkeypatch):
    source = pictures.in_folders(tmp_path / "source", contents)
    plan = shards.plan

    def change(*arguments):
        for i, change in enumerate((lambda b: b + b"more", lambda b: b[:-1], lambda b: b"")):
            file = source / "train" / "n01" / f"n01_{i}.JPEG"
            file.write_bytes(change(file.read_bytes()))
        return plan(*arguments)

    monkeypatch.setattr(shards, "plan", change)
    with pytest.raises(InputError, match=r"at least 3: (n01/n01_.\.JPEG: cut off, or changed since .*){3}"):
        jpegs.prepare(source, tmp_path, per_shard=100)
    (source / "train" / "n01" / "n01_0.JPEG").unlink()
    monkeypatch.setattr(shards, "plan", plan)
    os.mkfifo(source / "train" / "n01" / "n01_0.JPEG")
    with pytest.raises(InputError, match=r"n01_0\.JPEG is a folder, a pipe or a device"):
        jpegs.prepare(source, tmp_path, per_shard=100)


def test_a_picture_too_large_to_be_one(tmp_path):
    file = tmp_path / "a.JPEG"
    file.touch()
    os.truncate(file, 2**40)  # takes no place on disk
    problem = shards._read(shards.Picture(file, 0, 2**40, "a.JPEG", "n01"))[1]
    assert problem == "1,099,511,627,776 bytes are too many for a picture"


def test_names_that_can_not_be_written(contents, tmp_path):
    source = pictures.in_folders(tmp_path / "source", contents)
    file, odd = (source / "train" / "n01" / os.fsdecode(name) for name in (b"n01_0.JPEG", b"\xff.JPEG"))
    file.rename(odd)
    with pytest.raises(InputError, match=r"train/n01 has files whose names are not UTF-8, such as '\\udcff\.JPEG'"):
        jpegs.prepare(source, tmp_path)
    odd.rename(file)
    for split in ("train", "val"):
        (source / split / "n01").rename(source / split / "n\n1")
    with pytest.raises(InputError, match=r"the class 'n\\n1': a class's name is one line"):
        jpegs.prepare(source, tmp_path)


def test_damaged_pictures_are_named_or_left_out(contents, tmp_path, capsys):
    train = dict(contents["train"])
    train["n02", "n02_0.JPEG"] = train["n02", "n02_0.JPEG"][:-300]
    train["n03", "n03_4.JPEG"] = b"<html>not found</html>"
    damaged = pictures.in_folders(tmp_path / "damaged", {**contents, "train": train})
    with pytest.raises(ValueError, match=r"damaged pictures.* n0.*--skip_damaged") as refused:
        jpegs.prepare(damaged, tmp_path, per_shard=100)
    assert "at least 2" in str(refused.value)
    assert "n02/n02_0.JPEG: OSError: image file is truncated" in str(refused.value)
    assert "n03/n03_4.JPEG: UnidentifiedImageError: cannot identify image file" in str(refused.value)
    # What was refused can be gone on with.
    jpegs.prepare(damaged, tmp_path, per_shard=100, skip_damaged=True)
    out = capsys.readouterr().out
    assert "left out n02/n02_0.JPEG: OSError: image file is truncated" in out
    assert "13 train, 6 validation pictures; 2 damaged ones left out" in out
    del train["n02", "n02_0.JPEG"], train["n03", "n03_4.JPEG"]
    assert read_back(tmp_path, "train") == train


def test_empty_pictures_are_refused_before_anything_is_written(contents, tmp_path):
    train = dict.fromkeys(contents["train"], b"")
    source = pictures.in_folders(tmp_path / "source", {**contents, "train": train})
    with pytest.raises(ValueError, match=r"at least 15: (n0\d/n0\d_\d.JPEG: empty; ){5}\.\.\.\. Get them again"):
        jpegs.prepare(source, tmp_path)
    assert not (tmp_path / VERSION).exists()
    with pytest.raises(ValueError, match="every picture of train is damaged"):
        jpegs.prepare(source, tmp_path, skip_damaged=True)


def without(contents, split):
    return {s: files for s, files in contents.items() if s != split}


def test_folders_that_do_not_fit(contents, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        jpegs.prepare(tmp_path / "nowhere", tmp_path)
    source = pictures.in_folders(tmp_path / "source", without(contents, "validation"))
    with pytest.raises(
        FileNotFoundError, match=r"no validation pictures; looked for validation/CLASS/\*\.JPEG or val/"
    ):
        jpegs.prepare(source, tmp_path)
    pictures.in_folders(source, without(contents, "train"))
    with pytest.raises(ValueError, match="per_shard, the pictures in a file, must be"):
        jpegs.prepare(source, tmp_path, per_shard=0)
    (source / "val" / "n04").mkdir()
    with pytest.raises(ValueError, match=r"other classes in train than in val; in one only: n04 \(1 in all\)"):
        jpegs.prepare(source, tmp_path)
    (source / "train" / "n04").mkdir()
    with pytest.raises(ValueError, match=r"train/n04 is empty; every class needs pictures"):
        jpegs.prepare(source, tmp_path)
    (source / "train" / "n04" / "a.png").touch()
    with pytest.raises(ValueError, match=r"must hold JPEG files .* others: a.png \(1 in all\)"):
        jpegs.prepare(source, tmp_path)
    (source / "val" / "labels.csv").touch()
    with pytest.raises(
        ValueError, match=r"val must hold a folder for each class, and nothing else; it holds labels.csv"
    ):
        jpegs.prepare(source, tmp_path)


def test_archives_that_do_not_fit(contents, tmp_path):
    source, original = pictures.in_archives(tmp_path, contents), pictures.original(contents)
    train, validation = (source / name for name in jpegs.ARCHIVES.values())
    with pytest.raises(ValueError, match="has 3 classes, not the expected 1000"):
        jpegs.prepare(source, tmp_path)
    whole = validation.read_bytes()
    validation.write_bytes(pictures._tar({"a.JPEG": pictures.jpeg(0)}))
    with pytest.raises(ValueError, match=r"ILSVRC2012_img_val.tar has 1 pictures, not 6: it is incomplete"):
        jpegs.prepare(source, tmp_path, original=original)
    validation.write_bytes(whole[:2000])
    with pytest.raises(ValueError, match=r"ILSVRC2012_img_val.tar is damaged at byte .* get it again"):
        jpegs.prepare(source, tmp_path, original=original)
    validation.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has no ILSVRC2012_img_val.tar; needed are ILSVRC2012_img_train.tar and"
    ):
        jpegs.prepare(source, tmp_path, original=original)
    os.truncate(train, train.stat().st_size // 2)
    validation.write_bytes(whole)
    with pytest.raises(ValueError, match=r"ILSVRC2012_img_train.tar (is damaged|has . classes)"):
        jpegs.prepare(source, tmp_path, original=original)

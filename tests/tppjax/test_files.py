"""Files are whole or not there, and a folder survives a kill between any two steps of its replacement."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tppjax
from tppjax import files
from tppjax.errors import InputError


def test_version_and_modules():
    code = "import tppjax; print(tppjax.__version__, tppjax.ann.load, sorted(set(dir(tppjax)) & {'data', 'models'}))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout
    with pytest.raises(AttributeError, match="its modules: activations"):
        tppjax.nothing  # noqa: B018


def test_replacing_keeps_what_was_there_if_writing_fails(tmp_path):
    file = tmp_path / "new" / "file.txt"
    files.write_text(file, "before")

    def fail():
        with files.replacing(file) as new:
            new.write_text("half")
            (tmp_path / "missing").read_text()

    with pytest.raises(FileNotFoundError):
        fail()
    assert file.read_text() == "before"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": NaN}', '{"a": ' + "[" * 100_000, "\xff"])
def test_read_json_refuses(text, tmp_path):
    file = tmp_path / "file.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"file\.json is damaged .*: train again"):
        files.read_json(file, "train again")


def test_write_json_refuses_what_read_json_would(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(tmp_path / "file.json", {"a": float("nan")})
    files.write_json(tmp_path / "file.json", {"a": [1.5]})
    assert files.read_json(tmp_path / "file.json", "") == {"a": [1.5]}


def put(folder: Path, text: str):
    with files.replacing_folder(folder) as new:
        new.mkdir()
        (new / "a").write_text(text)


class Killed(BaseException):
    """Nothing may catch it."""


@pytest.mark.parametrize("after", range(4))
def test_a_folder_is_never_without_a_whole_content(after, tmp_path, monkeypatch):
    folder = tmp_path / "net"
    put(folder, "first")
    rename, count = Path.rename, iter(range(10))

    def killed(self, target):
        if next(count) == after:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    expected = {"first", "second"} if after < 3 else {"second"}
    try:
        put(folder, "second")
    except Killed:
        assert after < 3
    monkeypatch.undo()
    assert (files.whole_folder(folder) / "a").read_text() in expected
    put(folder, "third")
    assert (folder / "a").read_text() == "third"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_link_to_a_folder_stays_one(tmp_path):
    folder, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to("real")
    for text in ("first", "second", "third"):
        put(link, text)
        assert (folder / "a").read_text() == (files.whole_folder(link) / "a").read_text() == text
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, folder]


def test_who_reads_a_folder_waits_for_who_replaces_it(tmp_path):
    folder, seen = tmp_path / "net", []
    put(folder, "first")

    def read():
        with files.reading_folder(folder) as whole:
            seen.append((whole / "a").read_text())

    with files.replacing_folder(folder) as new:
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(0.2)
        assert not seen
        new.mkdir()
        (new / "a").write_text("second")
    reader.join()
    assert seen == ["second"]


def test_locked_makes_others_wait(tmp_path):
    code = """
import json, sys
from pathlib import Path
from tppjax import files
folder = Path(sys.argv[1])
for _ in range(50):
    with files.locked(folder):
        n = json.loads((folder / "n").read_text())
        files.write_text(folder / "n", json.dumps(n + 1))
"""
    (tmp_path / "n").write_text("0")
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parent.parent)}
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment) for _ in range(2)]
    assert [p.wait() for p in both] == [0, 0]
    assert json.loads((tmp_path / "n").read_text()) == 100

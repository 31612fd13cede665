"""What was measured is not lost where two write at once, and damaged files are refused with the file and the place."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import convert
from convert.experiments.results import Results, all_or_none, make_folder
from convert.studies import everything
from tppjax import files
from tppjax.errors import InputError

SETTINGS = {"n": 90, "model": {"name": "resnet20"}}


def measured(n=2, **more):
    return {"accuracy": [90.0] * n, "mean": 90.0, "std": 0.0, "seconds": 1.5, **more}


def opened(folder, settings=SETTINGS, overwrite=False):
    return Results.open(folder, settings, "convert.evaluate", overwrite)


def cases(folder):
    return [(r["mode"], r["T"], len(r["accuracy"])) for r in opened(folder).rows]


def test_two_that_write_at_once_lose_nothing(tmp_path):
    one, two = opened(tmp_path), opened(tmp_path)
    one.ann = 92.5
    one.add({"mode": "tpp", "T": 4}, measured())
    two.add({"mode": "shuffle", "T": 4}, measured())
    two.add({"mode": "tpp", "T": 4}, measured(n=1))  # fewer seeds than there are
    one.add({"mode": "shuffle", "T": 4}, measured(n=3))
    assert cases(tmp_path) == [("tpp", 4, 2), ("shuffle", 4, 3)]
    assert json.loads((tmp_path / "results.json").read_text())["ann"] == 92.5


@pytest.mark.slow
def test_two_processes(tmp_path):
    code = """
import sys
from pathlib import Path
from tests.convert.experiments.test_results import measured, opened
results = opened(Path(sys.argv[1]))
for T in range(1, 16):
    results.add({"mode": sys.argv[2], "T": T}, measured())
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(convert.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path)]
    both = [subprocess.Popen([*command, mode], env=environment) for mode in ("tpp", "shuffle")]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(cases(tmp_path)) == [(mode, T, 2) for mode in ("shuffle", "tpp") for T in range(1, 16)]


def test_settings_that_another_changes_meanwhile(tmp_path):
    one = opened(tmp_path)
    opened(tmp_path, {**SETTINGS, "n": 10}).add({"mode": "tpp", "T": 4}, measured())
    with pytest.raises(FileExistsError, match=r"of other settings, .* n was 10, is 90"):
        one.add({"mode": "tpp", "T": 8}, measured())


def test_a_network_that_was_renamed_keeps_its_results(tmp_path):
    opened(tmp_path).add({"mode": "tpp", "T": 4}, measured())
    renamed = opened(tmp_path, {**SETTINGS, "model": {"name": "mine"}})
    renamed.add({"mode": "tpp", "T": 8}, measured())
    assert cases(tmp_path) == [("tpp", 4, 2), ("tpp", 8, 2)]


def test_overwriting_replaces_what_was_there_in_the_beginning(tmp_path):
    opened(tmp_path, {**SETTINGS, "n": 10}).add({"mode": "tpp", "T": 4}, measured())
    one, two = opened(tmp_path, overwrite=True), opened(tmp_path, overwrite=True)
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 1  # until there is something new
    one.add({"mode": "tpp", "T": 8}, measured())
    two.add({"mode": "shuffle", "T": 8}, measured())
    assert cases(tmp_path) == [("tpp", 8, 2), ("shuffle", 8, 2)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["rows"][1].update(mean=91.0), "it is not as it was written, by its digest"),
        (lambda c: c["rows"][1].update(mean=float("nan")), "ValueError: NaN is not a number"),
        (lambda c: c.pop("rows"), "it is not as it was written, by its digest"),
        (lambda c: c.pop("sha256"), "it is not as it was written, by its digest"),  # as of version 0.1
    ],
)
def test_files_that_were_changed(change, said, tmp_path):
    for T in (4, 8):
        opened(tmp_path).add({"mode": "tpp", "T": T}, measured())
    content = json.loads((tmp_path / "results.json").read_text())
    change(content)
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"results\.json is damaged \({said}\): move it away, or give --overwrite"):
        opened(tmp_path)
    opened(tmp_path, overwrite=True).add({"mode": "tpp", "T": 2}, measured())
    assert cases(tmp_path) == [("tpp", 2, 2)]


def test_what_is_no_file(tmp_path):
    (tmp_path / "results.json").mkdir()
    with pytest.raises(InputError, match="is a folder, a pipe or a device"):
        opened(tmp_path)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file, not a folder: choose another --out"):
        make_folder(tmp_path / "file")
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path / "file" / "out")


def test_pictures_after_a_kill(tmp_path):
    (tmp_path / ".new").mkdir()
    (tmp_path / ".new" / "half.png").touch()
    with all_or_none(tmp_path) as made:
        (made / "a.csv").touch()
    assert {p.name for p in tmp_path.iterdir()} == {".lock", "a.csv"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"asked": 5}, "lacks entries"),
        ({"images": {"accuracy": 100}}, "lacks entries"),
        ({"images": dict.fromkeys(everything.STUDIES, -100)}, "images of accuracy are -100, not 1 to 360"),
        ({"images": dict.fromkeys(everything.STUDIES, "all")}, "images of accuracy are 'all'"),
    ],
)
def test_plans_that_cannot_be(change, said, tmp_path):
    plan = {"asked": {"minutes": 1}, "images": dict.fromkeys(everything.STUDIES, 100)}
    files.write_json(tmp_path / "plan.json", {**plan, **change})
    with pytest.raises(InputError, match=rf"plan\.json is damaged \(.*{said}.*\): move it away"):
        everything._planned_before(tmp_path / "plan.json", 360)

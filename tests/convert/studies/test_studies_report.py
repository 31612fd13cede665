"""`python -m convert.studies`: its report, its files, its refusals, its resuming."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import convert
from convert.experiments.options import Experiment
from convert.studies import __main__ as command
from convert.studies import (
    accuracy,
    anytime,
    everything,
    misalignment,
    orders,
    potentials,
    single_layer,
    spikes,
    study,
)
from tppjax import cli


@pytest.mark.slow
def test_all_and_what_is_left_of_it(setup, tmp_path, monkeypatch):
    """A report with every picture; a second run computes nothing; another plan is refused."""
    for module, kind, options in (
        (accuracy, "Accuracy", {"T": (4,)}),
        (anytime, "Anytime", {"T": (2,)}),
        (orders, "Orders", {"T": 2, "T_pairs": 0}),
        (spikes, "Spikes", {"T": (2,)}),
        (misalignment, "Misalignment", {"T": (4,)}),
        (potentials, "Potentials", {"T": 2, "steps": (1,)}),
    ):  # each as it is, but shorter
        name, whole = kind.lower(), getattr(module, kind)
        short = lambda whole=whole, options=options, **given: whole(**given, **options)  # noqa: E731
        monkeypatch.setitem(everything.STUDIES, name, everything.STUDIES[name]._replace(options=short))
    config = everything.All(**setup, out=tmp_path, minutes=0.5)
    text = everything.main(config)
    plots = re.findall(r"\]\(([^)]+)\)", text)
    assert len(plots) == 8
    assert all((tmp_path / p).read_bytes()[:4] == b"\x89PNG" for p in plots)
    assert (tmp_path / "report.md").read_text() == text
    monkeypatch.setattr(
        "convert.experiments.setup.map_examples", lambda *args, **options: pytest.fail("computed again")
    )
    assert everything.main(config) == text
    with pytest.raises(FileExistsError, match=r"plan.json is for .*'minutes': 0.5.*, not .*'minutes': 3"):
        everything.main(everything.All(**setup, out=tmp_path, minutes=3))


def test_files(setup, tmp_path):
    anytime.main(anytime.Anytime(**setup, modes=("tpp",), T=(2,), limit=20, out=tmp_path))
    out = tmp_path / "anytime"
    assert {p.name for p in out.iterdir()} == {".lock", "results.json", "anytime.csv", "anytime.png", "anytime.md"}
    written = json.loads((out / "results.json").read_text())
    assert written["n"] == 20
    assert written["rows"][0]["versions"].keys() >= {"jax", "tppjax"}
    assert written["rows"][0]["command"].startswith("python -m convert.studies")
    with (out / "anytime.csv").open() as f:
        lines = list(csv.DictReader(f))
    assert [(r["t"], r["seed"]) for r in lines] == [("1", "0"), ("1", "1"), ("2", "0"), ("2", "1")]
    assert float(lines[0]["accuracy"]) == written["rows"][0]["accuracy"][0][0]
    with pytest.raises(FileExistsError, match=r"results of other settings.*n was 20, is 30"):
        anytime.main(anytime.Anytime(**setup, modes=("tpp",), T=(2,), limit=30, out=tmp_path))


@pytest.mark.slow
def test_a_saved_network_has_the_same_rows(setup, tmp_path):
    """As the `Ann` that it was traced from, which the paper's tables could be about."""
    convert.load(setup["ann"]).save(tmp_path / "net")
    rows = {}
    for name in ("ann", "net"):
        of = {"ann": setup["ann"] if name == "ann" else tmp_path / name, "out": tmp_path / f"{name}-studies"}
        section = spikes.main(spikes.Spikes(**{**setup, **of}, modes=("baseline",), T=(2,)))
        (row,) = json.loads((of["out"] / "spikes" / "results.json").read_text())["rows"]
        rows[name] = {key: row[key] for key in ("accuracy", "spikes", "additions")}
    assert rows["net"] == rows["ann"]
    assert section.text.startswith("net on npz (60 test images), ANN ")


@pytest.mark.parametrize(
    ("module", "kind", "options", "message"),
    [
        (anytime, anytime.Anytime, {"T": ()}, "--modes and --T need at least one entry"),
        (orders, orders.Orders, {"T": 6}, "--T is 2 to 5, since all T! orders are tried; got 6"),
        (orders, orders.Orders, {"T_pairs": 3}, "--T_pairs is at least 4"),
        (
            single_layer,
            single_layer.SingleLayer,
            {"T": 0},
            "--T is the number of time steps, a whole number of at least 1",
        ),
        (potentials, potentials.Potentials, {"steps": (0,)}, "--steps lie between 1 and --T 8"),
        (
            potentials,
            potentials.Potentials,
            {"sites": ("act9",)},
            "--sites act9: no such layers; known: conv1_1, conv2_1",
        ),
        (potentials, potentials.Potentials, {"channel": 4}, "--channel 4: not in every layer"),
        (orders, orders.Orders, {"samples": 10**9}, "--samples 1 to 1000"),
        (everything, everything.All, {"minutes": 0.0}, "--minutes must be above 0"),
        (everything, everything.All, {"minutes": float("inf")}, "--minutes must be a finite number"),
        (misalignment, misalignment.Misalignment, {"limit": 0}, "--limit must be at least 1"),
    ],
)
def test_bad_options(setup, tmp_path, module, kind, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        module.main(kind(**{**setup, **options}, out=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["studies", "theorem", "--T", "2", "3", "--draws", "50", "--out", str(tmp_path)])
    cli.run(command.main, command.options())
    out = tmp_path / "theorem"
    assert {p.name for p in out.iterdir()} == {".lock", "results.json", "theorem.csv", "theorem.md", "theorem.png"}
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [r["T"] for r in rows] == [2, 3]
    assert rows[0]["command"] == f"python -m convert.studies theorem --T 2 3 --draws 50 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["studies", "orders", "--ann", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stopped:
        cli.run(command.main, command.options())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: there is no folder")


def test_every_study_takes_the_options_of_all():
    assert all(issubclass(planned.options, Experiment) for planned in everything.STUDIES.values())
    assert sum(planned.share for planned in everything.STUDIES.values()) < 0.85


def test_a_table_and_ranks():
    assert study.table(["a", "b"], [[1, None]]) == "| a | b |\n| --- | --- |\n| 1 |  |"
    assert study.spread([1.0, 3.0]) == "2.00 (1.41)"
    assert study.spread([1.0]) == "1.00"
    assert study.rank_correlation([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)
    assert np.isnan(study.rank_correlation([1, 1], [1, 2]))
    assert np.isnan(study.rank_correlation([], []))


def test_the_page_names_a_command_for_every_figure_and_table():
    page = (Path(__file__).parents[3] / "docs" / "paper.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("|") and "`" in line]
    for kind, numbers in (("figure", range(1, 15)), ("table", range(1, 12))):
        for number in numbers:
            if (kind, number) in (("figure", 2), ("figure", 3)):  # drawings
                continue
            assert any(_names(row.split("|")[1], kind, number) for row in rows), (kind, number)


def _names(cell, kind, number):
    """Whether a cell such as "figures 5 and 6, tables 8 to 10" has the number."""
    for found in re.findall(rf"{kind}s? ((?:\d+(?:, | and | to )?)+)", cell.lower()):
        for part in re.split(r", | and ", found.strip(", ")):
            low, *high = map(int, filter(None, part.split(" to ")))
            if low <= number <= (high or [low])[-1]:
                return True
    return False

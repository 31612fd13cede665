"""`python -m convert.evaluate`: its figures against the networks run by hand, its files, its refusals."""

import csv
import json
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import convert
from convert import evaluate
from convert.evaluate import Evaluate
from convert.experiments.results import Results
from tests.convert import networks
from tppjax import ann, cli, prng
from tppjax.ann import Ann
from tppjax.errors import InputError
from tppjax.neurons import Baseline

all_rows = Results.all_rows
ALL = ("baseline", "shuffle", "tpp", "rounded", "unbiased")


@pytest.fixture(scope="module")
def evaluated(digits_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated")
    return evaluate.main(Evaluate(ann=digits_run, modes=ALL, T=(2, 4), seeds=3, limit=90, out=out)), out


@pytest.mark.slow
def test_figures_are_those_of_the_networks_run_by_hand(evaluated, digits_ann, digits_test):
    results, _ = evaluated
    images = digits_test[:90]
    assert (results["dataset"], results["n"]) == ("digits", 90)
    assert results["ann"] == ann.accuracy(digits_ann, images)
    assert [(r["mode"], r["T"]) for r in results["rows"]] == [(mode, T) for mode in ALL for T in (2, 4)]
    for row in results["rows"]:
        snn = convert.to_snn(digits_ann, row["T"], row["mode"])
        runs = [
            jax.jit(snn.activity)(images.images, jax.random.key(s, impl=prng.HASH))
            for s in range(3 if snn.random else 1)
        ]
        by_hand = [100 * np.mean(np.argmax(logits, -1) == images.labels) for logits, _ in runs]
        # One image may tip over by rounding: batches of other sizes add up in another order.
        np.testing.assert_allclose(row["accuracy"], by_hand, atol=100 / 90 + 1e-6)
        assert row["mean"] == pytest.approx(np.mean(row["accuracy"]))
        assert row["std"] == pytest.approx(np.std(row["accuracy"], ddof=1) if snn.random else 0)
        spikes = np.mean([np.concatenate([c.ravel() for c in counts.values()]).mean() for _, counts in runs])
        assert row["spikes_per_neuron"] == pytest.approx(spikes, rel=1e-3)
        assert row["seconds"] > 0


def test_files(evaluated):
    results, out = evaluated
    reports = {f"report-{mode}.txt" for mode in ALL}
    assert {p.name for p in out.iterdir()} == {".lock", "accuracy.csv", "accuracy.png", "results.json", *reports}
    written = json.loads((out / "results.json").read_text())
    assert len(written.pop("sha256")) == 64
    assert written == results
    assert all(row["command"].startswith("python -m convert.evaluate") for row in results["rows"])
    assert all({"tppjax", "jax"} <= row["versions"].keys() for row in results["rows"])
    with (out / "accuracy.csv").open() as f:
        lines = list(csv.DictReader(f))
    assert len(lines) == sum(len(r["accuracy"]) for r in results["rows"])
    assert float(lines[0]["accuracy"]) == results["rows"][0]["accuracy"][0]
    assert (out / "accuracy.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_mode_has_a_report_at_the_smallest_T(evaluated, digits_ann, digits_test):
    for mode in ALL:
        assert (evaluated[1] / f"report-{mode}.txt").read_text().startswith(f"{mode}: T=2, 90 images")
    report = convert.report(convert.to_snn(digits_ann, 2, "rounded"), digits_test.images[:90])
    assert (evaluated[1] / "report-rounded.txt").read_text() == f"rounded: {report}\n"


def test_a_long_mode_has_a_file_name_that_is_short_and_its_own():
    orders = (f"ordered(order={order})".replace(" ", "") for order in (tuple(range(128)), (*range(126), 127, 126)))
    first, second = map(evaluate._file_name, orders)
    assert first != second
    assert max(len(first), len(second)) <= 100


def test_a_report_is_that_of_the_smallest_T_in_the_folder(digits_run, tmp_path):
    report = tmp_path / "report-rounded.txt"
    for T, reported in ((8, 8), (4, 4), (16, 4)):
        evaluate.main(Evaluate(ann=digits_run, modes=("rounded", "rounded"), T=(T, T), limit=10, out=tmp_path))
        assert report.read_text().startswith(f"rounded: T={reported}, ")
    report.write_text("rounded: T=16, 10 images\n")  # of an earlier version
    results = evaluate.main(Evaluate(ann=digits_run, modes=("rounded",), T=(4,), limit=10, out=tmp_path))
    assert report.read_text().startswith("rounded: T=4, ")
    assert [r["T"] for r in results["rows"]] == [4, 8, 16]


def test_seeds_are_reproduced_whatever_the_batch(evaluated, digits_ann, digits_test):
    results, _ = evaluated
    row = next(r for r in results["rows"] if (r["mode"], r["T"]) == ("tpp", 4))
    again = evaluate.row(convert.to_snn(digits_ann, 4, "tpp"), digits_test[:90], seeds=3, batch_size=7)
    np.testing.assert_allclose(again["accuracy"], row["accuracy"], atol=100 / 90 + 1e-6)
    assert again["spikes_per_neuron"] == pytest.approx(row["spikes_per_neuron"], rel=1e-3)


def test_table():
    rows = [
        {"mode": "tpp", "T": 4, "accuracy": [80.0, 82.0], "mean": 81.0, "std": 1.4142},
        {"mode": "tpp", "T": 8, "accuracy": [90.0, 90.0], "mean": 90.0, "std": 0.0},
        {"mode": "rounded", "T": 4, "accuracy": [85.0], "mean": 85.0, "std": 0.0},
        {"mode": "rounded", "T": 8, "accuracy": [91.0], "mean": 91.0, "std": 0.0},
    ]
    results = {"dataset": "cifar10", "n": 100, "ann": 92.0, "rows": rows}
    published = [{"table": "7", "ann": 92.43, "accuracy": {4: 86.24}}, {"table": "2", "ann": None, "accuracy": {8: 92}}]
    text = evaluate.table(results, {"tpp": published, "rounded": []})
    assert [line.split() for line in text.splitlines()[1:]] == [
        ["T=4", "T=8"],
        ["tpp", "81.00", "(1.41)", "90.00", "(0.00)"],
        ["paper", "86.24", "(table", "7,", "ANN", "92.43", "%)"],
        ["paper", "92.00", "(table", "2)"],
        ["rounded", "85.00", "91.00"],
    ]
    assert "100 test images, ANN 92.00 %" in text
    assert "over 2 seeds" in text


def test_images_of_another_data_set(digits_run, digits_test, tmp_path):
    arrays = {"x": digits_test.images[:30], "y": np.arange(30) % 10}
    np.savez(tmp_path / "a.npz", **{f"{k}_{split}": v for k, v in arrays.items() for split in ("train", "test")})
    options = {"modes": ("rounded",), "T": (2,), "out": tmp_path / "out"}
    results = evaluate.main(Evaluate(ann=digits_run, dataset="npz", data_dir=tmp_path / "a.npz", **options))
    assert (results["dataset"], results["n"]) == ("npz", 30)


def turned(network: Ann) -> convert.Network:
    """The same with its input as PyTorch has it, [B, C, H, W], and without preprocessing."""
    fn = lambda variables, x: network.model.apply(variables, jnp.moveaxis(x, -3, -1))  # noqa: E731
    height, width, channels = network.preprocessing.input_shape
    return convert.trace((fn, network.variables), jnp.zeros((1, channels, height, width)))


@pytest.mark.slow
def test_a_saved_network_has_the_same_figures(digits_run, digits_ann, tmp_path):
    """As the `Ann` that it was traced from; with its channels first and without preprocessing too."""
    convert.trace(digits_ann).save(tmp_path / "net")
    turned(digits_ann).save(tmp_path / "turned")
    info, said = digits_ann.preprocessing, {}
    bare = {"dataset": "digits", "mean": info.mean, "std": info.std}
    for name, options in (("run", {"ann": digits_run}), ("net", {}), ("turned", bare)):
        options = {"ann": tmp_path / name, "modes": ("tpp",), "T": (4,), "seeds": 2, "limit": 90, **options}
        results = evaluate.main(Evaluate(**options, out=tmp_path / f"{name}-snn"))
        said[name] = results["ann"], results["rows"][0]["accuracy"]
        called = ("vgg_small", "QCFS") if name == "run" else (name, "qcfs")
        assert tuple(results["model"].values()) == called
    assert said["net"] == said["run"]
    np.testing.assert_allclose(said["turned"][0], said["run"][0], atol=100 / 90 + 1e-6)
    assert (tmp_path / "turned-snn" / "report-tpp.txt").is_file()


def test_a_saved_network_that_does_not_say_enough(digits_ann, tmp_path):
    bare = turned(digits_ann)
    info = digits_ann.preprocessing
    bare.save(tmp_path / "bare")
    given = {"dataset": "digits", "mean": info.mean, "std": info.std}
    wrong = bare.replace(preprocessing=info)
    wrong.save(tmp_path / "wrong")
    convert.trace(digits_ann).save(tmp_path / "net")
    networks.mlp().save(tmp_path / "images")
    vectors = convert.trace((lambda w, x: jax.nn.relu(x @ w) @ w, np.eye(4, dtype=np.float32)), np.zeros((1, 4), "f4"))
    vectors.save(tmp_path / "vectors")
    tree = lambda v, x: {"logits": digits_ann.model.apply(v, x)}  # noqa: E731
    convert.trace((tree, digits_ann.variables), jnp.zeros((1, 8, 8, 1))).save(tmp_path / "tree")
    for name, options, message in (
        ("bare", {}, "was saved without preprocessing: give --dataset, --mean and --std, or save it again by network"),
        ("bare", {"dataset": "digits", "mean": (0.5,)}, "without preprocessing: give"),
        ("bare", given | {"std": (1.0, 2.0)}, "std is a number for each of 1 channels"),
        ("net", given, "--mean and --std are for networks without preprocessing"),
        ("wrong", {}, r"takes inputs of shape \(1, 8, 8\), and its preprocessing gives \(8, 8, 1\)"),
        ("images", given, r"takes inputs of shape \(2, 2, 2\), and its preprocessing gives \(8, 8, 1\)"),
        ("vectors", given, r"takes inputs of shape \(4,\), and commands give images .* convert\.to_snn takes any"),
        (
            "tree",
            given,
            r"returns \{'logits': \(10,\)\} for an image; .* each of its 10 classes",
        ),
    ):
        with pytest.raises(InputError, match=message):
            evaluate.main(Evaluate(ann=tmp_path / name, out=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_pictures_in_folders(digits_run, digits_test, tmp_path):
    """For a network whose classes have their names, and for one that was saved without preprocessing."""
    for split in ("train", "test"):
        for i, (pixels, label) in enumerate(zip(digits_test.images[:30], digits_test.labels, strict=False)):
            file = tmp_path / "digits" / split / str(label) / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[..., 0]).save(file)
    options = {"dataset": "folder", "data_dir": tmp_path / "digits", "modes": ("rounded",), "T": (4,)}
    results = evaluate.main(Evaluate(**{"ann": digits_run, "out": tmp_path / "out", **options}))
    network = ann.load(digits_run)
    assert (results["n"], results["ann"]) == (30, pytest.approx(ann.accuracy(network, digits_test[:30])))
    turned(network).save(tmp_path / "turned")
    given = {"mean": network.preprocessing.mean, "std": network.preprocessing.std}
    again = evaluate.main(Evaluate(ann=tmp_path / "turned", **options, **given))
    assert again["ann"] == results["ann"]
    assert again["rows"][0]["accuracy"] == results["rows"][0]["accuracy"]


def test_fields_reach_the_neurons(digits_run, digits_ann, digits_test, tmp_path):
    """However they are written; each has its row, and its report a name that a file can have."""
    options = {"T": (4,), "limit": 90, "out": tmp_path / "out"}
    modes = ("baseline( v_init = .25 )", "baseline(shift=0.5)")
    results = evaluate.main(Evaluate(ann=digits_run, modes=modes, **options))
    wanted = {"baseline(v_init=0.25)": Baseline(v_init=0.25), "baseline(shift=0.5)": Baseline(shift=0.5)}
    assert {r["mode"] for r in results["rows"]} == wanted.keys()
    for r in results["rows"]:
        by_hand = evaluate.row(convert.to_snn(digits_ann, 4, wanted[r["mode"]]), digits_test[:90], 1, 250)
        assert r["accuracy"] == by_hand["accuracy"]
        assert r["spikes_per_neuron"] == by_hand["spikes_per_neuron"]
    assert (tmp_path / "out" / "report-baseline-v_init=0.25.txt").is_file()


def test_every_mode_is_checked_before_the_first_runs(digits_ann, tmp_path, monkeypatch):
    pooled = digits_ann.replace(model=digits_ann.model.clone(pool="max"))
    ann.save(pooled, tmp_path / "pooled")
    network = convert.trace(digits_ann)
    site, by_step = next(iter(network.sites)), np.zeros((4, 1), np.float32)
    network.replace(offsets={site: np.broadcast_to(by_step, (4, network.sites[site].channels))}).save(
        tmp_path / "by_step"
    )
    ann.save(pooled.replace(preprocessing=replace(pooled.preprocessing, dataset="faces")), tmp_path / "faces")
    monkeypatch.setattr(evaluate, "row", lambda *_: pytest.fail("began"))
    for name, options, message in (
        ("pooled", {"modes": ("rounded", "baseline")}, "mode baseline can't have the max-pool at conv1_2"),
        (
            "pooled",
            {"modes": ("rounded",), "calibrate": "mse"},
            "with qcfs already has its thresholds: there is nothing to calibrate",
        ),
        ("by_step", {"modes": ("baseline",), "T": (4, 8)}, f"{site} was corrected step by step for T=4; got T=8"),
        ("by_step", {"T": (4,), "correct": "bias"}, "which 'bias' would undo"),
        ("pooled", {"modes": ("ordered(order=(1,0))",), "T": (2, 4)}, "order"),
        ("faces", {}, r"is for faces, which is not one .* --dataset npz --data_dir FILE\.npz"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.main(Evaluate(ann=tmp_path / name, out=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "--seeds must be at least 1; got 0"),
        ({"limit": 0}, "--limit must be at least 1; got 0"),
        ({"batch_size": -1}, "--batch_size must be at least 1"),
        ({"limit": 10**30}, "--limit must be at most 2147483647"),
        ({"calibration_images": 0}, "--calibration_images must be at least 1"),
        ({"percentile": float("nan")}, "--percentile must be a finite number; got nan"),
        ({"percentile": 100.5}, "--percentile must be at most 100"),
        ({"modes": ("tpp", "poisson")}, "unknown mode 'poisson'; known: baseline, .*, and package.module:Name"),
        ({"modes": ("burst(gamma=0)",)}, "gamma must be a whole number of at least 1; got 0"),
        ({"T": (4, 0)}, "--T is the number of time steps, a whole number of at least 1 and at most 4096; got 0"),
        ({"T": (10**30,)}, "--T is the number of time steps"),
        ({"T": ()}, "need at least one entry"),
        ({"per": "layer"}, "--per is for thresholds that --calibrate chooses"),
        (
            {"dataset": "cifar10"},
            r"cifar10 has images of \(32, 32, 3\) and .*digits takes images of",
        ),
        ({"ann": "runs/digits"}, r"ann must be a pathlib.Path: give ann=Path\('runs/digits'\)"),
        ({"dataset": "mnist"}, "unknown data set 'mnist'; known: cifar10"),
    ],
)
def test_options_are_refused_before_anything_is_done(digits_run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate.main(Evaluate(**{"ann": digits_run, "out": tmp_path / "out", **options}))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_computed(digits_run, tmp_path, monkeypatch):
    monkeypatch.setattr(ann, "accuracy", lambda *_: pytest.fail("began"))
    (tmp_path / "file").touch()
    for out, said in ((tmp_path / "file", "is a file, not a folder"), (tmp_path / "file" / "out", "Not a directory")):
        with pytest.raises(OSError, match=said):
            evaluate.main(Evaluate(ann=digits_run, out=out, limit=10))


def test_a_run_cut_short_computes_only_the_rest(digits_run, tmp_path, monkeypatch):
    asked = Evaluate(ann=digits_run, modes=("rounded", "tpp"), T=(2, 4), seeds=2, limit=30, out=tmp_path / "out")
    measured, row = [], evaluate.row

    def cut_short(snn, *args):
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append((snn.mode, snn.T))
        return row(snn, *args)

    monkeypatch.setattr(evaluate, "row", cut_short)
    with pytest.raises(KeyboardInterrupt):
        evaluate.main(asked)
    before = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [(r["mode"], r["T"]) for r in before] == measured == [("rounded", 2), ("rounded", 4)]
    measured.clear()
    results = evaluate.main(asked)
    assert measured == [("tpp", 2), ("tpp", 4)]
    assert [r for r in results["rows"] if r["mode"] == "rounded"] == before
    measured.clear()
    fewer = evaluate.main(replace(asked, modes=("tpp",), T=(4,), seeds=1))
    assert fewer["rows"] == results["rows"]
    assert measured == []
    monkeypatch.setattr(evaluate, "row", row)
    more = evaluate.main(replace(asked, modes=("tpp",), T=(4,), seeds=3))["rows"]
    assert [(r["mode"], r["T"], len(r["accuracy"])) for r in more] == [
        *(("tpp", T, n) for T, n in ((2, 2), (4, 3))),
        *(("rounded", T, 1) for T in (2, 4)),
    ]
    assert more[1]["accuracy"][:2] == results["rows"][1]["accuracy"]


def test_rows_that_another_process_adds_meanwhile_are_in_the_table(digits_run, tmp_path, monkeypatch):
    row, opened = evaluate.row, []

    def at_the_same_time(snn, *args):
        there = opened[0]
        other = {"accuracy": [50.0], "mean": 50.0, "std": 0.0, "seconds": 1.0}
        Results.open(there.folder, there.settings, there.program).add({"mode": "tpp", "T": 2}, other)
        return row(snn, *args)

    monkeypatch.setattr(evaluate, "row", at_the_same_time)
    monkeypatch.setattr(evaluate.Results, "all_rows", lambda self: opened.append(self) or all_rows(self))
    results = evaluate.main(Evaluate(ann=digits_run, modes=("rounded",), T=(2,), limit=10, out=tmp_path))
    assert [(r["mode"], r["T"]) for r in results["rows"]] == [("tpp", 2), ("rounded", 2)]
    assert "tpp,2,0,50.0" in (tmp_path / "accuracy.csv").read_text()


def test_results_of_other_settings_are_not_mixed_or_lost(evaluated, digits_run):
    _, out = evaluated
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    other = Evaluate(ann=digits_run, modes=("rounded",), T=(2,), limit=10, correct="bias", out=out)
    refused = r"of other settings, .* --out or give --overwrite: .*conversion\.correct was None, is bias; .*n was"
    with pytest.raises(FileExistsError, match=refused):
        evaluate.main(other)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_results_are_overwritten_or_refused(digits_run, tmp_path):
    asked = Evaluate(ann=digits_run, modes=("rounded",), T=(2,), limit=10, out=tmp_path)
    evaluate.main(asked)
    assert evaluate.main(replace(asked, T=(4,), limit=20, overwrite=True))["n"] == 20
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"results\.json is damaged .* move it away, or give --overwrite"):
        evaluate.main(asked)


def test_as_a_command_without_a_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["convert.evaluate", "--ann", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as stopped:
        cli.run(evaluate.main, Evaluate)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: there is no folder {tmp_path / 'nowhere'}\n"

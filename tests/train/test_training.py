"""Training runs: they learn, they continue bit for bit, and they lose nothing."""

import contextlib
import json
import shutil
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from configs.cifar import Cifar, recipe
from configs.digits import Digits
from tests.tppjax.data.test_cifar import make_archive
from tppjax import ann, cli, data, models, sharding
from tppjax.activations import QCFS
from tppjax.data import Images
from tppjax.data import cifar as cifar_data
from tppjax.errors import InputError, Stopped
from train import cifar, digits, input_pipeline, loop
from train.run import Run, stop_requests

SMALL = Digits(limit_train=256, epochs=3, L=4)
IMAGES = Images(np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int32))


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_it_learns(digits_run, digits_ann, digits_test):
    metrics = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    assert [m["epoch"] for m in metrics] == [1, 2, 3, 4]
    assert metrics[-1]["loss"] < 0.5 * metrics[0]["loss"]
    assert ann.accuracy(digits_ann, digits_test) > 90
    thetas = [float(theta) for theta in ann.thresholds(digits_ann.variables).values()]
    best = max(metrics, key=lambda m: m["validation"])  # the first of equals
    assert best["theta"] == pytest.approx(np.median(thetas))
    assert len({m["theta"] for m in metrics}) == 4  # they move


def test_of_equal_epochs_the_first_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(ann, "accuracy", lambda network, images: 100 * 132 / 137)  # a little less in float32
    digits.main(replace(SMALL, out=tmp_path / "run"))
    first, *later = (json.loads(line)["theta"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines())
    thetas = [float(theta) for theta in ann.thresholds(ann.load(tmp_path / "run").variables).values()]
    assert np.median(thetas) == pytest.approx(first)
    assert first not in later


def test_the_network_kept_is_that_of_the_best_epoch(digits_run, digits_ann):
    config = Digits()
    _, held_out = loop.split(data.load("digits", "train"), config)
    score = ann.accuracy(digits_ann, held_out)
    metrics = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    assert score == max(m["validation"] for m in metrics)


class Killed(Exception):
    pass


@pytest.mark.parametrize("where", ["checkpoint", pytest.param("log", marks=pytest.mark.slow)])
def test_a_resumed_run_ends_bit_for_bit_where_the_uninterrupted_one_does(tmp_path, monkeypatch, where):
    """Killed before the second epoch's checkpoint, or before its line in metrics.jsonl."""
    whole = digits.main(replace(SMALL, out=tmp_path / "whole"))
    original = getattr(loop.Run, where)
    steps = SMALL.limit_train // SMALL.batch_size

    def killed(run, first, **metrics):
        if (first if where == "log" else int(first.step)) == 2 * (1 if where == "log" else steps):
            raise Killed
        original(run, first, **metrics)

    monkeypatch.setattr(loop.Run, where, killed)
    with pytest.raises(Killed):
        digits.main(replace(SMALL, out=tmp_path / "cut"))
    monkeypatch.undo()
    resumed = digits.main(replace(SMALL, out=tmp_path / "cut", resume=True))
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, whole.variables)
    lines = {name: (tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")}
    without_time = {k: [{**json.loads(line), "seconds": 0} for line in v] for k, v in lines.items()}
    assert without_time["whole"] == without_time["cut"]
    # A finished run that is resumed has nothing left to do.
    before = files(tmp_path / "cut")
    digits.main(replace(SMALL, out=tmp_path / "cut", resume=True))
    assert files(tmp_path / "cut") == before


@pytest.mark.slow
def test_checkpoints_may_be_rarer_than_epochs_but_a_stop_always_leaves_one(tmp_path, monkeypatch):
    config = replace(SMALL, out=tmp_path / "run", epochs=5, checkpoint_every=8)  # steps, of which an epoch has four
    written, checkpoint, log = [], Run.checkpoint, Run.log

    def recorded(run, state):
        written.append(int(state.step))
        checkpoint(run, state)

    def signalled(run, epoch, **metrics):
        log(run, epoch, **metrics)
        if epoch == 1:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Run, "checkpoint", recorded)
    monkeypatch.setattr(Run, "log", signalled)
    with pytest.raises(Stopped, match="stopped after epoch 1"):
        digits.main(config)
    digits.main(replace(config, resume=True))
    assert written == [4, 8, 16, 20]
    assert [json.loads(line)["epoch"] for line in (config.out / "metrics.jsonl").read_text().splitlines()] == [
        *range(1, 6)
    ]


def test_runs_are_not_mixed_up_or_lost(digits_run, tmp_path, capsys):
    before = files(digits_run)
    with pytest.raises(FileExistsError, match="not empty: choose another --out, or --resume or --overwrite"):
        digits.main(Digits(out=digits_run))
    with pytest.raises(ValueError, match=r"the run in .* was started: L was 8, is 4; epochs was 4, is 30"):
        digits.main(Digits(out=digits_run, L=4, resume=True))
    with pytest.raises(FileNotFoundError, match=r"nothing to resume: .* holds no training run"):
        digits.main(Digits(out=tmp_path, resume=True))
    assert files(digits_run) == before
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("x")
    digits.main(replace(SMALL, out=tmp_path / "run", epochs=1, overwrite=True))
    assert (tmp_path / "run.previous" / "precious").read_text() == "x"
    assert "run.previous" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="which is not a run: move that away"):
        digits.main(replace(SMALL, out=tmp_path / "run", epochs=1, overwrite=True))
    assert (tmp_path / "run.previous" / "precious").read_text() == "x"


@pytest.mark.slow
def test_metrics_of_a_run_killed_before_its_first_checkpoint_begin_anew(tmp_path):
    config = replace(SMALL, out=tmp_path / "run", epochs=1)
    digits.main(config)
    shutil.rmtree(config.out / "checkpoints")
    with (config.out / "metrics.jsonl").open("a") as f:
        f.write('{"epoch": 2, "lo')  # torn by the kill
    digits.main(replace(config, resume=True))
    assert [json.loads(line)["epoch"] for line in (config.out / "metrics.jsonl").read_text().splitlines()] == [1]


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_training_after_the_step_and_resume_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys, signum):
    config = replace(SMALL, epochs=2)
    whole = digits.main(replace(config, out=tmp_path / "whole"))
    calls, split = iter(range(1000)), sharding.split

    def signalled(array, mesh):
        if next(calls) == 5:  # before the sixth step of four an epoch
            signal.raise_signal(signum)
        return split(array, mesh)

    monkeypatch.setattr(sharding, "split", signalled)
    options = "--limit_train 256 --epochs 2 --L 4 --out".split()
    monkeypatch.setattr(sys, "argv", ["train.digits", *options, str(tmp_path / "cut")])
    with pytest.raises(SystemExit) as stopped:
        cli.run(digits.main, Digits)
    monkeypatch.undo()
    assert stopped.value.code == 128 + signum
    expected = "stopped after step 2 of epoch 2: the same command with --resume continues from there\n"
    assert capsys.readouterr().err == expected
    resumed = digits.main(replace(config, out=tmp_path / "cut", resume=True))
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, whole.variables)


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    config = replace(SMALL, out=tmp_path / "run")
    with Run.open(config, IMAGES):
        for again in (replace(config, resume=True), replace(config, overwrite=True), config):
            with pytest.raises(InputError, match="another process trains in"), Run.open(again, IMAGES):
                pass
    with Run.open(replace(config, resume=True), IMAGES):
        pass


def test_a_run_is_not_continued_on_other_images(tmp_path):
    config = replace(SMALL, out=tmp_path / "run")
    with Run.open(config, IMAGES):
        pass
    others = Images(255 - IMAGES.images, IMAGES.labels)
    refused = rf"the options and images .*: images was {IMAGES.digest()}, is {others.digest()}"
    with pytest.raises(InputError, match=refused), Run.open(replace(config, resume=True), others):
        pass


def test_what_a_kill_leaves_before_a_run_has_begun_is_in_nobodys_way(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / ".config.json.77.new").write_text("{")
    with Run.open(replace(SMALL, out=tmp_path / "run"), IMAGES):
        assert (tmp_path / "run" / "config.json").is_file()


def test_a_signal_that_is_ignored_on_purpose_stays_so():
    usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop() is None
    finally:
        signal.signal(signal.SIGINT, usual)


def test_a_second_signal_acts_at_once():
    with stop_requests() as stop:
        assert stop() is None
        signal.raise_signal(signal.SIGINT)
        assert stop() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("relu", "(after|no longer finite in) epoch 2.*"),
        ("qcfs", "theta has a .* not (positive, |finite)"),
    ],
)
def test_a_run_that_diverges_ends(act, said, tmp_path):
    config = replace(SMALL, out=tmp_path / "run", act=act, L=4 if act == "qcfs" else None, lr=1e3)
    with pytest.raises(InputError, match=f"{said}.*: give a lower --lr; the epoch is not kept"):
        digits.main(config)
    with contextlib.suppress(FileNotFoundError):
        ann.load(config.out)  # the first epoch's network is whole, if it was kept


def test_a_resumed_run_checks_its_loss_as_often():
    config, every, seen = replace(SMALL, batch_size=1), loop.CHECKED_EVERY, []

    def feed(state, indices, first, key, seed):
        for done in range(first + every, len(indices) + 1, every):
            seen.append(done)
            yield done, state.replace(sums=jnp.array([jnp.nan, 0]))

    state = loop.State({}, (), step=3, sums=jnp.zeros(2), best=0)
    with pytest.raises(InputError, match="no longer finite in epoch 1"):
        loop.one_epoch(feed, state, 0, 4 * every, 4 * every, SimpleNamespace(config=config), lambda: None)
    assert seen == [3 + every]


def test_a_damaged_checkpoint_is_not_continued(tmp_path):
    config = replace(SMALL, out=tmp_path / "run", epochs=1)
    digits.main(config)
    for file in sorted((config.out / "checkpoints").rglob("d/*")):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint 4 in .* is damaged.*: start again with --overwrite"):
        digits.main(replace(config, resume=True))


def test_a_step_as_the_command_runs_it_costs_what_the_step_costs(digits_ann):
    """On CPUs XLA computes a convolution's gradient some 10 times slower in a loop, even one of length 1."""
    images, mesh = data.load("digits", "train"), sharding.device_mesh()
    tx, indices = loop.optimizer(SMALL, 10), np.arange(640).reshape(10, 64)
    step = partial(loop.train_step, digits_ann, tx, lambda x, key: x, SMALL)
    feed, plain = input_pipeline.resident(step, images, mesh), jax.jit(step)

    def begun():
        variables = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), digits_ann.variables)  # steps donate theirs
        return loop.initial_state(digits_ann.replace(variables=variables), tx)

    def as_command():
        for _, state in feed(sharding.replicate(begun(), mesh), indices, 0, jax.random.key(0), (0, 0)):
            jax.block_until_ready(state)

    def as_step():
        state = begun()
        for row in indices:
            state = jax.block_until_ready(plain(state, images.images[row], images.labels[row], jax.random.key(0)))

    def seconds(fn):
        started = time.perf_counter()
        fn()
        return time.perf_counter() - started

    seconds(as_command), seconds(as_step)  # compile
    command, alone = (min(seconds(fn) for _ in range(3)) for fn in (as_command, as_step))
    assert command < 4 * alone


def test_damaged_and_foreign_checkpoints(tmp_path):
    config = replace(SMALL, out=tmp_path / "run", epochs=1)
    digits.main(config)
    described = json.loads((config.out / "config.json").read_text())
    (config.out / "config.json").write_text(json.dumps({**described, "act": "relu", "L": None}))
    with pytest.raises(ValueError, match="is damaged or of another network"):
        digits.main(replace(config, act="relu", L=None, resume=True))


@pytest.mark.parametrize("config", [Digits(limit_train=10), Digits(validation=1430)])
def test_too_few_images(config, tmp_path):
    with pytest.raises(ValueError, match="which must be at least --batch_size 64"):
        digits.main(replace(config, out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"L": 0}, "--L must be above 0; got 0"),
        ({"act": "clipped_relu", "bound": -1.0}, "--bound must be above 0; got -1.0"),
        ({"lr": float("nan")}, "--lr must be a finite number; got nan"),
        ({"epochs": 0}, "--epochs must be above 0"),
        ({"batch_size": 0}, "--batch_size must be above 0"),
        ({"validation": 0}, "--validation must be above 0"),
        ({"limit_train": -100}, "--limit_train must be above 0"),
        ({"momentum": -0.1}, "--momentum must be at least 0"),
        ({"theta_init": 0.0}, "--theta_init must be above 0; got 0.0"),
        ({"act": "relu", "theta_init": 8.0}, "--theta_init is an option of --act qcfs; got --act relu"),
        ({"act": "relu", "L": 8}, "--L is an option of --act qcfs; got --act relu"),
        ({"out": "runs/digits"}, r"out must be a pathlib.Path: give out=Path\('runs/digits'\)"),
        ({"bound": 3.0}, "--bound is an option of --act clipped_relu; got --act qcfs"),
    ],
)
def test_options_out_of_range(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        digits.main(Digits(**{"out": tmp_path / "run", **options}))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_epoch_as_one_scan_is_the_epoch_step_by_step(tmp_path, monkeypatch):
    """What accelerators run, where a run on CPUs calls each step."""
    config = replace(SMALL, epochs=2)
    by_step = digits.main(replace(config, out=tmp_path / "by_step"))
    monkeypatch.setattr(sharding, "loops_are_fast", lambda mesh: True)
    at_once = digits.main(replace(config, out=tmp_path / "at_once"))
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), at_once.variables, by_step.variables)
    lines = [json.loads(line) for line in (tmp_path / "at_once" / "metrics.jsonl").read_text().splitlines()]
    assert 0 < lines[1]["loss"] < lines[0]["loss"]


def one_step(network, **options):
    """The program of one training step, and what it makes of 64 digits."""
    tx = loop.optimizer(SMALL, 3)
    state = loop.initial_state(network, tx)
    images = data.load("digits", "train")[:64]
    step = partial(loop.train_step, network, tx, lambda x, key: x, replace(SMALL, **options))
    args = state, images.images, images.labels, jax.random.key(0)
    return jax.make_jaxpr(step)(*args), jax.jit(step)(*args)


@pytest.mark.slow
def test_bfloat16_multiplies_but_nothing_else_is_rounded(digits_ann):
    (_, exact), (program, after) = (one_step(digits_ann, dtype=dtype) for dtype in ("float32", "bfloat16"))
    products = {"conv_general_dilated", "dot_general"}
    kinds = {
        (e.primitive.name, e.invars[0].aval.dtype.name) for e in program.jaxpr.eqns if e.primitive.name in products
    }
    assert kinds == {(name, "bfloat16") for name in products}
    assert {leaf.dtype for leaf in jax.tree.leaves(after.variables)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(after.sums[0], exact.sums[0], rtol=0.1)
    assert not np.array_equal(after.sums[0], exact.sums[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet20", {}), ("vgg16", {"hidden": ()}), ("regnetx_4gf", {"widths": (8, 8, 8, 8), "group": 4, "stem": 4})],
)
@pytest.mark.slow
def test_with_remat_the_backward_pass_keeps_less_and_gives_the_same(name, options):
    model = models.create(name, 10, QCFS(), **options)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    network = ann.Ann(variables, model, data.info("cifar10"))
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)

    def kept(remat):
        config = replace(SMALL, remat=remat)
        backward = jax.eval_shape(
            lambda v: jax.vjp(lambda v: loop.forward(network, config, v, pixels), v)[1], variables
        )
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    weights = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert kept(True) - weights < 0.25 * (kept(False) - weights)


@pytest.mark.slow
def test_remat_changes_no_step(digits_ann):
    (_, plain), (_, again) = (one_step(digits_ann, remat=remat) for remat in (False, True))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), plain.variables, again.variables)


@pytest.mark.slow
def test_bfloat16_trains(tmp_path, digits_ann, digits_test):
    network = digits.main(Digits(out=tmp_path / "run", epochs=4, L=8, dtype="bfloat16"))
    assert network.model == digits_ann.model  # a network like any other
    assert ann.accuracy(network, digits_test) > 90


@pytest.mark.parametrize("act", ["clipped_relu", "relu"])
def test_other_activations_train(act, tmp_path):
    network = digits.main(Digits(out=tmp_path / "run", act=act, limit_train=64, epochs=1))
    thetas = [float(theta) for theta in ann.thresholds(network.variables).values()]
    assert thetas == ([2.0] * 4 if act == "clipped_relu" else [])  # the bound stays, weight decay or not


@pytest.mark.slow
def test_cifar_trains_on_tfds_data(tmp_path):
    """`python -m train.cifar --limit_train`, on a made data set of 200 images."""
    original, _ = make_archive(tmp_path / "a.tar.gz", "cifar10", per_file=40)
    cifar_data.prepare("cifar10", tmp_path, tmp_path / "a.tar.gz", original)
    config = Cifar(out=tmp_path / "run", data_dir=tmp_path, epochs=1, batch_size=32, validation=8, limit_train=32)
    network = cifar.main(replace(config, autoaugment=True))
    assert network.model.name == "resnet20"
    assert network.preprocessing.dataset == "cifar10"
    assert len(ann.thresholds(network.variables)) == 19


@pytest.mark.parametrize(
    ("config", "L", "lr"),
    [
        (Cifar("x"), 8, 0.1),
        (Cifar("x", arch="vgg16"), 4, 0.1),
        (Cifar("x", dataset="cifar100", L=6), 6, 0.05),
        (Cifar("x", lr=0.02), 8, 0.02),
    ],
)
def test_recipes_fill_in_what_depends_on_the_network(config, L, lr):
    filled = recipe(config)
    assert (filled.L, filled.lr, filled.epochs, filled.weight_decay) == (L, lr, 300, 5e-4)


def test_a_network_to_begin_with_keeps_its_architecture():
    given = models.create("resnet32", 10, QCFS(), shortcut="pad")
    filled = recipe(Cifar("x", init_from=Path("there")), given)
    assert (filled.arch, filled.shortcut, filled.width, filled.hidden, filled.L) == ("resnet32", "pad", 1, None, 8)
    given = models.create("vgg16", 10, QCFS(), hidden=())
    filled = recipe(Cifar("x", init_from=Path("there"), hidden=()), given)
    assert (filled.arch, filled.hidden, filled.L, filled.width) == ("vgg16", (), 4, None)
    with pytest.raises(ValueError, match="the network in --init_from there has arch=vgg16; got --arch resnet20"):
        recipe(Cifar("x", arch="resnet20", init_from=Path("there")), given)
    with pytest.raises(ValueError, match="vgg16 has width=None; got --width 4"):
        recipe(Cifar("x", arch="vgg16", width=4))


def test_commands_answer_bad_input_with_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.cifar", "--data_dir", str(tmp_path), "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stopped:
        cli.run(cifar.main, Cifar)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: no cifar10 in {tmp_path}")
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [Cifar, Digits])
def test_help_explains_every_option(options, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    with pytest.raises(SystemExit):
        cli.run(None, options)
    text = capsys.readouterr().out
    for field in options.__dataclass_fields__:
        assert f"--{field}" in text.replace("-", "_").replace("__", "--"), field
    assert "(default" in text


@pytest.mark.slow
def test_the_demo_is_good_at_four_steps(tmp_path, digits_test):
    network = digits.main(Digits(out=tmp_path / "digits"))
    reference, seeds = ann.accuracy(network, digits_test), jax.random.split(jax.random.key(0), 5)
    tpp, baseline = (convert.to_snn(network, 4, mode) for mode in ("tpp", "baseline"))
    logits = [sharding.sweep(convert.Snn.apply, seeds, tpp, digits_test.images), baseline.apply(digits_test.images)]
    of_tpp, of_baseline = (100 * np.mean(np.asarray(x).argmax(-1) == digits_test.labels) for x in logits)
    assert of_tpp > reference - 2
    assert of_baseline > 90

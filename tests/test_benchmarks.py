"""What the benchmark compares computes the same, and its table says what was measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from benchmarks.__main__ import LONG, Bench, cases_of, main, table
from tests.convert.torch.torch_states import akamaster_state
from tppjax import files, sharding
from tppjax.activations import qcfs
from tppjax.neurons.tpp import mean_count
from train import input_pipeline


@pytest.fixture
def networks(torch, monkeypatch):
    """ResNet-20 of random weights: ours, in PyTorch with a neuron of one's choice, and images for both."""
    from benchmarks import cases, pytorch

    state = akamaster_state(channels=16)
    monkeypatch.setattr(cases, "state", lambda net: state)
    ours, x = cases.imported.__wrapped__("resnet20"), cases.images(5)
    thetas = [np.asarray(ours.thetas[name]) for name in ours.sites]

    def theirs(neuron=None, T=1):
        with torch.inference_mode():
            images = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
            return pytorch.network("resnet20", state, neuron, thetas, T)(images).numpy()

    return ours, theirs, x


def test_the_ann_is_the_same(networks):
    ours, theirs, x = networks
    expected = np.asarray(ours.apply(x))
    np.testing.assert_allclose(theirs(), expected, atol=1e-4 * np.abs(expected).max())


def test_spikingjelly_is_our_baseline(networks):
    pytest.importorskip("spikingjelly", reason="needs SpikingJelly: make bench")
    from benchmarks import pytorch

    ours, theirs, x = networks
    expected = np.asarray(convert.to_snn(ours, 4, "baseline(v_init=0.5)").apply(x))
    np.testing.assert_allclose(theirs(pytorch.SpikingJelly, 4), expected, atol=1e-3 * np.abs(expected).max())


def test_qcfs_and_its_gradient_are_ours(torch):
    from benchmarks import pytorch

    x = np.linspace(-0.3, 1.2, 61, dtype=np.float32)
    theirs, inputs = pytorch.Qcfs(L=4, theta=0.77), torch.from_numpy(x).requires_grad_()
    values = theirs(inputs)
    (values * torch.from_numpy(x)).sum().backward()  # every output has a gradient of its own
    ours, gradients = jax.vjp(lambda x, theta: qcfs(x, theta, 4), jnp.asarray(x), jnp.full(x.shape, 0.77))
    np.testing.assert_allclose(values.detach(), ours, rtol=1e-6)
    to_x, to_theta = gradients(jnp.asarray(x))
    np.testing.assert_allclose(inputs.grad, to_x, rtol=1e-6)
    np.testing.assert_allclose(theirs.theta.grad, to_theta.sum(), rtol=1e-4)


def test_augmentation_crops_flips_and_blanks(torch):
    from benchmarks import pytorch

    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8))
    wide = (torch.nn.functional.pad(pixels[0], (4, 4, 4, 4)) / 255 - pytorch.MEAN) / pytorch.STD
    crops = torch.stack([wide[:, i : i + 32, j : j + 32] for i in range(9) for j in range(9)])
    crops = torch.cat([crops, crops.flip(3)])
    torch.manual_seed(0)
    found, blanks = set(), []
    for x in pytorch.augmented(pixels.expand(200, -1, -1, -1)):
        blank = (x == 0).all(dim=0)
        (which,) = ((crops == x) | blank).all(dim=(1, 2, 3)).nonzero()[0]  # one of the crops, but for the square
        found.add(int(which))
        blanks += [int(blank.sum(axis).max()) for axis in (0, 1)]
    assert sum(which < 81 for which in found) > 40 < sum(which >= 81 for which in found)
    assert (min(blanks), max(blanks)) == (8, 16)  # a border cuts the square in half at most


def test_algorithm_3_has_the_law_of_a_tpp_neuron(torch):
    from benchmarks import pytorch

    T, u, theta, n = 8, 1.3, 0.7, 50_000
    torch.manual_seed(0)
    spikes = pytorch.Tpp(torch.tensor(theta), T)(torch.full((T * n,), u * theta / T)).unflatten(0, (T, n)) / theta
    drawn = spikes.sum(0).numpy()
    assert set(np.unique(drawn.round(4))) == {1, 2}
    assert abs(drawn.mean() - mean_count(u, T)) < 5 * drawn.std() / np.sqrt(n)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "case"), [("resnet20", c) for c in cases_of("resnet20")] + [("vgg16", c) for c in LONG]
)
def test_every_case_runs_once(net, case, torch, monkeypatch):
    if case.startswith("spikingjelly"):
        pytest.importorskip("spikingjelly", reason="needs SpikingJelly: make bench")
    from benchmarks import cases

    for size in ("BATCH", "SLOW_BATCH", "TRAIN_BATCH", "SEEDS"):
        monkeypatch.setattr(cases, size, 2)
    monkeypatch.setattr(cases, "STEPPED_BATCH", dict.fromkeys(("resnet20", "vgg16"), 2))
    monkeypatch.setattr(cases, "REPEATS", 1)
    name, *options = case.split()
    call, n = getattr(cases, name)(net, *options)
    call()
    assert n == (4 if name == "seeds" else 2)


def test_an_accelerator_gets_larger_batches_and_many_steps_a_call(monkeypatch):
    from benchmarks import cases

    assert (cases.scaled(25), cases.steps_a_call()) == (25, 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(sharding, "loops_are_fast", lambda mesh: True)
    assert (cases.scaled(25), cases.steps_a_call()) == (250, input_pipeline.SCANNED)


@pytest.mark.slow
def test_the_command_measures_and_keeps_other_rows(torch, tmp_path, capsys):
    out = tmp_path / "results.json"
    files.write_json(
        out, {"rows": [{"net": "vgg16", "case": "ann", "per_image": 1, "median": 1, "first_call": 1, "peak_mb": 1}]}
    )
    main(Bench(nets=("resnet20",), only="ann", out=out))
    assert [(r["net"], r["case"]) for r in files.read_json(out, "")["rows"]] == [("vgg16", "ann"), ("resnet20", "ann")]
    assert "ANN forwards" in capsys.readouterr().out


def test_table():
    row = {"seconds": [1.0], "first_call": 6.0, "peak_mb": 500.0}
    rows = {
        ("resnet20", "ann"): {**row, "median": 1.0, "per_image": 0.01},
        ("resnet20", "snn tpp 32"): {**row, "median": 1.5, "per_image": 0.015},
        ("resnet20", "algorithm3 32"): {**row, "median": 9.0, "per_image": 0.6},
    }
    lines = table(rows).splitlines()
    assert lines[1] == "  snn tpp 32 is 40.00 times as fast as algorithm3 32"
    assert lines[4].split() == ["snn", "tpp", "32", "1.50", "67", "4.5", "500"]

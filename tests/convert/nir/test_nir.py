"""NIR files that we write: read back they are the same network, and what has no node is refused."""

import sys

import flax.linen as nn
import h5py
import jax
import jax.numpy as jnp
import nir
import numpy as np
import pytest

import convert
from convert import export
from convert.nir.writing import build
from tests.convert.networks import Mlp, Pooled, images, mlp, traced
from tests.convert.test_fold import X, network
from tests.convert.test_unusual_networks import Mixed
from tppjax import models
from tppjax.activations import QCFS, ReLU
from tppjax.errors import InputError


class Blocks(nn.Module):
    """What other people's networks have: uneven padding, groups, dilation, concatenated and shuffled channels, padded
    pools, a dense layer on channels, activations that begin below 0, and sums that two layers read."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), (2, 2), padding="SAME")(x))  # 8 to 4: padded at the end only
        x = jnp.concatenate([x, nn.relu(nn.Conv(4, (3, 3), feature_group_count=2)(x))], axis=-1)
        x = jnp.swapaxes(x.reshape(len(x), 4, 4, 2, 5), -1, -2).reshape(len(x), 4, 4, 10)
        x = nn.hard_tanh(nn.Conv(4, (2, 2), padding=((1, 0), (0, 1)))(x))
        x = nn.relu(nn.Conv(6, (3, 3), padding=2, kernel_dilation=2)(x))
        total = nn.Conv(6, (3, 3))(x)
        total = total + nn.Conv(6, (3, 3))(nn.relu(total))
        x = nn.relu(nn.Dense(5)(total)) - nn.relu(total)[..., :5]
        x = nn.relu(nn.avg_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1))) - 0.01)
        x = nn.relu(x.reshape(len(x), -1) @ self.param("own", nn.initializers.normal(), (20, 7)))
        return nn.Dense(3)(x)


class Branches(nn.Module):
    """An input of the length of its channels, a kernel that is wide, a crop, an activation without a layer, a value
    added twice, a flattened activation, and two layers whose sum is the output."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (1, 3), padding=((0, 0), (1, 1)))(x))
        x = nn.relu((x + x)[:, 1:-1, 1:-1] - 0.3)
        x = nn.Conv(4, (3, 3), padding=((-1, 0), (0, -1)))(x)
        flat = nn.relu(x.reshape(len(x), -1) * jnp.linspace(-1, 1, x[0].size)[None])
        w = self.param("own", nn.initializers.normal(0.5), (4, *x.shape[1:3], 3))
        return nn.Dense(3)(flat) + jnp.einsum("bhwc,chwo->bo", nn.relu(x), w)


class First(nn.Module):
    """For images as PyTorch has them."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(jnp.transpose(x, (0, 2, 3, 1))))
        return nn.Dense(3)(x.mean((1, 2)))


class Beside(nn.Module):
    """Constants beside channels: a channel of ones, a shortcut filled with zeros, and a one beside a vector."""

    @nn.compact
    def __call__(self, x):
        one, zeros = jnp.ones((*x.shape[:3], 1)), jnp.zeros((*x.shape[:3], 1))
        x = nn.relu(nn.Conv(4, (3, 3))(jnp.concatenate([one, x], -1)))
        x = nn.relu(nn.Conv(6, (3, 3))(x) + jnp.concatenate([zeros, x, zeros], -1))
        return nn.Dense(3)(jnp.concatenate([x.mean((1, 2)), jnp.ones((len(x), 1))], -1))


def equinox():
    eqx, keys = pytest.importorskip("equinox"), jax.random.split(jax.random.key(0), 4)
    relu = eqx.nn.Lambda(jax.nn.relu)
    convolutions = eqx.nn.Conv2d(3, 4, 3, padding=1, key=keys[0]), relu, eqx.nn.AvgPool2d(2, 2, 1)
    dense = eqx.nn.Linear(100, 8, key=keys[1]), relu, eqx.nn.Linear(8, 3, key=keys[2])
    module = eqx.nn.Sequential([*convolutions, eqx.nn.Lambda(jnp.ravel), *dense])
    return convert.calibrate(module, np.moveaxis(X, -1, 1))


NETWORKS = {
    "vgg": lambda: network(models.create("vgg_small", 4, ReLU(), hidden=(9,), stages=((4, 4), (6,)))),
    "resnet": lambda: network(models.create("resnet20", 4, ReLU(), blocks=(1, 2), channels=4)),
    "resnet option A": lambda: network(models.create("resnet20", 4, ReLU(), blocks=(2, 2), channels=4, shortcut="pad")),
    "regnet": lambda: network(models.create("regnetx_4gf", 4, ReLU(), blocks=(1, 2), widths=(4, 8), group=2, stem=3)),
    "blocks": lambda: network(Blocks()),
    "branches": lambda: network(Branches()),
    "constants beside": lambda: network(Beside()),
    "channels first": lambda: network(First(), np.moveaxis(X, -1, 1)),
    "equinox": equinox,
}
CHANNELS_FIRST = "channels first", "equinox"


def rates_apart(snn, again, x, x_again):
    """`{site: (mean spikes of its neurons, share of those that spike less or more often in the other network)}`."""
    ours, theirs, orders = snn.activity(x)[1], again.activity(x_again)[1], build(snn)[1].orders
    found = {}
    for site, other in zip(snn.network.sites, again.network.sites, strict=True):
        ordered = np.asarray(theirs[other])
        ordered = np.moveaxis(ordered, -1, 1) if ordered.ndim == 4 else ordered  # the file's order
        ordered = ordered.reshape(len(x), -1)[:, orders[site].ravel() - 1].reshape(ours[site].shape)
        found[site] = float(np.mean(ours[site])), float(np.mean(ordered != ours[site]))
    return found


slow = [pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(name, marks=slow * (name != "resnet option A")) for name in NETWORKS])
def test_read_back_it_is_the_same_network(name, tmp_path):
    """Layer by layer, though the file knows neither our layouts nor what stood in the code."""
    original = NETWORKS[name]()
    snn = convert.to_snn(original, 8, "baseline(v_init=0.5)")
    x = np.moveaxis(X, -1, 1) if name in CHANNELS_FIRST else X
    export.nir(snn, file := tmp_path / "a.nir")
    again = convert.from_nir(file)
    assert {float(np.max(theta)) for theta in again.thetas.values()} == {1.0}
    y = x if name in CHANNELS_FIRST else np.moveaxis(x, -1, 1)
    with jax.default_matmul_precision("highest"):
        apart = rates_apart(snn, convert.to_snn(again, 8, "baseline(v_init=0.5)"), x, y)
        if not {"clip", "qcfs"} & original.kinds:  # of which the file does not know the bounds
            np.testing.assert_allclose(again.apply(y), original.apply(x), rtol=1e-4, atol=1e-4)
    assert max(different for _, different in apart.values()) < 2e-3, apart
    assert min(spikes for spikes, _ in apart.values()) > 0, apart


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype, tmp_path):
    """A file has single precision."""
    original = network(Mixed(dtype=dtype))
    export.nir(convert.to_snn(original, 8, "baseline(v_init=0.5)"), file := tmp_path / "a.nir")
    expected = np.asarray(original.apply(X))
    outputs = convert.from_nir(file).apply(np.moveaxis(X, -1, 1))
    np.testing.assert_allclose(outputs, expected, atol=0.02 * np.abs(expected).max())


def test_what_the_file_says(tmp_path, digits_ann):
    snn = convert.to_snn(digits_ann, 16, "baseline")
    export.nir(snn, file := tmp_path / "a.nir", dt=1e-4)
    graph = nir.read(file)
    about, like = graph.metadata, snn.network.preprocessing
    assert (about["reset"], about["T"], about["dt"]) == ("subtract", 16, 1e-4)
    np.testing.assert_allclose(about["mean"], like.mean)
    assert list(graph.nodes) == sorted(graph.nodes)
    assert all(name.isidentifier() for name in graph.nodes)
    neurons = [node for node in graph.nodes.values() if isinstance(node, nir.IF)]
    assert [node.metadata["site"] for node in neurons] == list(snn.network.sites)
    for node in neurons:
        assert np.all(node.v_threshold == 1)
        np.testing.assert_allclose(node.r, 1e4)
        assert np.all(node.metadata["v_init"] == 0.5)
    with h5py.File(file) as opened:  # nir 1.0.4, which Sinabs asks for, refuses a field that it does not know
        assert not any("v_reset" in node for node in opened["node/nodes"].values())
    export.nir(snn, file, dt=1e-4, r=1.0)
    assert np.all(next(n for n in nir.read(file).nodes.values() if isinstance(n, nir.IF)).r == 1)
    history = convert.from_nir(file).history[0]
    assert "T: 16" in history
    assert "baseline(v_init=0.5)" in history


def test_the_initial_potential_as_a_bias(tmp_path):
    """Of the first layer, whose input is the same at every step, the rates stay."""
    snn, x = convert.to_snn(mlp(), 8, "baseline"), images(5)
    export.nir(snn, file := tmp_path / "a.nir", v_init="bias")
    again = convert.to_snn(convert.from_nir(file), 8, "baseline(v_init=0)")
    assert "v_init" not in next(n for n in nir.read(file).nodes.values() if isinstance(n, nir.IF)).metadata
    ours, theirs = snn.activity(x)[1], again.activity(x)[1]
    np.testing.assert_array_equal(ours["dense0"], next(iter(theirs.values())))
    assert np.asarray(ours["dense0"]).any()
    without = convert.to_snn(mlp(), 8, "baseline(v_init=0)").activity(x)[1]
    assert not np.array_equal(without["dense0"], ours["dense0"])


class Flat(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Conv(4, (3,))(x)).mean(1))


class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(4)(x.reshape(len(x), -1)))
        return nn.Dense(2)(x), nn.Dense(3)(x)


@pytest.mark.parametrize(
    ("make", "mode", "message"),
    [
        (mlp, "tpp", "NIR has no node for mode tpp: its neurons wait for the input of all T steps"),
        (mlp, "burst", "NIR has no node for mode burst.*integrate-and-fire only"),
        (lambda: network(Flat(), X[:, 0]), "baseline", r"NIR can't have what stands at .*test_nir.py.*two dimensions"),
        (lambda: network(Heads()), "baseline", "one output, a vector"),
    ],
    ids=["tpp", "burst", "1d", "heads"],
)
def test_what_has_no_node_is_refused(make, mode, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export.nir(convert.to_snn(make(), 4, mode), tmp_path / "a.nir")
    assert not list(tmp_path.iterdir())


def test_other_refusals(tmp_path, monkeypatch):
    snn = convert.to_snn(mlp(), 4, "baseline")
    for options, message in (({"dt": 0}, "dt must be at least"), ({"v_init": "zero"}, '"metadata" or "bias"')):
        with pytest.raises(InputError, match=message):
            export.nir(snn, tmp_path / "a.nir", **options)
    by_step = convert.correct(mlp(), images(20), T=4, mode="baseline", method="steps")
    with pytest.raises(InputError, match="one bias for all steps"):
        export.nir(convert.to_snn(by_step, 4, "baseline"), tmp_path / "a.nir")
    with pytest.raises(InputError, match="max-pool"):
        convert.to_snn(traced(Pooled(ReLU()), (4, 4, 1)).replace(thetas={"conv": np.float32(1)}), 4, "baseline")
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(InputError, match="pip install 'tppjax"):
        export.nir(snn, tmp_path / "a.nir")


def test_neurons_of_both_kinds_of_thresholds():
    """QCFS begins at a potential of 1/2, ReLU is shifted by 1/2 over all steps: as the bias of each step."""
    for act, extra in ((QCFS(L=4), 0.0), (ReLU(), 0.5 / 4)):
        trained = traced(Mlp(act))
        ready = trained.replace(thetas=dict.fromkeys(trained.sites, np.float32(1)) | trained.thetas)
        graph, _ = build(convert.to_snn(ready, 4, "baseline"))
        node = next(n for name, n in graph.nodes.items() if name.endswith("dense0"))
        theta, bias = ready.thetas["dense0"], np.ravel(ready.weights["params/dense0/bias"])
        np.testing.assert_allclose(node.bias, bias / theta + extra, rtol=1e-6)

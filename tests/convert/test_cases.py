"""Networks and images as people bring them: each does the right thing, or is refused in a sentence."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from convert import energy
from tests.convert.networks import mlp
from tppjax import ann
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.ann import Ann
from tppjax.data import Images
from tppjax.errors import InputError

KEY = jax.random.key(5)
SHAPE = (4, 4, 1)
X = np.random.default_rng(0).random((6, *SHAPE), np.float32)
LABELS = np.zeros(6, int)


def own(model, *args):
    """With random weights."""
    return Ann(model.init({"params": KEY, "dropout": KEY}, X, *args), model)


class Plain(nn.Module):
    """Dense, activation, dense, with the activation of this library."""

    act: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(self.act.copy(name="a")(nn.Dense(8, name="dense")(x.reshape(len(x), -1))))


class Usual(nn.Module):
    """As it stands in everybody's first network."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(x))
        x = nn.avg_pool(x, (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(3)(nn.relu(nn.Dense(8, name="dense")(x)))


class NoSite(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), -1))


class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8, name="dense")(x.reshape(len(x), -1)))
        return nn.Dense(10)(x), {"box": nn.Dense(4)(x)}


def body(self, x, train):
    x = nn.relu(nn.Dense(8, name="dense")(x.reshape(len(x), -1)))
    return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


class TrainOff(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return body(self, x, train)


class TrainOn(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        return body(self, x, train)


class TrainAsked(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return body(self, x, train)


MUST_RUN = r"must run as module\.apply\(variables, x\), in evaluation mode, .* It says: "


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (own(NoSite()), "the network has no activation that spiking neurons can take the place of"),
        (own(TrainOn(), False), f'TrainOn {MUST_RUN}.*needs PRNG for "dropout"'),
        (own(TrainAsked(), False), f"TrainAsked {MUST_RUN}.*missing 1 required positional argument: 'train'"),
    ],
    ids=["no activation", "train on", "train asked"],
)
def test_networks_that_cannot_be_converted_are_refused_everywhere(network, message):
    ready = convert.to_snn(mlp(), T=2, mode="rounded")
    for call in (
        lambda: convert.calibrate(network, X, "max"),
        lambda: convert.to_snn(network, T=2, mode="rounded", example=X),
        lambda: convert.correct(network, X, T=2, mode="rounded"),
        lambda: convert.report(ready, X, ann=network),
        lambda: convert.fold_batch_norm(network, X),
    ):
        with pytest.raises(InputError, match=message) as refused:
            call()
        assert re.fullmatch(r"[^\n]+", str(refused.value))


@pytest.mark.parametrize("model", [TrainOff(), TrainAsked(), Usual(), Heads()])
def test_networks_with_nn_relu(model):
    """From activations that nobody prepared to an SNN that comes near the ANN."""
    network = own(model, *([False] if isinstance(model, TrainAsked) else []))
    if isinstance(model, TrainAsked):
        network = (lambda variables, x: model.apply(variables, x, train=False)), network.variables
    ready = convert.calibrate(network, X, "max")
    assert list(ready.sites)[-1] == "dense"
    found, wanted = convert.to_snn(ready, T=1000, mode="rounded").apply(X), ready.apply(X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.01), found, wanted)


def test_accuracy_of_ones_own_network():
    network = own(Usual())
    said = np.asarray(network.apply(X)).argmax(-1)
    assert ann.accuracy(network, Images(X, said)) == 100
    with pytest.raises(InputError, match="accuracy needs a network that returns one array of logits"):
        ann.accuracy(own(Heads()), Images(X, LABELS))


def test_clipped_relu_takes_its_bound_for_a_threshold():
    """A network trained with ReLU6 has no theta among its variables."""
    trained = own(Plain(ReLU()))
    network = trained.replace(model=Plain(ClippedReLU(bound=6.0)))
    ready = convert.trace(network, X)
    assert {site: float(theta) for site, theta in ready.thetas.items()} == {"dense": 6}
    np.testing.assert_allclose(ready.apply(X), trained.apply(X), rtol=1e-5)  # nothing comes near 6
    np.testing.assert_allclose(convert.to_snn(ready, T=1000, mode="rounded").apply(X), network.apply(X), atol=0.02)
    assert convert.calibrate(network, X, "max").thetas["dense"].max() < 6


def calibrated(x):
    return convert.calibrate(own(Plain(ReLU())), x, "max").thetas["dense"]


def test_images_in_every_form_that_is_one_array():
    expected = calibrated(X)
    for given in (Images(X, LABELS), X.tolist(), list(X), jnp.asarray(X)):
        np.testing.assert_array_equal(calibrated(given), expected)
    snn = convert.to_snn(own(Plain(QCFS())), T=2, mode="rounded", example=X)
    np.testing.assert_array_equal(snn.apply(list(X)), snn.apply(X))


def test_tensors(torch):
    np.testing.assert_array_equal(calibrated(torch.tensor(X)), calibrated(X))
    network = own(Plain(QCFS()))
    np.testing.assert_array_equal(network.apply(torch.tensor(X)), network.apply(X))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(LABELS)))
    for given, message in (
        (loader, "got DataLoader. From a loader"),
        (torch.tensor(X).requires_grad_(), "one array .*grad"),
    ):
        with pytest.raises(InputError, match=message):
            calibrated(given)


def poisoned(value, at=3):
    x = X.copy()
    x[at, 1, 2, 0] = value
    return x


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: (x for x in X), r"images are one array \[N, \.\.\.\]; got generator\..*np\.concatenate"),
        (lambda: [X[0], X[1, :2]], "the images can't be made one array"),
        (lambda: poisoned(np.nan), r"the images hold NaN or infinity, first at \[3, 1, 2, 0\]"),
        (lambda: Images(poisoned(-np.inf, 1), LABELS), r"the images hold NaN or infinity, first at \[1, 1, 2, 0\]"),
        (lambda: np.zeros((2, *SHAPE), np.uint8), "a network without preprocessing takes floats"),
        (lambda: np.float32(1), r"\[B, .*\](, .*)?; got|needs images \[N, \.\.\.\]; got none"),
        (lambda: ["cat.png", "dog.png"], r"images are an array of numbers \[N, \.\.\.\]; got <U\d"),
    ],
    ids=["generator", "ragged", "nan", "Images", "pixels", "number", "names"],
)
def test_images_that_are_refused_everywhere(given, message):
    network = own(Plain(QCFS()))
    traced = convert.trace(network, X)
    snn = convert.to_snn(traced, T=2, mode="rounded")
    for call in (
        calibrated,
        network.apply,
        traced.apply,
        snn.apply,
        lambda x: convert.correct(traced, x, T=2, mode="rounded"),
        lambda x: convert.report(snn, x),
    ):
        with pytest.raises(InputError, match=message):
            call(given())


def test_images_on_a_device_are_not_waited_for():
    network, images = own(Plain(QCFS())), jnp.asarray(poisoned(np.inf))
    snn = convert.to_snn(network, T=2, mode="rounded", example=X)
    assert network.apply(images).shape == snn.apply(images).shape == (len(X), 3)
    for call in (calibrated, lambda x: convert.correct(network, x, T=2), lambda x: convert.report(snn, x)):
        with pytest.raises(InputError, match="the images hold NaN or infinity"):
            call(images)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (X, {}, r"accuracy takes tppjax\.data\.Images\(images, labels\); got ndarray"),
        (Images(X, LABELS), {"batch_size": 0}, "batch_size must be a whole number of at least 1; got 0"),
        (Images(X[:0], LABELS[:0]), {}, "accuracy needs images"),
    ],
)
def test_accuracy_refuses(given, options, message):
    with pytest.raises(InputError, match=message):
        ann.accuracy(own(Plain(QCFS())), given, **options)


class Bottleneck(nn.Module):
    """As MobileNetV2 has it: convolution and batch norm without an activation."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu6(nn.Conv(8, (3, 3), name="stem")(x))
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(8, (1, 1), name="project")(x))
        x = nn.relu6(nn.Conv(16, (1, 1), name="expand")(x))
        return nn.Dense(10, name="head")(x.mean((-3, -2)))


def test_multiply_adds_of_a_linear_bottleneck():
    network = convert.trace(own(Bottleneck()), X)
    assert {site: float(theta) for site, theta in network.thetas.items()} == {"stem": 6, "expand": 6}
    ones = {name: jnp.ones((1, *site.shape)) for name, site in network.sites.items()}
    found = {layer: float(n[0]) for layer, n in energy.additions(network, ones).items()}
    assert found == {"stem": 0, "project": 16 * 64, "expand": 16 * 8 * 16, "head": 160}
    with pytest.raises(InputError, match="the energy can't be estimated: expand takes no spikes"):
        energy.multiply_adds(network)


def test_the_trace_of_unbiased_shows_the_spikes_that_apply_counts():
    snn = convert.to_snn(mlp(), T=5, mode="unbiased")
    x = np.random.default_rng(7).random((30, 2, 2, 2), np.float32)
    logits, counts = snn.activity(x, KEY)
    trace = snn.trace(x, KEY)
    for site, count in counts.items():
        np.testing.assert_array_equal(trace.spikes[site].sum(axis=0), count)
    np.testing.assert_allclose(trace.logits.mean(axis=0), logits, rtol=1e-6)


def test_an_snn_is_saved_by_itself(tmp_path):
    snn = convert.to_snn(mlp(), T=4, mode="rounded")
    with pytest.raises(InputError, match=r"got Snn.*network\.save\(folder\), or snn\.save\(folder\)"):
        ann.save(snn, tmp_path / "snn")
    assert not (tmp_path / "snn").exists()
    snn.save(tmp_path / "snn")
    again = convert.load(tmp_path / "snn")
    x = np.ones((2, 2, 2, 2), np.float32)
    np.testing.assert_array_equal(again.apply(x), snn.apply(x))

"""Networks and images as people bring them: each does the right thing, or is refused in a sentence."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from convert.studies import spikes
from tests.convert.networks import images, mlp
from tppjax import ann
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.ann import Ann
from tppjax.data import Images
from tppjax.errors import InputError

KEY = jax.random.key(5)
SHAPE = (4, 4, 1)
X = np.random.default_rng(0).random((6, *SHAPE), np.float32)
LABELS = np.zeros(6, int)


def flat(x):
    return x.reshape(*x.shape[:-3], -1)


def own(model, *args):
    """With random weights."""
    return Ann(model.init({"params": KEY, "dropout": KEY}, X, *args), model)


class Plain(nn.Module):
    """Dense, activation, dense."""

    act: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(self.act.copy(name="a")(nn.Dense(8)(flat(x))))


class NoField(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(8)(flat(x))))


class NoSite(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(flat(x))


class Heads(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x):
        x = self.act.copy(name="a")(nn.Dense(8)(flat(x)))
        return nn.Dense(10)(x), nn.Dense(4)(x)


def body(self, x, train):
    x = nn.Dropout(0.5, deterministic=not train)(self.act.copy(name="a")(nn.Dense(8)(flat(x))))
    return nn.Dense(3)(x)


class TrainOff(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x, train=False):
        return body(self, x, train)


class TrainOn(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x, train=True):
        return body(self, x, train)


class TrainAsked(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x, train):
        return body(self, x, train)


MUST_RUN = r"must run as model\.apply\(variables, x\), .* as in __call__\(self, x, train: bool = False\)\. "


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (own(NoField()), r"NoField has no field act, which can't be converted: .*put self\.act\.copy"),
        (own(NoSite(ReLU())), "NoSite has no site: put self.act.copy"),
        (own(Heads(ReLU())), r"Heads gives \(\(1, 10\), \(1, 4\)\), not one array of logits"),
        (own(TrainOn(ReLU()), False), f'TrainOn {MUST_RUN}.*needs PRNG for "dropout"'),
        (own(TrainAsked(ReLU()), False), f"TrainAsked {MUST_RUN}.*missing 1 required positional argument: 'train'"),
    ],
    ids=["no field", "no site", "two heads", "train on", "train asked"],
)
def test_networks_that_cannot_be_converted_are_refused_everywhere(network, message):
    """Not by calibrate alone: with thresholds put in by hand the others refuse it too."""
    ready = convert.to_snn(own(Plain(QCFS())), T=2, mode="rounded")
    by_hand = network.variables["params"] | {"a": {"theta": np.float32(1)}}
    with_theta = network.replace(variables={"params": by_hand})
    for call in (
        lambda: convert.calibrate(network, X, "max"),
        lambda: ann.accuracy(network, Images(X, LABELS)),
        lambda: convert.to_snn(with_theta, T=2, mode="rounded").apply(X),
        lambda: convert.correct(with_theta, X, 2, "rounded"),
        lambda: convert.report(ready, X, ann=network),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_train_argument_that_is_off_by_default():
    network = convert.calibrate(own(TrainOff(ReLU())), X, "max")
    assert convert.to_snn(network, T=4, mode="rounded").apply(X).shape == (6, 3)


def test_clipped_relu_takes_its_bound_for_a_threshold():
    """A network trained with ReLU6 has no theta among its variables."""
    trained = own(Plain(ReLU()))
    network = trained.replace(model=Plain(ClippedReLU(bound=6.0)))
    with pytest.raises(InputError, match=r"to set them to the bound, 6: convert\.calibrate\(ann, images\)"):
        convert.to_snn(network)
    ready = convert.calibrate(network, X)
    assert {site: float(theta) for site, theta in ann.thresholds(ready.variables).items()} == {"a": 6}
    assert ready.history == ("thresholds: the bound of ClippedReLU, 6",)
    np.testing.assert_array_equal(ready.apply(X), network.apply(X))
    np.testing.assert_allclose(network.apply(X), trained.apply(X), rtol=1e-5)  # nothing comes near 6
    np.testing.assert_allclose(convert.to_snn(ready, T=1000, mode="rounded").apply(X), network.apply(X), atol=0.02)
    with pytest.raises(InputError, match="a network with ClippedReLU learned its thresholds: nothing to calibrate"):
        convert.calibrate(ready, X)
    with pytest.raises(InputError, match=r"QCFS trains them, so these .*; with act=ReLU\(\), choose them"):
        convert.to_snn(trained.replace(model=Plain(QCFS())))


class Normed(nn.Module):
    act: nn.Module
    epsilon: float = 1e-5
    norm: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True, epsilon=self.epsilon, name="norm1")(
            nn.Conv(2, (3, 3), name="conv1")(x)
        )
        return nn.Dense(3)(self.act.copy(name="a")(x).mean((-3, -2)))


@pytest.mark.parametrize("call", [convert.fold_batch_norm, lambda network: convert.correct(network, X, 2, "rounded")])
def test_batch_norm_of_other_networks_is_not_folded(call):
    """Its epsilon and its place are not among the variables."""
    with pytest.raises(InputError, match=r"Normed has batch norm, which can be folded into networks of tppjax\.models"):
        call(own(Normed(QCFS(), 1e-3)))


class Wired(nn.Module):
    """Convolution, `between`, activation; then `heads` dense layers in series."""

    act: nn.Module
    between: str = ""
    heads: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(2, (3, 3), name="conv", use_bias=self.use_bias)(x)
        x = nn.avg_pool(x, (2, 2), (2, 2)) if self.between == "pool" else x
        x = self.act.copy(name="a")(x).mean((-3, -2))
        dense = nn.Dense(2, name="dense")
        if self.between == "again":
            x = self.act.copy(name="b")(dense(x))
        for i in range(self.heads - 1):
            x = nn.Dense(2, name=f"dense{i}")(x)
        return dense(x)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"heads": 2},
            "can't correct what feeds logits: .* must be one .*; found dense0, dense. Convert without correct",
        ),
        ({"between": "pool"}, "can't correct what feeds a: .* with nothing between; found conv"),
        ({"between": "again"}, "can't correct dense, since it runs more than once: make a layer for each place"),
        ({"use_bias": False}, "conv has no bias to correct"),
    ],
)
def test_wiring_that_correction_does_not_know_is_refused(options, message, weights):
    network = own(Wired(QCFS(), **options))
    with pytest.raises(InputError, match=message):
        convert.correct(network, X, 2, "rounded", weights=weights)


def test_usual_wiring_is_corrected():
    network = own(Wired(QCFS(L=2, theta_init=1.0)))
    corrected = convert.correct(network, X, 2, "tpp", weights=True)
    assert np.abs(corrected.apply(X) - network.apply(X)).max() > 1e-3


def calibrated(x):
    return ann.thresholds(convert.calibrate(own(Plain(ReLU())), x, "max").variables)["a"]


def test_images_in_every_form_that_is_one_array():
    expected = calibrated(X)
    for given in (Images(X, LABELS), X.tolist(), list(X), jnp.asarray(X)):
        np.testing.assert_array_equal(calibrated(given), expected)
    snn = convert.to_snn(own(Plain(QCFS())), T=2, mode="rounded")
    np.testing.assert_array_equal(snn.apply(list(X)), snn.apply(X))


def test_tensors(torch):
    np.testing.assert_array_equal(calibrated(torch.tensor(X)), calibrated(X))
    network = own(Plain(QCFS()))
    np.testing.assert_array_equal(network.apply(torch.tensor(X)), network.apply(X))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(LABELS)))
    for given, message in (
        (loader, "got DataLoader. Of a loader"),
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
        (
            lambda: (x for x in X),
            r"images are one array \[N, H, W, C\], channels last; got generator\..*np\.concatenate",
        ),
        (lambda: [X[0], X[1, :2]], "the images can't be made one array"),
        (lambda: poisoned(np.nan), r"the images hold NaN or infinity, first at \[3, 1, 2, 0\]"),
        (lambda: Images(poisoned(-np.inf, 1), LABELS), r"the images hold NaN or infinity, first at \[1, 1, 2, 0\]"),
        (lambda: np.zeros((2, *SHAPE), np.uint8), "a network without preprocessing takes floats"),
        (lambda: np.float32(1), r"batch of images \[B, H, W, C\]|calibration needs images|got none"),
    ],
    ids=["generator", "ragged", "nan", "Images", "pixels", "number"],
)
def test_images_that_are_refused_everywhere(given, message):
    network = own(Plain(QCFS()))
    snn = convert.to_snn(network, T=2, mode="rounded")
    for call in (
        calibrated,
        network.apply,
        snn.apply,
        lambda x: convert.correct(network, x, 2, "rounded"),
        lambda x: convert.report(snn, x),
    ):
        with pytest.raises(InputError, match=message):
            call(given())


def test_images_on_a_device_are_not_waited_for():
    network, images = own(Plain(QCFS())), jnp.asarray(poisoned(np.inf))
    snn = convert.to_snn(network, T=2, mode="rounded")
    assert network.apply(images).shape == snn.apply(images).shape == (len(X), 3)
    for call in (calibrated, lambda x: convert.correct(network, x, 2, "rounded"), lambda x: convert.report(snn, x)):
        with pytest.raises(InputError, match="the images hold NaN or infinity"):
            call(images)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (X, {}, r"accuracy takes tppjax\.data\.Images\(images, labels\); got ndarray"),
        (Images(X, LABELS), {"at_once": 0}, "at_once must be a whole number of at least 1; got 0"),
        (Images(X[:0], LABELS[:0]), {}, "accuracy needs images"),
    ],
)
def test_accuracy_refuses(given, options, message):
    with pytest.raises(InputError, match=message):
        ann.accuracy(own(Plain(QCFS())), given, **options)


class Bottleneck(nn.Module):
    """As MobileNetV2 has it: convolution and batch norm without an activation."""

    act: nn.Module

    @nn.compact
    def __call__(self, x):
        x = self.act.copy(name="a")(nn.Conv(8, (3, 3), name="stem")(x))
        x = nn.BatchNorm(use_running_average=True)(nn.Conv(8, (1, 1), name="project")(x))
        x = self.act.copy(name="b")(nn.Conv(16, (1, 1), name="expand")(x))
        return nn.Dense(10, name="head")(x.mean((-3, -2)))


def test_multiply_adds_of_a_linear_bottleneck():
    network = own(Bottleneck(QCFS()))
    x = jnp.ones((1, *SHAPE))
    ones = {site: jnp.ones((1, *at.shape)) for site, at in ann.sites(network.model, x.shape).items()}
    found = {layer: float(n[0]) for layer, n in spikes.operations(network, x, ones).items()}
    assert found == {"stem": 10 * 10 * 8, "project": 16 * 64, "expand": 16 * 8 * 16, "head": 160}
    info = type("Preprocessing", (), {"input_shape": SHAPE})()
    with pytest.raises(InputError, match="the energy can't be told: expand gets no spikes"):
        spikes.energy(network.replace(preprocessing=info), [])


def test_the_trace_of_unbiased_shows_the_spikes_that_apply_counts():
    variables, model = mlp()
    snn = convert.to_snn(variables, T=5, mode="unbiased", model=model)
    x, key = images(30), jax.random.key(3)
    logits, counts = snn.activity(x, key)
    trace = snn.trace(x, key)
    for site, count in counts.items():
        np.testing.assert_array_equal(trace.spikes[site].sum(axis=0), count)
        assert not np.array_equal(count, np.round(count.mean(axis=0, keepdims=True) + 0 * count))
    np.testing.assert_allclose(trace.logits.mean(axis=0), logits, rtol=1e-6)


def test_messages_are_one_line():
    with pytest.raises(InputError) as refused:
        convert.calibrate(own(TrainOn(ReLU()), False), X)
    assert re.fullmatch(r"[^\n]+", str(refused.value))


def test_an_snn_is_saved_as_what_it_was_converted_from(tmp_path):
    variables, model = mlp()
    snn = convert.to_snn(variables, T=4, model=model)
    with pytest.raises(InputError, match=r"an Ann can be saved; got Snn.*ann\.save\(snn\.ann, folder\)"):
        ann.save(snn, tmp_path / "snn")
    assert not (tmp_path / "snn").exists()

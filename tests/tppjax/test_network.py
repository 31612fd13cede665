"""A network as it is traced from models of several libraries, and what it takes."""

import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from tests.convert.networks import cnn, exact, images, mlp, traced
from tppjax import ann, data, models, sharding
from tppjax.activations import QCFS, ReLU
from tppjax.errors import InputError
from tppjax.network import network
from tppjax.tracing import trace

X = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype(np.float32)
KEY = jax.random.key(0)


class Cnn(nn.Module):
    """A convolution with batch norm, max-pooling, two dense layers; with `nn.relu` and `nn.relu6`."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Conv(6, (3, 3), name="conv")(x))
        x = nn.max_pool(nn.relu(x), (2, 2), (2, 2)).reshape(len(x), -1)
        return nn.Dense(3, name="head")(nn.relu6(nn.Dense(8, name="dense")(x)))


def linen():
    model = Cnn()
    variables = model.init(KEY, X)
    return (model, variables), lambda x: model.apply(variables, x)


def function():
    rng = np.random.default_rng(0)
    p = {"layers": [{"w": np.float32(rng.normal(size=s) / 8)} for s in ((192, 16), (16, 16), (16, 3))]}

    def fn(p, x):
        x = x.reshape(x.shape[0], -1)
        for layer in p["layers"][:-1]:
            x = jnp.maximum(x @ layer["w"], 0)
        return {"logits": x @ p["layers"][-1]["w"], "features": (x, x.sum(-1))}

    return (fn, p), lambda x: fn(p, x)


def nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(self.drop(nnx.relu(self.norm(self.conv(x))).mean((1, 2))))

    net = Net(nnx.Rngs(0))
    net.norm.mean[...], net.norm.var[...] = jnp.arange(6) / 6, 1 + jnp.arange(6) / 3
    net.eval()
    return net, net


def equinox():
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        head: eqx.nn.Linear

        def __init__(self):
            self.conv = eqx.nn.Conv2d(8, 6, 3, key=KEY)  # [C, H, W], of one example
            self.head = eqx.nn.Linear(6, 3, key=KEY)

        def __call__(self, x):
            return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))

    net = Net()
    return net, jax.vmap(net)


SITES = {
    linen: {"conv": ("relu", (4, 4, 6), 2, ("conv",)), "dense": ("clip", (8,), 0, ("dense",))},
    function: {"layers/0": ("relu", (16,), 0, ("layers/0",)), "layers/1": ("relu", (16,), 0, ("layers/1",))},
    nnx: {"conv": ("relu", (8, 8, 6), 2, ("conv",))},
    equinox: {"conv": ("relu", (6, 6, 1), 0, ("conv",))},
}


@pytest.mark.parametrize("make", SITES)
def test_models_of_every_library(make):
    """The same function; its sites; and an SNN that comes near it."""
    subject, fn = make()
    found = trace(subject, X[:1])
    sites = {name: (site.kind, site.shape, site.axis, site.layers) for name, site in found.sites.items()}
    assert sites == SITES[make]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), fn(X), found.apply(X))
    ready = convert.calibrate(found, X, "max") if found.missing else found
    outputs = convert.to_snn(ready, 1000, "rounded").apply(X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.02), outputs, found.apply(X))
    snn = convert.to_snn(ready, 2, "unbiased")
    apart = jax.tree.map(lambda a, b: np.abs(a - b.mean(0)).max(), snn.apply(X, KEY), snn.trace(X, KEY).logits)
    assert max(jax.tree.leaves(apart)) < 1e-5


def test_nnx_in_training_mode_is_refused():
    net, _ = nnx()
    net.train()
    with pytest.raises(InputError, match=r"draws at random|mixes examples|not linear"):
        trace(net, X)


class InvertedResidual(nn.Module):
    """As MobileNetV2's block: one ReLU6 module, called twice."""

    act: nn.Module

    @nn.compact
    def __call__(self, x):
        y = self.act(nn.Conv(12, (1, 1), name="expand")(x))
        y = self.act(nn.Conv(12, (3, 3), feature_group_count=12, name="depthwise")(y))
        return x + nn.Conv(3, (1, 1), name="project")(y)


class ReLU6(nn.Module):
    def __call__(self, x):
        return nn.relu6(x)


def test_one_module_called_twice_is_two_sites():
    model = InvertedResidual(ReLU6())
    found = trace((model, model.init(KEY, X)), X)
    assert [(site.name, site.kind, site.channels) for site in found.sites.values()] == [
        ("expand", "clip", 12),
        ("depthwise", "clip", 12),
    ]
    assert {name: float(theta) for name, theta in found.thetas.items()} == {"expand": 6, "depthwise": 6}
    np.testing.assert_allclose(convert.to_snn(found, 4000, "rounded").apply(X), found.apply(X), atol=0.02)


def test_of_an_ann_all_is_known(digits_ann, digits_test):
    found = trace(digits_ann)
    assert trace(found) is found
    assert (found.preprocessing, found.history) == (digits_ann.preprocessing, digits_ann.history)
    thetas = {site.replace("act", "conv"): theta for site, theta in ann.thresholds(digits_ann.variables).items()}
    assert {site: float(theta) for site, theta in found.thetas.items()} == {s: float(t) for s, t in thetas.items()}
    np.testing.assert_allclose(found.apply(digits_test.images), digits_ann.apply(digits_test.images), atol=1e-5)
    assert trace(digits_ann, digits_test.images).graph is found.graph  # traced once
    assert str(found).splitlines()[1].split() == ["conv1_1", "qcfs", "8", "8", "x", "8", "x", "16", "16", "conv1_1"]


class Affine(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(4)(x.reshape(len(x), -1))))


def test_a_trace_is_of_what_the_network_is_now():
    """Arrays of NumPy, attributes of a function and branches by what the variables are can change between two calls."""
    model = Affine()
    variables = jax.tree.map(np.array, model.init(KEY, X))
    before = trace((model, variables), X).apply(X)
    variables["params"]["Dense_1"]["kernel"] *= 3
    np.testing.assert_allclose(trace((model, variables), X).apply(X), 3 * before, rtol=1e-5, atol=1e-5)

    for scale in (1.0, 2.0):  # an array that may get the id of the one before
        variables["params"]["Dense_1"]["bias"] = None
        variables["params"]["Dense_1"]["bias"] = jnp.full(4, scale)
        np.testing.assert_allclose(trace((model, variables), X).apply(X), model.apply(variables, X), atol=1e-5)

    def either(v, x):
        w = v["a"] if v["b"] is None else -v["b"]
        return nn.relu(x.reshape(len(x), -1) @ w)

    w, scale = np.random.default_rng(0).normal(size=(192, 3)).astype(np.float32), 1.0

    def scaled(v, x):
        return scale * either(v, x)

    for v in ({"a": w, "b": None}, {"a": None, "b": w}):
        np.testing.assert_allclose(trace((either, v), X).apply(X), either(v, X), rtol=1e-5, atol=1e-5)
    variables = {"a": w, "b": None}
    trace((scaled, variables), X)
    scale = 2.0
    np.testing.assert_allclose(trace((scaled, variables), X).apply(X), scaled(variables, X), rtol=1e-5, atol=1e-5)


SMALL = {
    "vgg_small": {},
    "vgg16": {"stages": ((4,), (4, 4)), "hidden": (9, 9), "pool": "max"},
    "resnet20": {"blocks": (1, 2), "channels": 4, "shortcut": "pad"},
    "resnet18": {"blocks": (1, 1), "channels": 4, "stem": "deep", "pool": "max"},
    "resnet34": {"blocks": (1, 1), "channels": 4, "stem": "imagenet"},
    "regnetx_4gf": {"blocks": (1, 2), "widths": (4, 8), "group": 2, "stem": 4},
}


@pytest.mark.parametrize("name", SMALL)
def test_our_models_have_a_site_for_each_activation(name):
    """With the threshold of its module, and the max-pool in front of it; named by the last layer that feeds it."""
    found = traced(models.create(name, 10, QCFS(L=4), **SMALL[name]), (16, 16, 1))
    variables = exact(models.create(name, 10, QCFS(L=4), **SMALL[name]), (16, 16, 1))
    assert sorted(map(float, found.thetas.values())) == sorted(map(float, ann.thresholds(variables).values()))
    assert {site.kind for site in found.sites.values()} == {"qcfs"}
    assert all(site.layers[-1] == name for name, site in found.sites.items())
    pooled = [name for name, site in found.sites.items() if site.before]
    assert pooled == {"vgg16": ["conv1_1", "conv2_2"], "resnet18": ["conv_stem"]}.get(name, [])


def test_pixels_are_normalised_and_arrays_are_taken_as_they_are(digits_ann, digits_test):
    found, pixels = trace(digits_ann), digits_test.images[:3]
    np.testing.assert_array_equal(found.apply(pixels), found.apply(found.preprocessing(pixels)))
    x = images(3)
    for given in (list(x), jnp.asarray(x), data.Images(x, np.zeros(3, int))):
        np.testing.assert_array_equal(mlp().apply(given), mlp().apply(x))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((3, 2, 2, 1), np.float32), r"the network takes a batch \[B, 2, 2, 2\]; got shape \(3, 2, 2, 1\)"),
        (np.zeros((2, 2, 2), np.float32), r"the network takes a batch \[B, 2, 2, 2\]; got shape \(2, 2, 2\)"),
        (np.zeros((2, 0, 2, 2, 2), np.float32), r"\[B, 2, 2, 2\]; got shape \(2, 0, 2, 2, 2\)"),
        (np.zeros((3, 2, 2, 2), np.uint8), "takes floats, already normalised; got uint8"),
        (np.full((3, 2, 2, 2), np.nan), "NaN or infinity, first at"),
    ],
)
def test_batches_that_do_not_fit(x, message):
    for call in (mlp().apply, mlp().inputs, convert.to_snn(mlp(), 2, "rounded").apply):
        with pytest.raises(InputError, match=message):
            call(x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_floats_become_the_networks_own(dtype):
    network, x = cnn(), jnp.asarray(images(3, (4, 4, 1)), dtype)  # a convolution takes no two types
    for run in (network.apply, convert.to_snn(network, 4, "rounded").apply):
        np.testing.assert_array_equal(run(x), run(x.astype(jnp.float32)))


def test_a_network_can_be_pickled():
    """With a constant of the program, which JAX keeps in a class of its own."""

    def model(p, x):
        return jnp.maximum(x.mean(axis=(1, 2)) @ p, 0) @ p.T

    network = convert.trace((model, np.eye(2, 3, dtype=np.float32)), images(3))
    again = pickle.loads(pickle.dumps(network))
    np.testing.assert_array_equal(again.apply(images(3)), network.apply(images(3)))


def test_bounds_that_are_no_threshold():
    """One for each neuron, where one for each channel is possible."""
    bounds = np.float32(1 + np.arange(8 * 8 * 4).reshape(1, 8, 8, 4) / 256)
    fn = lambda p, x: jnp.clip(x @ p["w"], 0, p["bound"])  # noqa: E731
    with pytest.raises(InputError, match=r"the activation at w has bounds of shape \(1, 8, 8, 4\): one per channel"):
        trace((fn, {"w": np.ones((3, 4), np.float32), "bound": bounds}), X)
    found = trace((fn, {"w": np.ones((3, 4), np.float32), "bound": bounds[:, :1, :1]}), X)
    np.testing.assert_array_equal(found.thetas["w"], bounds[0, 0, 0])


def test_examples_a_call_keep_within_the_budget(monkeypatch):
    """Four floats a neuron of the largest site, 8 x 8 x 16; or one of every neuron that is kept."""
    found = traced(models.create("vgg_small", 10, QCFS()), (8, 8, 1))
    monkeypatch.setattr(sharding, "budget", lambda: 2**18)
    assert found.batch_size() == 2**18 // (16 * 1024)
    assert found.batch_size(kept=True) == 2**18 // (4 * 2 * (1024 + 512))
    monkeypatch.setattr(sharding, "budget", lambda: 1)
    assert found.batch_size() == 1


def test_a_network_of_a_graph():
    """Its thresholds are the bounds of its activations."""
    found = mlp()
    again = network(found.graph, found.weights)
    jax.tree.map(np.testing.assert_array_equal, again.thetas, found.thetas)
    assert network(mlp(ReLU()).graph, mlp(ReLU()).weights).missing == ["dense0", "dense1"]

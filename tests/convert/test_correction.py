"""Correction site by site: nearer to the ANN on unseen images, and its least squares against their own gradient."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from convert import correction, evaluate
from convert.correction import METHODS
from convert.experiments.options import Experiment
from convert.least_squares import places
from tests.convert.networks import images, mlp
from tppjax import models
from tppjax.activations import ReLU
from tppjax.errors import InputError
from tppjax.network import OUTPUT

X = np.random.default_rng(0).random((60, 6, 6, 4), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["rounded", "tpp", "baseline"])
def test_correction_brings_the_snn_nearer(relu_ann, digits_train, digits_test, mode):
    """On images that it has not met; least squares more than offsets alone."""
    calibrated = convert.calibrate(relu_ann, digits_train, T=3, mode=mode)

    def departure(network):
        return convert.report(convert.to_snn(network, 3, mode), digits_test.images[:200], calibrated).rows[-1].departure

    corrected = [convert.correct(calibrated, digits_train, T=3, mode=mode, method=m) for m in ("bias", "weights")]
    errors = [departure(network) for network in (calibrated, *corrected)]
    assert errors[2] < errors[1] < errors[0]


def test_offsets_match_the_mean_of_every_site_and_of_the_output(relu_ann, digits_train):
    calibrated = convert.calibrate(relu_ann, digits_train, T=3, mode="rounded")
    corrected = convert.correct(calibrated, digits_train, T=3, mode="rounded")
    assert list(corrected.offsets) == ["conv1_1", "conv1_2", "conv2_1", "conv2_2", OUTPUT]
    assert {offset.shape for offset in corrected.offsets.values()} == {(16,), (32,), (10,)}
    assert all(corrected.weights[name] is weight for name, weight in calibrated.weights.items())
    wanted = np.asarray(relu_ann.apply(digits_train)).mean(axis=0)
    snns = [convert.to_snn(n, 3, "rounded") for n in (calibrated, corrected)]
    before, after = (np.asarray(snn.apply(digits_train)).mean(axis=0) for snn in snns)
    assert np.abs(before - wanted).max() > 0.1
    np.testing.assert_allclose(after, wanted, atol=1e-3)
    last = calibrated.sites["conv2_2"].input
    (inputs,), (reached,) = calibrated.values(digits_train, (last,)), snns[1].values(digits_train, None, (last,))
    reached = np.mean(reached, (0, 1, 2)) + corrected.offsets["conv2_2"]
    np.testing.assert_allclose(reached, np.mean(inputs, (0, 1, 2)), atol=1e-3)
    assert corrected.history[-1] == "offsets corrected site by site at T=3 for rounded, on 300 images"
    again = convert.correct(corrected, digits_train, T=3, mode="rounded")
    for site, offset in corrected.offsets.items():
        np.testing.assert_allclose(again.offsets[site], offset, atol=1e-3)


@pytest.mark.slow
def test_evaluate_calibrates_and_corrects(digits_relu):
    options = {"ann": digits_relu, "modes": ("rounded",), "T": (1,), "calibration_images": 200}
    with pytest.raises(ValueError, match=r"no threshold at .* or --calibrate mse"):
        evaluate.main(evaluate.Evaluate(**options))
    means = []
    for more in ({}, {"correct": "bias"}, {"correct": "weights"}):
        results = evaluate.main(evaluate.Evaluate(**options, calibrate="mse", overwrite=True, **more))
        means.append(results["rows"][0]["mean"])
        assert results["conversion"]["calibrate"] == "mse"
    assert means[0] < means[2]


class Between(nn.Module):
    """What `layers` gives of the first site's output reaches the second site."""

    layers: Callable

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.layers(nn.relu(nn.Conv(4, (3, 3), name="first")(x))))
        return nn.Dense(3, name="head")(x.reshape(len(x), -1))


def random(model, x):
    """With random weights, biases and statistics too."""
    rng, abstract = np.random.default_rng(1), jax.eval_shape(model.init, jax.random.key(0), x)

    def draw(path, leaf):
        return np.float32(
            rng.uniform(0.5, 1.5, leaf.shape) if path[-1].key == "var" else rng.normal(0, 0.3, leaf.shape)
        )

    return jax.tree_util.tree_map_with_path(draw, abstract)


def error(network, reference):
    """Mean squared error of its SNN's outputs."""
    return np.square(convert.to_snn(network, 2, "rounded").apply(X) - reference.apply(X)).mean()


def ready(layers):
    """The network of `Between(layers)`, calibrated, and its variables."""
    model = Between(layers)
    variables = random(model, X)
    return convert.calibrate(convert.trace((model, variables), X), X, "max", T=2, mode="rounded"), variables


FITTED = {
    "groups and strides": lambda x: nn.Conv(6, (3, 3), feature_group_count=2, strides=2, name="second")(x),
    "depthwise": lambda x: nn.Conv(8, (3, 2), feature_group_count=4, padding="VALID", name="second")(x),
    "dilation": lambda x: nn.Conv(5, (3, 3), kernel_dilation=2, use_bias=False, name="second")(x),
    "transposed": lambda x: nn.ConvTranspose(3, (3, 3), strides=(2, 2), name="second")(x),
    "dense": lambda x: nn.Dense(7, name="second")(x),
    "added up": lambda x: (
        nn.Conv(4, (3, 3), strides=2, name="second")(x) + nn.Conv(4, (1, 1), strides=2, name="third")(x)
    ),
}


@pytest.mark.parametrize("kind", FITTED)
def test_weights_are_those_of_least_squares(kind):
    """The squared error of what reaches the site has no gradient left, in any weight or in the offset."""
    network, variables = ready(FITTED[kind])
    corrected = convert.correct(network, X, T=2, mode="rounded", method="weights", ridge=1e-6)
    names = [name for name in ("second", "third") if name in variables["params"]]
    snn = convert.to_snn(corrected, 2, "rounded")
    rates = corrected.thetas["first"] * np.asarray(snn.activity(X)[1]["first"]) / 2
    site = next(reversed(network.sites))  # of what is added up, the one of both
    (wanted,) = network.values(X, (network.sites[site].input,))

    def error(kernels, offset):
        class Layers(nn.Module):
            @nn.compact
            def __call__(self, x):
                return FITTED[kind](x)

        params = {name: {**variables["params"][name], "kernel": kernel} for name, kernel in kernels.items()}
        return jnp.sum((wanted - Layers().apply({"params": params}, rates) - offset) ** 2)

    sizes = []
    for n in (network, corrected):
        kernels = {name: n.weights[f"params/{name}/kernel"] for name in names}
        offset = n.offsets.get(site, np.zeros(wanted.shape[-1], np.float32))
        gradients = jax.tree.leaves(jax.grad(error, (0, 1))(kernels, jnp.reshape(offset, (1,) * 3 + (-1,))))
        sizes.append([float(jnp.abs(g).max()) for g in gradients])
    before, after = np.array(sizes)
    assert (before > 1).all()
    assert (after < 0.01 * before).all()


OFFSETS_ONLY = {
    "pool": lambda x: nn.avg_pool(nn.Conv(4, (3, 3), name="second")(x), (2, 2), (2, 2)),
    "again": lambda x: (lambda layer: layer(nn.relu(layer(x))))(nn.Dense(4, name="second")),
    "two axes": lambda x: nn.DenseGeneral((2, 3), name="second")(x),
    "pixels mixed": lambda x: jnp.einsum("bhwc,wv->bhvc", x, jnp.ones((6, 4)) / 6),
}


@pytest.mark.parametrize("kind", OFFSETS_ONLY)
def test_layers_that_cannot_be_fitted_are_left_and_their_site_gets_an_offset(kind):
    network, variables = ready(OFFSETS_ONLY[kind])
    corrected = convert.correct(network, X, T=2, mode="rounded", method="weights")
    if "second" in variables["params"]:
        kernel = variables["params"]["second"]["kernel"]
        np.testing.assert_array_equal(corrected.weights["params/second/kernel"], kernel)
    assert corrected.offsets.keys() >= set(network.sites)
    assert error(corrected, network) < error(network, network)


def test_layers_in_series_are_not_taken_for_layers_that_are_added():
    class Series(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Dense(4, name="first")(x.reshape(len(x), -1)))
            return nn.Dense(4, name="head")(nn.Dense(4, name="second")(x))

    model = Series()
    network = convert.calibrate((model, random(model, X)), X, "max", T=2, mode="rounded")
    assert [[op.inputs[1] for op in place.layers] for place in places(network)] == [
        ["params/first/kernel"],
        ["params/head/kernel"],
    ]
    corrected = convert.correct(network, X, T=2, mode="rounded", method="weights")
    assert error(corrected, network) < error(network, network)


def test_batch_norm_is_folded_before_weights_are_fitted():
    network, _ = ready(lambda x: nn.BatchNorm(use_running_average=True, epsilon=1e-2)(nn.Dense(4, name="second")(x)))
    corrected = convert.correct(network, X, T=200, mode="rounded", method="weights")
    assert not any("BatchNorm" in name for name in corrected.weights)
    np.testing.assert_allclose(corrected.apply(X), network.apply(X), atol=0.2)
    snn = convert.to_snn(corrected, 200, "rounded")
    np.testing.assert_allclose(snn.apply(X), network.apply(X), atol=0.02)


def test_outputs_of_every_kind():
    """Several heads, or an image: sites are corrected, and the output where it is one array of logits."""
    for head, corrected_output in (
        (lambda p, x: {"class": x @ p["a"], "box": [x @ p["b"]]}, False),
        (lambda p, x: x @ p["a"], True),
        (lambda p, x: (x @ p["a"]).sum(-1), False),
    ):
        rng = np.random.default_rng(0)
        p = {"first": rng.normal(size=(8, 6)), "a": rng.normal(size=(6, 3)), "b": rng.normal(size=(6, 4))}
        p = jax.tree.map(np.float32, p)
        fn = lambda p, x, head=head: head(p, jax.nn.relu(x.reshape(len(x), -1) @ p["first"]))  # noqa: E731
        network = convert.calibrate((fn, p), images(30), T=2, mode="rounded")
        corrected = convert.correct(network, images(30), T=2, mode="rounded")
        assert corrected.offsets.keys() == {"first", *([OUTPUT] if corrected_output else [])}
        wanted, got = network.apply(images(30)), convert.to_snn(corrected, 2, "rounded").apply(images(30))
        assert jax.tree.structure(wanted) == jax.tree.structure(got)


def test_refusals(digits_test):
    """None of them computes anything first."""
    network, x = mlp(), images(4)
    correct = partial(convert.correct, network, x, T=4)
    calls = {
        r"correction needs images \[N, \.\.\.\]; got none": lambda: convert.correct(network, x[:0], T=4),
        "T is the number of time steps": lambda: convert.correct(network, x, T=0),
        "ridge must be a finite number; got nan": lambda: correct(ridge=np.nan),
        "ridge must be at least 1e-06; got 0": lambda: correct(ridge=0),
        "seed must be a whole number of at least 0; got 0.5": lambda: correct(seed=0.5),
        "batch_size must be a whole number of at least 1; got -1": lambda: correct(batch_size=-1),
        "no threshold at dense0, dense1": lambda: convert.correct(mlp(ReLU()), x, T=4),
        "got Snn": lambda: convert.correct(convert.to_snn(network), x, T=4),
        "a network is an Ann, .* got VGG": lambda: convert.correct(models.create("vgg_small", 2, ReLU()), x, T=4),
        "NaN or infinity, first at": lambda: convert.correct(network, np.full_like(x, np.nan), T=4),
        r"takes a batch \[B, 2, 2, 2\]; got": lambda: convert.correct(network, digits_test.images, T=4),
        "v_init must be a finite number; got inf": lambda: correct(mode="baseline(v_init=1e999)"),
    }
    for message, call in calls.items():
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("method", METHODS)
def test_a_network_with_corrected_weights_is_no_aim_of_another_correction(method, tmp_path):
    convert.correct(mlp(), images(30), T=2, mode="baseline", method="weights").save(tmp_path / "corrected")
    with pytest.raises(InputError, match=r"weights were corrected, .*: correct the network from before"):
        convert.correct(convert.load(tmp_path / "corrected"), images(30), T=2, mode="baseline", method=method)


def test_the_option_knows_every_method():
    (option,) = (f for f in dataclasses.fields(Experiment) if f.name == "correct")
    assert {name for kind in get_args(option.type) for name in get_args(kind)} == METHODS.keys()


@pytest.mark.parametrize("method", METHODS)
def test_compiled_programs_are_not_kept(method):
    """A program of each site, method and T would exceed the memory maps of a process: Linux allows 65,530."""
    convert.correct(
        convert.calibrate(mlp(ReLU()), images(30), T=4, mode="baseline"),
        images(30),
        T=4,
        mode="baseline",
        method=method,
    )
    assert not any(compiled._cache_size() for compiled in correction.COMPILED)

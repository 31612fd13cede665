"""Networks that few people write, but that are linear between their activations: each converts.

Every case was wrong without an error, or failed with one that explained nothing.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import convert
from convert.thresholds import fold_thresholds
from tppjax.errors import InputError
from tppjax.neurons import SNM, Baseline, Burst, Ordered
from tppjax.tracing import trace

relu = jax.nn.relu
RNG = np.random.default_rng(1)
P = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in {"w": (6, 8), "v": (8, 3), "u": (8, 8)}.items()}
HEADS = {"w": RNG.normal(size=(3, 6, 8)).astype(np.float32), "v": RNG.normal(size=(3, 8, 3)).astype(np.float32)}
K = {"k": RNG.normal(size=(3, 3, 3, 4)).astype(np.float32), "w": RNG.normal(size=(4, 3)).astype(np.float32)}
X = RNG.normal(size=(32, 6)).astype(np.float32)
PARTS, IMAGES = RNG.normal(size=(16, 18)).astype(np.float32), RNG.normal(size=(8, 6, 6, 3)).astype(np.float32)
FRAMES = RNG.normal(size=(6, 3, 6, 6, 3)).astype(np.float32)


def conv(v, x):
    return jax.lax.conv_general_dilated(x, v["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def pool(x, size=2, strides=2):
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, (1, size, size, 1), (1, strides, strides, 1), "VALID")


def of_parts(activation):
    def network(v, x):
        return (activation(x.reshape(-1, 6) @ v["w"]) @ v["v"]).reshape(-1, 3, 3).sum(1)

    return network


def of_frames(v, x):
    y = relu(pool(conv(v, x.reshape(-1, 6, 6, 3))) + 0.3)
    return (y.mean((1, 2)) @ v["w"]).reshape(-1, 3, 3).sum(1)


def of_heads(v, x):
    y = relu(jnp.einsum("bi,gio->bgo", x, v["w"]))
    return jnp.einsum("bgi,gio->bgo", y, v["v"]).sum(1)


FIRST_AXES = {  # networks that fold something into the batch; variables, images, shape and channels of the site
    "parts in the batch": (of_parts(relu), P, PARTS, (3, 8), 1),
    "parts with a lower end": (of_parts(lambda x: jnp.clip(x, -1, 1)), P, PARTS, (3, 8), 1),
    "parts with bounds": (of_parts(lambda x: jnp.minimum(relu(x), jnp.arange(1, 9.0)[None])), P, PARTS, (3, 8), 1),
    "features first": (lambda v, x: (v["v"].T @ relu(v["w"].T @ x.T)).T, P, X, (8, 1), 0),
    "frames with max-pool": (of_frames, K, FRAMES, (3, 3, 3, 4), 3),
    "heads": (of_heads, HEADS, X, (3, 8), 1),
}


@pytest.mark.parametrize("name", FIRST_AXES)
def test_sites_of_parts_of_an_example(name, tmp_path):
    fn, variables, images, shape, axis = FIRST_AXES[name]
    expected = np.asarray(fn(variables, images))
    network = convert.calibrate((fn, variables), images, "max")
    (site,) = network.sites.values()
    assert (site.shape, site.axis) == (shape, axis)
    snn = convert.to_snn(network, 2000, "rounded")
    np.testing.assert_allclose(snn.apply(images), expected, atol=4e-3 * np.abs(expected).max())
    _, counts = snn.activity(images)
    assert counts[site.name].shape == (len(images), *shape)
    np.testing.assert_allclose(fold_thresholds(network).apply(images), expected, atol=1e-5 * np.abs(expected).max())
    network.save(tmp_path / "network")
    np.testing.assert_array_equal(convert.load(tmp_path / "network").apply(images), network.apply(images))
    if not site.before:
        trace = convert.to_snn(network, 8, "baseline").trace(images)
        assert trace.spikes[site.name].shape == (8, len(images), *shape)
        corrected = convert.correct(network, images, T=8, mode="baseline")
        assert np.isfinite(convert.to_snn(corrected, 8, "baseline").apply(images)).all()


class Mixed(nn.Module):
    """Convolutions in half precision, of images in single precision."""

    dtype: Any = jnp.bfloat16

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), dtype=self.dtype)(x))
        x = nn.relu(nn.Conv(5, (3, 3), dtype=self.dtype)(x))
        return nn.Dense(3)(x.mean((1, 2)))


@pytest.mark.parametrize("mode", ["baseline", "rounded"])
def test_mixed_precision(mode):
    model = Mixed()
    network = convert.calibrate((model, model.init(jax.random.key(0), IMAGES)), IMAGES)
    snn = convert.to_snn(network, 64, mode)
    expected = network.apply(IMAGES)
    np.testing.assert_allclose(snn.apply(IMAGES), expected, atol=0.1 * np.abs(expected).max())
    assert snn.trace(IMAGES).logits.shape == (64, 8, 3)
    folded = fold_thresholds(network).apply(IMAGES)
    np.testing.assert_allclose(folded, expected, atol=0.03 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_many_steps_in_half_precision(dtype):
    """The output is summed in single precision; in half precision, this sum would stop growing or overflow."""
    weights, x = (
        jax.tree.map(lambda a: jnp.asarray(a, dtype), {**P, "b": np.full((1, 3), 100.0)}),
        jnp.asarray(X, dtype),
    )
    network = convert.calibrate((lambda v, x: relu(x @ v["w"]) @ v["v"] + v["b"], weights), x, "max")
    mean = convert.to_snn(network, 2048, "baseline(v_init=0.5)").apply(x)
    assert mean.dtype == dtype
    np.testing.assert_allclose(np.float32(mean), np.float32(network.apply(x)), rtol=0.02)


def token(v, x):
    y = jnp.broadcast_to(v["v"][:, 0], (x.shape[0], 3, 8)).at[:, 0].set(relu(x @ v["w"]))
    return y.sum(1) @ v["v"]


def rnn(v, x):
    def step(state, bias):
        return relu(state @ v["u"] + bias), None

    return jax.lax.scan(step, x @ v["w"], v["v"].T[:, None, :])[0] @ v["v"]


def single(v, x):
    return jax.vmap(lambda x: relu((x @ v["w"]).sum())[None] @ v["v"][:1])(x)


TRACED = {  # the network, and its number of sites
    "a learned token": (token, 1),
    "a scan over biases": (rnn, 3),
    "a single neuron": (single, 1),
    "columns first": (lambda v, x: relu(x.reshape(-1, 2, 3).reshape((-1, 6), order="F") @ v["w"]) @ v["v"], 1),
    "whole numbers beside": (lambda v, x: (relu(x @ v["w"]) @ v["v"], jnp.ones((len(x), 2), int)), 1),
}


@pytest.mark.parametrize("name", TRACED)
def test_they_are_traced(name):
    fn, sites = TRACED[name]
    network = trace((fn, P), X)
    assert len(network.sites) == sites
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), network.apply(X), fn(P, X))


def test_small_images_of_large_kernels_in_half_precision():
    def network(v, x):
        x, k = (a.astype(jnp.bfloat16) for a in (x, v["k"]))
        numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "preferred_element_type": jnp.float32}
        return relu(jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", **numbers)).mean((1, 2))

    small = IMAGES[:, :2, :2]
    np.testing.assert_allclose(trace((network, K), small).apply(small), network(K, small), rtol=1e-5, atol=1e-6)


def branched(v, x):
    return jax.lax.cond(jax.random.bernoulli(jax.random.key(0)), relu, lambda y: relu(y + 1), x @ v["w"]) @ v["v"]


def precise(v, x):
    return relu(jnp.dot(x, v["w"], precision=jax.lax.DotAlgorithmPreset.F32_F32_F32)) @ v["v"]


REFUSED = {
    "one batch size": (lambda v, x: relu(x.reshape(1, 6) @ v["w"]) @ v["v"], "takes one example, but not a batch of"),
    "a number beside": (
        lambda v, x: (relu(x @ v["w"]) @ v["v"], 3),
        r"array of shape \(\), whose first axis is not the batch",
    ),
    "a branch at random": (branched, "draws at random .*test_unusual_networks.py"),
    "an algorithm": (precise, "the option DotAlgorithmPreset.F32_F32_F32, which a graph can't hold"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_explained(name):
    fn, said = REFUSED[name]
    with pytest.raises(InputError, match=said):
        trace((fn, P), X)


def padded(v, x):
    y = jnp.pad(conv(v, x), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf)
    return relu(pool(y, 3)).mean((1, 2)) @ v["w"]


@pytest.mark.parametrize("method", ["bias", "weights"])
def test_a_pad_for_max_pooling_is_corrected(method):
    network = convert.calibrate((padded, K), IMAGES)
    before, after = (
        np.square(convert.to_snn(n, 4, "rounded").apply(IMAGES) - network.apply(IMAGES)).mean()
        for n in (network, convert.correct(network, IMAGES, T=4, mode="rounded", method=method))
    )
    assert after < before


def doubled(v, x):
    y = relu(x @ v["w"]) @ v["u"]
    return relu(y + y) @ v["v"]


@pytest.mark.parametrize(("fn", "variables"), [(doubled, P), (of_heads, HEADS)])
def test_weights_that_count_twice_or_by_heads_are_left(fn, variables):
    network = convert.calibrate((fn, variables), X)
    before, after = (
        np.square(convert.to_snn(n, 4, "rounded").apply(X) - network.apply(X)).mean()
        for n in (network, convert.correct(network, X, T=4, mode="rounded", method="weights"))
    )
    assert after <= before * (1 + 1e-6)


@pytest.mark.parametrize("method", ["bias", "weights", "steps"])
def test_a_trace_has_the_correction_of_the_output(method):
    network = convert.calibrate((lambda v, x: relu(x @ v["w"]) @ v["v"], P), X, T=4)
    snn = convert.to_snn(convert.correct(network, X, T=4, mode="baseline", method=method), 4, "baseline")
    np.testing.assert_allclose(snn.trace(X).logits.mean(axis=0), snn.apply(X), atol=1e-5)


def one_or_other(v, x):
    return relu(jnp.where(np.arange(4)[None, None, None] < 2, pool(conv(v, x)), 0.7)).mean((1, 2)) @ v["w"]


def halves(v, x):
    return relu(relu(conv(v, x)) @ v["u"] + v["b"]).mean((1, 2)) @ v["w"]


HALF = jax.tree.map(
    lambda a: a.astype(np.float16), K | {"u": K["k"][0, 0, :1].T @ K["k"][0, 0, :1], "b": K["w"].T[:1, None, None]}
)


@pytest.mark.parametrize(("fn", "variables"), [(one_or_other, K), (halves, HALF)])
def test_thresholds_are_folded(fn, variables):
    images = IMAGES.astype(variables["k"].dtype)
    network = convert.calibrate((fn, variables), images)
    expected = np.float32(network.apply(images))
    tolerance = (1e-2 if images.dtype == np.float16 else 1e-5) * np.abs(expected).max()
    np.testing.assert_allclose(fold_thresholds(network).apply(images), expected, atol=tolerance)


NEURONS = {
    "a number": lambda: Baseline(v_init=np.float32(0.25)),
    "a whole number": lambda: Burst(gamma=np.int64(3)),
    "a double": lambda: SNM(v_init=np.float64(0.5)),
    "a range": lambda: Ordered(order=range(4)),
    "an array": lambda: Ordered(order=np.array([3, 2, 1, 0])),
    "numbers of an array": lambda: Ordered(order=tuple(np.arange(4))),
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_with_fields_of_numpy_are_saved(name, tmp_path):
    network = convert.calibrate((lambda v, x: relu(x @ v["w"]) @ v["v"], P), X, T=4)
    jaxtyping.config.update("jaxtyping_disable", True)  # users check no annotations
    try:
        snn = convert.to_snn(network, 4, NEURONS[name]())
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    snn.save(tmp_path / "snn")
    np.testing.assert_array_equal(convert.load(tmp_path / "snn").apply(X), snn.apply(X))

"""The operations that energy is estimated from, in networks of every wiring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from convert import energy
from tests.convert.test_unusual_networks import IMAGES, Mixed, P, X
from tppjax.errors import InputError

relu = jax.nn.relu


def layers(v, x):
    return relu(x @ v["a"]["w"]), relu(x @ -v["c"]["w"])


BELOW = {"a": {"w": P["w"]}, "b": {"w": P["v"]}, "c": {"w": P["w"]}}
COUNTED = {  # the layer `b` after sites of 8 neurons, the additions for a third of its spikes, and all multiply-adds
    "a sign": (lambda v, x: (-layers(v, x)[0]) @ v["b"]["w"], 1, 48 + 24),
    "a difference": (lambda v, x: (layers(v, x)[0] - layers(v, x)[1]) @ v["b"]["w"], 1, 2 * 48 + 24),
    "a sum": (lambda v, x: (layers(v, x)[0] + layers(v, x)[1]) @ v["b"]["w"], 1, 2 * 48 + 24),
    "a scale": (lambda v, x: (1.7 * layers(v, x)[0]) @ v["b"]["w"], 1, 48 + 24),
    "a mean": (lambda v, x: layers(v, x)[0].reshape(-1, 4, 2).mean(1) @ v["b"]["w"][:2], 1 / 4, 48 + 6),
    "a mean of one pixel": (
        lambda v, x: layers(v, x)[0].reshape(-1, 4, 2).mean(1, keepdims=True).reshape(-1, 2) @ v["b"]["w"][:2],
        1 / 4,
        48 + 6,
    ),
    "a constant beside": (
        lambda v, x: jnp.concatenate([layers(v, x)[0], jnp.ones((len(x), 8))], 1) @ jnp.tile(v["b"]["w"], (2, 1)),
        1,
        48 + 24,
    ),
}


@pytest.mark.parametrize("name", COUNTED)
def test_additions_and_multiply_adds(name):
    fn, fraction, multiply_adds = COUNTED[name]
    network = convert.calibrate((fn, BELOW), X)
    _, counts = convert.to_snn(network, 8, "rounded").activity(X)
    spikes = sum(np.asarray(a).sum(1) for a in counts.values())
    np.testing.assert_allclose(energy.additions(network, counts)["b"], 3 * fraction * spikes, rtol=1e-5)
    assert energy.multiply_adds(network)[0] == multiply_adds


def test_operations_in_mixed_precision():
    """Counts stay in single precision, in which whole numbers are exact."""
    single = Mixed(dtype=jnp.float32)
    variables = single.init(jax.random.key(0), IMAGES)
    networks = [convert.calibrate((module, variables), IMAGES) for module in (Mixed(), single)]
    ones = {name: jnp.ones((8, *site.shape)) for name, site in networks[0].sites.items()}
    mixed, expected = (energy.additions(network, ones) for network in networks)
    jax.tree.map(np.testing.assert_array_equal, mixed, expected)
    assert energy.multiply_adds(networks[0]) == energy.multiply_adds(networks[1])


def test_weights_without_names_of_layers():
    network = convert.calibrate((lambda v, x: relu(x @ v["w"]) @ v["v"], P), X)
    _, counts = convert.to_snn(network, 8, "rounded").activity(X)
    assert sorted(energy.additions(network, counts)) == ["v", "w"]
    network = convert.calibrate((lambda v, x: relu(x @ P["w"]) @ P["v"], {}), X)
    with pytest.raises(InputError, match="no layer has weights that are variables of the network"):
        energy.multiply_adds(network)

"""The ANN's activations against their formulas and straight-through gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tppjax import activations
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.errors import InputError


@pytest.mark.parametrize(("L", "theta"), [(1, 1.0), (4, 0.7), (8, 8.0)])
def test_qcfs_is_its_formula(L, theta):
    x = np.linspace(-0.5 * theta, 1.5 * theta, 997, dtype=np.float32)
    expected = theta * np.clip(np.floor(x * L / theta + 0.5) / L, 0, 1)
    np.testing.assert_allclose(activations.qcfs(jnp.array(x), theta, L), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_qcfs_in_other_precisions(dtype):
    x, enabled = jnp.linspace(-0.5, 1.5, 64, dtype=dtype), jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", dtype == jnp.float32)
    try:
        y, slope = jax.vmap(jax.value_and_grad(lambda x: activations.qcfs(x, 1.0, 4)))(x)
    finally:
        jax.config.update("jax_enable_x64", enabled)
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.float32(y), np.clip(np.floor(np.float32(x) * 4 + 0.5), 0, 4) / 4)
    np.testing.assert_array_equal(np.float32(slope), (x > 0) & (x < 1))


def test_qcfs_gradients_pass_straight_through():
    """In x: 1 inside the clip, 0 outside. In theta: quantised value over theta, less x / theta inside."""
    theta, L = 2.0, 4
    x = np.array([-0.3, 0.1, 0.7, 1.3, 1.9, 2.6], np.float32)
    inside = (x > 0) & (x < theta)
    quantised = np.clip(np.floor(x * L / theta + 0.5) / L, 0, 1)
    # In x and theta by summing the gradients of single outputs, none of which sees another's input.
    in_x, in_theta = jax.vmap(jax.grad(lambda x, theta: activations.qcfs(x, theta, L), (0, 1)), (0, None))(x, theta)
    np.testing.assert_array_equal(in_x, inside)
    np.testing.assert_allclose(in_theta, quantised - np.where(inside, x / theta, 0), atol=1e-6)


def test_clipped_relu():
    x = jnp.array([-1.0, 0.5, 3.0])
    np.testing.assert_array_equal(activations.clipped_relu(x, 2.0), [0, 0.5, 2])
    np.testing.assert_array_equal(jax.vmap(jax.grad(activations.clipped_relu), (0, None))(x, 2.0), [0, 1, 0])


@pytest.mark.parametrize(("module", "theta"), [(QCFS(L=4), 8.0), (ClippedReLU(bound=2.0), 2.0)])
def test_modules_own_one_leaf_theta(module, theta):
    variables = module.init(jax.random.key(0), jnp.zeros((2, 3)))
    assert jax.tree.map(float, variables) == {"params": {"theta": theta}}


def test_relu_owns_none():
    assert ReLU().init(jax.random.key(0), jnp.zeros((2, 3))) == {}


@pytest.mark.parametrize("module", [QCFS(L=4), ClippedReLU()])
def test_modules_take_a_threshold_for_each_channel(module):
    theta = jnp.array([1.0, 2.0])
    y = module.apply({"params": {"theta": theta}}, jnp.full((3, 5, 2), 9.0))
    np.testing.assert_array_equal(y, jnp.broadcast_to(theta, (3, 5, 2)))


def test_clipped_relu_keeps_its_bound_when_trained():
    def loss(variables):
        return ClippedReLU().apply(variables, jnp.full(3, 9.0)).sum()

    assert jax.grad(loss)({"params": {"theta": jnp.array(1.0)}})["params"]["theta"] == 0


@pytest.mark.parametrize("L", [0, -1, 1.5, True])
def test_levels_are_refused(L):
    with pytest.raises(InputError, match=f"its number of levels, must be a whole number of at least 1; got {L}"):
        QCFS(L=L)


@pytest.mark.parametrize("height", [0, -1.0, np.nan, np.inf])
def test_heights_are_refused(height):
    with pytest.raises(InputError, match="bound of ClippedReLU must be"):
        ClippedReLU(bound=height)
    with pytest.raises(InputError, match="theta_init of QCFS must be"):
        QCFS(theta_init=height)


def test_clipped_relu_without_theta_clips_at_its_bound():
    np.testing.assert_array_equal(ClippedReLU(bound=6.0).apply({}, jnp.array([-1.0, 5.0, 9.0])), [0, 5, 6])

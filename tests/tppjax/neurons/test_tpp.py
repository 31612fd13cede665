"""Counts of two-phase neurons: their law against its recursion in plain Python, and draws against it at 5 sigma."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tppjax import neurons
from tppjax.neurons import TPP, Rounded, Unbiased, in_thresholds, tpp

DRAWS = 200_000
# Asymmetric points: a sign error, or a law mirrored in u, can't pass.
POINTS = [(T, u) for T in (2, 8, 32) for u in (0.1, 1.5, T - 0.1)]


def probability_of_one_more(u: float, T: int) -> float:
    """P(count = floor(u) + 1), by Eq. 7 followed step by step: float64, no shared code."""

    @functools.cache
    def g(fired: int, t: int) -> float:
        if t > T:
            return float(fired == int(u) + 1)
        p = min(max((u - fired) / (T - t + 1), 0.0), 1.0)
        return p * g(fired + 1, t + 1) + (1 - p) * g(fired, t + 1)

    return g(0, 1)


def five_sigma(p: float, n: int = DRAWS) -> float:
    return 5 * np.sqrt(p * (1 - p) / n) + 1e-9


@pytest.mark.parametrize("T", [1, 2, 3, 8, 32])
def test_law_is_eq_7_followed_step_by_step(T):
    f = np.array([0.0, 0.1, 0.5, 0.75])
    g = tpp.one_more_probability(f, T)
    expected = [[probability_of_one_more(a + x, T) for x in f] for a in range(T)]
    np.testing.assert_allclose(g, expected, atol=1e-12)


def test_law_at_a_0_is_its_closed_form():
    f = np.linspace(0, 1, 7)
    n = np.arange(1, 17)[:, None]
    np.testing.assert_allclose(tpp.one_more_probability(f, 16)[0], 1 - np.prod(1 - f / n, axis=0), atol=1e-14)


@pytest.mark.parametrize("T", [*range(1, 17), 31, 32, 64, 100, 128, 256, 500])
def test_polynomial_is_within_1e_5_of_the_law(T):
    """In float32 as it is used; near 0 and T, where the law bends most, and in between."""
    rng = np.random.default_rng(T)
    low, high = min(4, T), max(T - 4, 0)
    u = np.concatenate([rng.uniform(a, b, 150) for a, b in ((0, low), (high, T), (0, T))]).astype(np.float32)
    a = np.floor(u).astype(int)
    one_more_probability = tpp.one_more_probability(u.astype(np.float64) - a, T)[a, np.arange(len(u))]
    found = jax.jit(tpp.probability_of_one_more, static_argnums=2)(u, np.float32(a), T)
    np.testing.assert_allclose(found, one_more_probability, atol=1e-5)


@pytest.mark.parametrize(("T", "u"), POINTS)
def test_tpp_draws_the_law(T, u):
    theta = 0.7
    drawn = np.asarray(TPP().count(in_thresholds(jnp.full(DRAWS, u * theta), theta), T, jax.random.key(T)))
    assert set(np.unique(drawn)) <= {np.floor(u), np.floor(u) + 1}
    p = probability_of_one_more(u, T)
    assert abs((drawn == np.floor(u) + 1).mean() - p) < five_sigma(p)


@pytest.mark.parametrize(("T", "u"), POINTS)
def test_unbiased_has_mean_u(T, u):
    drawn = np.asarray(Unbiased().count(jnp.full(DRAWS, u), T, jax.random.key(T)))
    assert set(np.unique(drawn)) <= {np.floor(u), np.floor(u) + 1}
    f = u - np.floor(u)
    assert abs((drawn == np.floor(u) + 1).mean() - f) < five_sigma(f)


def test_the_mean_of_tpp_is_not_u():
    """Theorem 1(a) of the paper would have 0.5 at every T."""
    means = [tpp.mean_count(0.5, T) for T in (1, 2, 4, 8)]
    np.testing.assert_allclose(means, [0.5, 0.625, 0.7265625, 0.803619], atol=1e-6)
    u = np.linspace(0, 8, 41)
    np.testing.assert_allclose(tpp.mean_count(u, 8), 8 - tpp.mean_count(8 - u, 8), atol=1e-12)  # mirror image
    assert (tpp.mean_count(np.arange(9.0), 8) == np.arange(9)).all()


@pytest.mark.parametrize("theta", [0.1, 0.7, 1.0, 3.3])
@pytest.mark.parametrize("neuron", [TPP(), Unbiased(), Rounded()], ids=str)
def test_whole_thresholds_give_exactly_as_many_spikes(neuron, theta):
    T = 32
    k = jnp.tile(jnp.arange(T + 1.0), 100)
    drawn = neuron.count(in_thresholds(k * theta, theta), T, jax.random.key(0))
    np.testing.assert_array_equal(drawn, k)


@pytest.mark.parametrize("neuron", [TPP(), Unbiased(), Rounded()], ids=str)
def test_out_of_range_and_dead_neurons(neuron):
    v, theta = jnp.array([-3.0, 0.0, 8.0, 100.0, 5.0, 5.0]), jnp.array([1.0, 1.0, 1.0, 1.0, 0.0, -1.0])
    np.testing.assert_array_equal(neuron.count(in_thresholds(v, theta), 8, jax.random.key(0)), [0, 0, 8, 8, 0, 0])


def test_rounded_takes_the_nearest():
    np.testing.assert_array_equal(Rounded().count(jnp.array([0.49, 0.5, 1.49, 1.5, 3.6]), 4, None), [0, 1, 1, 2, 4])


@pytest.mark.parametrize("T", [0, -1, 4097, 2.0, "4", True, None])
def test_steps_are_a_whole_number_of_at_least_1(T):
    with pytest.raises(ValueError, match="T is the number of time steps"):
        neurons.check_steps(T)

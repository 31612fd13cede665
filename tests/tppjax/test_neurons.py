"""Spike trains: each neuron against the paper's algorithm as a plain loop, or against its exact distribution."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tppjax import counts, neurons

DRAWS = 200_000


def probability(train, u: float) -> float:
    """Of a spike train under Eq. 7, in float64."""
    T, fired, result = len(train), 0, 1.0
    for t, spike in enumerate(train, 1):
        p = min(max((u - fired) / (T - t + 1), 0.0), 1.0)
        result *= p if spike else 1 - p
        fired += spike
    return result


def assert_distribution(trains, expected: dict):
    """Every train of `expected` as often as it should be, at 5 sigma, and no other."""
    trains = np.asarray(trains).T
    for train, p in expected.items():
        share = (trains == train).all(axis=1).mean()
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / len(trains)) + 1e-9, (train, share, p)
    assert sum(expected.values()) == pytest.approx(1)


@pytest.mark.parametrize("v_init", [0.0, 0.375])
def test_integrate_and_fire_is_algorithm_1(v_init):
    T, n, theta = 16, 200, 0.5
    # Multiples of 1/8, so that the loop's repeated subtraction is exact, and potentials of exactly theta occur.
    current = np.random.default_rng(0).integers(-4, 9, (T, n)) / 8
    v, expected = np.full(n, v_init), np.zeros((T, n))
    for t in range(T):
        v = v + current[t]
        for i in range(n):
            if v[i] >= theta:
                expected[t, i] = 1
                v[i] -= theta
    assert (expected.sum(axis=0) > 0).any()
    spikes = neurons.integrate_and_fire(jnp.float32(current), theta, v_init)
    np.testing.assert_array_equal(spikes, expected)


@pytest.mark.parametrize("theta", [0.1, 0.7, 3.3])
def test_integrate_and_fire_loses_no_spike_to_rounding(theta):
    """Repeated `v - theta` in float32 misses one within a few steps."""
    assert neurons.integrate_and_fire(jnp.full((1000, 1), theta), theta).sum() == 1000


def test_integrate_and_fire_takes_a_threshold_for_each_channel_and_keeps_dead_ones_silent():
    theta = jnp.array([0.5, 1.0, 0.0])
    spikes = neurons.integrate_and_fire(jnp.full((4, 2, 3), 0.5), theta[None], 0.0)
    np.testing.assert_array_equal(spikes.sum(axis=0), [[4, 2, 0]] * 2)


def test_shuffle_keeps_counts_and_is_uniform():
    train = jnp.array([1.0, 1.0, 0.0, 0.0])
    shuffled = neurons.shuffle(jnp.tile(train[:, None], (1, DRAWS)), jax.random.key(0))
    np.testing.assert_array_equal(shuffled.sum(axis=0), 2)
    arrangements = [t for t in product((0, 1), repeat=4) if sum(t) == 2]
    assert_distribution(shuffled, dict.fromkeys(arrangements, 1 / 6))


@pytest.mark.parametrize("T", [1, 5, 32])
def test_shuffle_keeps_every_count(T):
    spikes = jax.random.bernoulli(jax.random.key(1), 0.4, (T, 7, 11)).astype(jnp.float32)
    shuffled = neurons.shuffle(spikes, jax.random.key(2))
    np.testing.assert_array_equal(shuffled.sum(axis=0), spikes.sum(axis=0))


def test_shared_shuffle_is_one_permutation_for_all():
    spikes = jnp.eye(6)  # neuron i fires at step i, so the result is the permutation's matrix
    shuffled = neurons.shuffle(spikes, jax.random.key(3), shared=True)
    np.testing.assert_array_equal(shuffled.sum(axis=0), 1)
    np.testing.assert_array_equal(shuffled.sum(axis=1), 1)
    assert not (shuffled == spikes).all()


def test_permute_shows_step_order_t_at_t():
    spikes = jnp.eye(3)
    np.testing.assert_array_equal(neurons.permute(spikes, [2, 0, 1]), spikes[np.array([2, 0, 1])])
    with pytest.raises(AssertionError):
        neurons.permute(spikes, [0, 1])


@pytest.mark.parametrize("u", [0.1, 1.5, 2.9])
def test_tpp_is_eq_7_train_by_train(u):
    """All 8 trains of T = 3, hence the count too."""
    spikes = neurons.tpp(jnp.full(DRAWS, u * 0.7), 0.7, 3, jax.random.key(0))
    assert_distribution(spikes, {t: probability(t, u) for t in product((0, 1), repeat=3)})


@pytest.mark.parametrize("name", ["tpp", "rounded", "unbiased"])
def test_trains_and_counts_agree(name):
    """Same support, same mean at 5 sigma, for potentials below 0, above T and dead neurons too."""
    T, n = 8, 20_000
    u = jnp.array([-1.0, 0.0, 0.1, 1.5, 4.0, 7.9, 8.0, 20.0, 3.0])
    theta = jnp.array([0.5] * 8 + [0.0])
    v = jnp.tile(u * 0.5, (n, 1))
    keys = [] if name == "rounded" else [jax.random.key(0)]
    spikes = np.asarray(getattr(neurons, name)(v, theta[None], T, *keys))
    drawn = np.asarray(getattr(counts, name)(v, theta[None], T, *keys))
    assert spikes.shape == (T, n, 9)
    assert set(np.unique(spikes)) == {0, 1}
    np.testing.assert_array_equal(spikes.sum(axis=0).max(axis=0), drawn.max(axis=0))
    np.testing.assert_array_equal(spikes.sum(axis=0).min(axis=0), drawn.min(axis=0))
    error = spikes.sum(axis=0).mean(axis=0) - drawn.mean(axis=0)
    assert (np.abs(error) <= 5 * np.sqrt(2 * 0.25 / n)).all()


def test_rounded_spreads_its_spikes_evenly():
    spikes = neurons.rounded(jnp.array([0.0, 1.0, 3.0, 8.0]), 1.0, 8)
    np.testing.assert_array_equal(spikes.sum(axis=0), [0, 1, 3, 8])
    fired = np.cumsum(spikes, axis=0)
    t = np.arange(1, 9)[:, None]
    np.testing.assert_array_equal(fired, np.floor(t * np.array([0, 1, 3, 8]) / 8))


def test_unbiased_fires_at_every_step_alike():
    u, T = 2.3, 5
    share = np.asarray(neurons.unbiased(jnp.full(DRAWS, u), 1.0, T, jax.random.key(0))).mean(axis=1)
    p = u / T
    assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / DRAWS)).all()

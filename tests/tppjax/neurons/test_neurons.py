"""Spike trains: each neuron against its authors' algorithm as a plain loop, or against its exact distribution."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tppjax.errors import InputError
from tppjax.neurons import TPP, Baseline, Ordered, Rounded, Shuffle, Unbiased, in_thresholds, parse, simulate

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
    spikes = simulate(Baseline(v_init / theta), jnp.float32(current) / theta)
    np.testing.assert_array_equal(spikes, expected)


@pytest.mark.parametrize("theta", [0.1, 0.7, 3.3])
def test_integrate_and_fire_loses_no_spike_to_rounding(theta):
    """Repeated `v - theta` in float32 misses one within a few steps."""
    assert simulate(Baseline(), in_thresholds(jnp.full((1000, 1), theta), theta)).sum() == 1000


def test_integrate_and_fire_takes_a_threshold_for_each_channel_and_keeps_dead_ones_silent():
    theta = jnp.array([0.5, 1.0, 0.0])
    spikes = simulate(Baseline(), in_thresholds(jnp.full((4, 2, 3), 0.5), theta[None]))
    np.testing.assert_array_equal(spikes.sum(axis=0), [[4, 2, 0]] * 2)


def test_shuffle_keeps_counts_and_is_uniform():
    train = jnp.array([1.0, 1.0, 0.0, 0.0])
    shuffled = simulate(Shuffle(), jnp.tile(train[:, None], (1, DRAWS)), jax.random.key(0))
    np.testing.assert_array_equal(shuffled.sum(axis=0), 2)
    arrangements = [t for t in product((0, 1), repeat=4) if sum(t) == 2]
    assert_distribution(shuffled, dict.fromkeys(arrangements, 1 / 6))


@pytest.mark.parametrize("T", [1, 5, 32])
def test_shuffle_keeps_every_count(T):
    spikes = jax.random.bernoulli(jax.random.key(1), 0.4, (T, 7, 11)).astype(jnp.float32)
    shuffled = simulate(Shuffle(), spikes, jax.random.key(2))
    np.testing.assert_array_equal(shuffled.sum(axis=0), spikes.sum(axis=0))


def test_shared_shuffle_is_one_permutation_for_all():
    spikes = jnp.eye(6)  # neuron i fires at step i, so the result is the permutation's matrix
    shuffled = simulate(Shuffle(shared=True), spikes, jax.random.key(3))
    np.testing.assert_array_equal(shuffled.sum(axis=0), 1)
    np.testing.assert_array_equal(shuffled.sum(axis=1), 1)
    assert not (shuffled == spikes).all()


def test_ordered_shows_step_order_t_at_t():
    spikes = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(simulate(Ordered(order=(2, 0, 1)), spikes), spikes[[2, 0, 1]])
    with pytest.raises(InputError, match=r"order has each of the steps 0 to 2 once; got \(0, 1\)"):
        simulate(Ordered(order=(0, 1)), spikes)


def accumulated(u, T: int):
    """An input over time whose sum is exactly `u`."""
    return jnp.zeros((T, *u.shape)).at[0].set(u)


@pytest.mark.parametrize("u", [0.1, 1.5, 2.9])
def test_tpp_is_eq_7_train_by_train(u):
    """All 8 trains of T = 3, hence the count too."""
    spikes = simulate(TPP(), accumulated(jnp.full(DRAWS, u), 3), jax.random.key(0))
    assert_distribution(spikes, {t: probability(t, u) for t in product((0, 1), repeat=3)})


@pytest.mark.parametrize("neuron", [TPP(), Rounded(), Unbiased()], ids=str)
def test_trains_and_counts_agree(neuron):
    """Same support, same mean at 5 sigma, for potentials below 0 and above T too."""
    T, n, key = 8, 20_000, jax.random.key(0)
    u = jnp.tile(jnp.array([-1.0, 0.0, 0.1, 1.5, 4.0, 7.9, 8.0, 20.0]), (n, 1))
    spikes = np.asarray(simulate(neuron, accumulated(u, T), key))
    drawn = np.asarray(neuron.count(u, T, key))
    assert spikes.shape == (T, n, 8)
    assert set(np.unique(spikes)) == {0, 1}
    np.testing.assert_array_equal(spikes.sum(axis=0).max(axis=0), drawn.max(axis=0))
    np.testing.assert_array_equal(spikes.sum(axis=0).min(axis=0), drawn.min(axis=0))
    error = spikes.sum(axis=0).mean(axis=0) - drawn.mean(axis=0)
    assert (np.abs(error) <= 5 * np.sqrt(2 * 0.25 / n)).all()


def test_rounded_spreads_its_spikes_evenly():
    spikes = simulate(Rounded(), accumulated(jnp.array([0.0, 1.0, 3.0, 8.0]), 8))
    np.testing.assert_array_equal(spikes.sum(axis=0), [0, 1, 3, 8])
    fired = np.cumsum(spikes, axis=0)
    t = np.arange(1, 9)[:, None]
    np.testing.assert_array_equal(fired, np.floor(t * np.array([0, 1, 3, 8]) / 8))


def test_unbiased_fires_at_every_step_alike():
    u, T = 2.3, 5
    share = np.asarray(simulate(Unbiased(), accumulated(jnp.full(DRAWS, u), T), jax.random.key(0))).mean(axis=1)
    p = u / T
    assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / DRAWS)).all()


@pytest.mark.parametrize("T", [1, 5, 32])
@pytest.mark.parametrize("neuron", [*(Baseline(v_init=v) for v in (0, 0.5, 1.5)), Baseline(shift=0.5)], ids=str)
def test_count_is_what_a_constant_input_gives(neuron, T):
    """The closed form of `count` against the simulation, below 0, between whole numbers and above T."""
    u = jnp.arange(-16.0, 8 * T + 16) / 8 + 1 / 16
    np.testing.assert_array_equal(
        neuron.count(u, T, None), simulate(neuron, jnp.broadcast_to(u / T, (T, *u.shape))).sum(axis=0)
    )


@pytest.mark.parametrize(
    ("mode", "neuron"),
    [
        ("tpp", TPP()),
        ("baseline(v_init=0.25)", Baseline(v_init=0.25)),
        ("shuffle(shared=True)", Shuffle(shared=True)),
        ("ordered(order=(1, 0))", Ordered(order=(1, 0))),
    ],
)
def test_modes_as_text(mode, neuron):
    assert parse(mode) == neuron == parse(neuron)
    assert str(neuron) == mode
    assert vars(parse(mode)) == vars(neuron)  # what is not compared, too


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("tp", "unknown mode 'tp'; known: baseline, shuffle, tpp, rounded, .*, srp, and package.module:Name"),
        ("tpp(", "mode 'tpp\\(' can't be made: "),
        ("baseline(0.5)", "fields are given by name, as in burst\\(gamma=2\\)"),
        ("baseline(v=1)", "unexpected keyword argument 'v'"),
        ("baseline(v_init=nan)", "mode .* can't be made: "),
        ("graded(levels=4097)", "levels must be at most 4096"),
        ("nowhere:Name", r"no neuron nowhere:Name \(ModuleNotFoundError: No module named 'nowhere'\): give"),
        ("json:loads", "json:loads is not a neuron, a subclass of"),
        ("tppjax.neurons:Name", "no neuron tppjax.neurons:Name .*has no attribute 'Name'"),
        (TPP, "a mode is the name of a neuron, .*; give TPP\\(\\), not the class"),
        (3, "a mode is the name of a neuron, .*; got 3"),
    ],
)
def test_what_is_no_mode(mode, message):
    with pytest.raises(InputError, match=message):
        parse(mode)

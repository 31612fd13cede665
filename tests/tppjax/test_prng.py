"""The hash PRNG: uniform and independent across places, keys and seeds at 5 sigma, and the same however it is run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tppjax import prng

N = 1 << 18


def key(seed):
    return jax.random.key(seed, impl=prng.HASH)


@pytest.mark.parametrize("shift", [0, 8, 16, 24])
def test_every_byte_is_uniform(shift):
    bits = np.asarray(jax.random.bits(key(0), (N,)))
    counts = np.bincount((bits >> shift) & 255, minlength=256)
    chi2 = ((counts - N / 256) ** 2 / (N / 256)).sum()
    assert abs(chi2 - 255) < 5 * np.sqrt(2 * 255)


@pytest.mark.parametrize("lag", [1, 2, 16, 32, 1024])
def test_neurons_are_independent(lag):
    u = np.asarray(jax.random.uniform(key(1), (N,)), np.float64) - 0.5
    assert abs(12 * np.mean(u[:-lag] * u[lag:])) < 5 / np.sqrt(N)


def test_seeds_sites_and_examples_are_independent():
    """Draws of keys that differ by little: every pair uncorrelated, and no bit of one tells of that bit of another."""
    keys = [key(s) for s in range(8)]
    keys += [jax.random.fold_in(keys[0], i) for i in range(8)] + list(jax.random.split(keys[1], 8))
    bits = np.stack([np.asarray(jax.random.bits(k, (N // 16,))) for k in keys])
    n = bits.shape[1]
    corr = np.corrcoef(bits.astype(np.float64)) - np.eye(len(keys))
    assert (np.abs(corr) < 5 / np.sqrt(n)).all()
    for bit in range(0, 32, 5):
        ones = ((bits >> bit) & 1) * 2.0 - 1
        assert (np.abs(ones @ ones.T / n - np.eye(len(keys))) < 5 / np.sqrt(n)).all()


def test_seeds_and_keys_are_those_of_threefry():
    """So what is known of deriving keys holds here too."""
    for derive in (lambda k: jax.random.fold_in(k, 7), lambda k: jax.random.split(k, 3)):
        np.testing.assert_array_equal(
            jax.random.key_data(derive(key(5))), jax.random.key_data(derive(jax.random.key(5, impl="threefry2x32")))
        )


def test_jit_and_vmap_change_nothing():
    keys = jax.random.split(key(0), 4)
    alone = np.stack([jax.random.bits(k, (5, 3)) for k in keys])
    np.testing.assert_array_equal(jax.jit(jax.vmap(lambda k: jax.random.bits(k, (5, 3))))(keys), alone)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.uint16, jnp.uint32])
def test_other_widths(dtype):
    bits = jax.random.bits(key(0), (1000,), dtype)
    assert bits.dtype == dtype
    assert abs(float(bits.mean()) / jnp.iinfo(dtype).max - 0.5) < 5 / np.sqrt(12 * 1000)


def test_hashed_keys_are_those_of_the_seed():
    """Of threefry and hash keys by their words; of other kinds one for each key, alone and mapped."""
    for seed in (0, 5):
        for impl in ("threefry2x32", prng.HASH):
            assert (prng.hashed(jax.random.key(seed, impl=impl)) == key(seed)).all()
    rbg = jax.random.split(jax.random.key(0, impl="rbg"), 3)
    words = jax.random.key_data(jax.vmap(prng.hashed)(rbg))
    np.testing.assert_array_equal(words, [jax.random.key_data(prng.hashed(k)) for k in rbg])
    assert len(np.unique(words)) == 6

"""A PRNG for many cheap draws, into which spiking networks convert any key: `prng.hashed(jax.random.key(seed))`.

Keys are made, split and folded by threefry, like JAX's own. Only the bits of an array are not: each is a hash of its
index and the key. That is ten times cheaper on a CPU, where threefry is most of the cost of a random spiking network.
The hash is two rounds of a 32-bit finaliser of low bias (Wellons' "lowbias32"), each preceded by one half of the key.
It is not for cryptography.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.extend import random as extend

from tppjax.types import Key


def _mix(x: jax.Array) -> jax.Array:
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    if bit_width == 64:
        high, low = _random_bits(key, 32, (2, *shape)).astype(jnp.uint64)
        return high << 32 | low
    place = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    bits = _mix(_mix(place ^ key[0]) ^ key[1])
    return (bits >> (32 - bit_width)).astype(f"uint{bit_width}")


def _threefry(data: jax.Array) -> Key:
    return jax.random.wrap_key_data(data, impl="threefry2x32")


HASH = extend.define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: jax.random.key_data(extend.seed_with_impl(extend.threefry_prng_impl, seed)),
    split=lambda key, shape: jax.random.key_data(jax.random.split(_threefry(key), shape)),
    fold_in=lambda key, data: jax.random.key_data(jax.random.fold_in(_threefry(key), data)),
    random_bits=_random_bits,
    name="tppjax_hash",
    tag="hash",
)


def hashed(key: Key) -> Key:
    """The key of `HASH` that corresponds to a key of any implementation.

    It takes over the two words of a threefry key, so `hashed(jax.random.key(seed))` is `jax.random.key(seed,
    impl=HASH)`; the words of other kinds of keys are folded in, one after another.
    """
    words = jax.random.key_data(key).ravel()
    if words.size == 2:
        return jax.random.wrap_key_data(words, impl=HASH)
    return functools.reduce(jax.random.fold_in, words, jax.random.key(0, impl=HASH))

"""Spike counts: the two-phase neurons of `neurons.py` when only the number of spikes matters.

A two-phase neuron reads its input only through the sum over time, so between two layers nothing is lost by passing
counts instead of spike trains. For the TPP neuron the count has a closed law. With `u = v / theta` in (0, T),
`a = floor(u)` and `f = u - a`, it is `a` or `a + 1` (Theorem 1c), and

    P(count = a + 1) = g(a, T),   g(j, n) = p g(j-1, n-1) + (1-p) g(j, n-1),   p = clip((j + f) / n, 0, 1)

with `g(-1, n) = 1` and `g(j, 0) = 0`: `j` whole thresholds still to fire, `n` steps left, Eq. 7 for `p`. So one uniform
number per neuron draws the count, at a cost that does not grow with T.

The mean count is *not* `u`, whatever Theorem 1(a) says: the clip in Eq. 7 makes it too high near 0 and too low near T.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np

INTERVALS = 1024  # of the table in f; linear between them errs by less than 1e-5 up to T = 4096


def in_thresholds(v, theta):
    """`u = v / theta`, the potential in units of the threshold; a dead neuron (`theta <= 0`) never fires: `u = 0`."""
    theta = jnp.broadcast_to(theta, jnp.shape(v))
    return v / jnp.where(theta > 0, theta, jnp.inf)


def rounded(v, theta, T: int):
    """`count = clip(floor(v / theta + 1/2), 0, T)`: the nearest count, drawn without chance.

    With `T = L` it is the QCFS activation (Bu et al., ICLR 2022) in spikes, hence an exact conversion.

    Args:
      v: potential accumulated over all T steps, any shape.
      theta: threshold, broadcasts to `v`, in the units of `v`.
      T: number of time steps.

    Returns:
      Whole numbers in 0..T of the shape and dtype of `v`.
    """
    return jnp.clip(jnp.floor(in_thresholds(v, theta) + 0.5), 0, T)


def unbiased(v, theta, T: int, key):
    """`count = floor(u) + Bernoulli(u - floor(u))` with `u = clip(v / theta, 0, T)`: its mean is `u` exactly.

    Args:
      v: potential accumulated over all T steps, any shape.
      theta: threshold, broadcasts to `v`, in the units of `v`.
      T: number of time steps.
      key: PRNG key; every neuron draws once.

    Returns:
      Whole numbers in 0..T of the shape and dtype of `v`.
    """
    u = jnp.clip(in_thresholds(v, theta), 0, T)
    return jnp.floor(u) + jax.random.bernoulli(key, u - jnp.floor(u))


def tpp(v, theta, T: int, key):
    """The number of spikes of a TPP neuron (Eq. 7, Algorithm 3), drawn from its law with 32 random bits a neuron.

    20 bits are the coin. The other 12 choose one of the two points of the table around `f`, the nearer one more often,
    which on average is the line between them; so the probability is exact within 1e-5 and one look-up is enough.

    Args:
      v: potential accumulated over all T steps, any shape.
      theta: threshold, broadcasts to `v`, in the units of `v`.
      T: number of time steps.
      key: PRNG key; every neuron draws once.

    Returns:
      Whole numbers in 0..T of the shape and dtype of `v`: `floor(u)` or `floor(u) + 1`.
    """
    u = jnp.clip(in_thresholds(v, theta), 0, T)
    a = jnp.minimum(jnp.floor(u), T - 1)
    bits = jax.random.bits(key, u.shape, jnp.uint32)
    coin, dither = (bits & 0xFFFFF).astype(u.dtype) / 2**20, (bits >> 20).astype(u.dtype) / 2**12
    return a + (coin < _at(_table(T), a, jnp.floor((u - a) * INTERVALS + dither)))


def probability_of_one_more(u, a, T: int):
    """`P(count = a + 1)` of a TPP neuron with `u` in [0, T] and `a = floor(u)`, but T - 1 at u = T; within 1e-5."""
    x = (u - a) * INTERVALS
    i = jnp.minimum(jnp.floor(x), INTERVALS - 1)
    low, high = (_at(_table(T), a, i + k) for k in (0, 1))
    return low + (x - i) * (high - low)


def mean_tpp(u, T: int) -> np.ndarray:
    """Mean count of a TPP neuron whose accumulated potential is `u` thresholds, exactly, in float64 on the host.

    >>> [round(float(mean_tpp(0.5, T)), 3) for T in (2, 4, 8, 16, 32)]
    [0.625, 0.727, 0.804, 0.86, 0.901]
    """
    u = np.clip(np.asarray(u, np.float64), 0, T)
    a = np.minimum(np.floor(u), T - 1).astype(int)
    flat_a, flat_f = a.ravel(), (u - a).ravel()
    return (flat_a + law(flat_f, T)[flat_a, np.arange(flat_f.size)]).reshape(u.shape)


def law(f, T: int) -> np.ndarray:
    """`g(a, T) = P(count = a + 1)` for every `a` in 0..T-1 and every `f` given: float64 `[T, len(f)]`, on the host.

    The recursion at the head of this file, unrolled over the number of steps left. `a = 0` is the closed form
    `1 - prod_{n=1..T} (1 - f/n)`.
    """
    check_steps(T)
    f = np.asarray(f, np.float64)
    chex.assert_rank(f, 1)
    j = np.arange(T)[:, None]
    g = np.zeros((T, f.size))
    for n in range(1, T + 1):
        p = np.clip((j + f) / n, 0.0, 1.0)
        fired = np.concatenate([np.ones((1, f.size)), g[:-1]])  # g(j-1, n-1), with g(-1, .) = 1
        g = p * fired + (1.0 - p) * g
    return g


@functools.lru_cache(maxsize=32)
def _table(T: int) -> np.ndarray:
    return law(np.linspace(0.0, 1.0, INTERVALS + 1), T).astype(np.float32)


def _at(table, a, i):
    """`table[a, i]`, whole numbers in range; one flat gather is faster than one in two dimensions."""
    place = (a * (INTERVALS + 1) + i).astype(jnp.int32)
    return jnp.asarray(table).ravel().at[place].get(mode="promise_in_bounds")


def check_steps(T) -> None:
    """Raises ValueError unless `T` is a whole number of at least 1."""
    if isinstance(T, bool) or not isinstance(T, int | np.integer) or T < 1:
        raise ValueError(f"T is the number of time steps, a whole number of at least 1; got {T!r}")

"""The TPP neuron: Eq. 7, Algorithm 3; and the exact law of its count.

With `u = v / theta` in (0, T), `a = floor(u)` and `f = u - a`, the count is `a` or `a + 1` (Theorem 1c), and

    P(count = a + 1) = g(a, T),   g(j, n) = p g(j-1, n-1) + (1-p) g(j, n-1),   p = clip((j + f) / n, 0, 1)

with `g(-1, n) = 1` and `g(j, 0) = 0`: `j` whole thresholds still to fire, `n` steps left, Eq. 7 for `p`. So one uniform
number per neuron suffices to draw the count, at a cost that does not grow with T.

Contrary to Theorem 1(a), the mean count is *not* `u`: the clip in Eq. 7 makes it too high near 0 and too low near T.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tppjax.neurons.base import Steps, TwoPhase, check_steps, in_thresholds
from tppjax.types import Array, Key

DEGREES = 8, 4, 9  # of the polynomial from which the law is computed, in each variable and in both together


@dataclass(frozen=True)
class TPP(TwoPhase):
    """`s[t] ~ Bernoulli(clip((u - n[t-1]) / (T - t + 1), 0, 1))`, `n[t] = n[t-1] + s[t]`: Eq. 7, Algorithm 3.

    `u` remains the potential accumulated from 0 (Appendix C.2.2) and `n` counts the spikes, so `u - n` is what the
    paper calls `v / theta`.
    """

    random = True

    def step(
        self, u: jax.Array, n: jax.Array, t: jax.Array, T: int, key: Key | None, coefficients: Array | None = None
    ) -> jax.Array:
        """Eq. 7; the paper counts steps from 1."""
        assert key is not None
        return fire(u, n, T - t, jax.random.fold_in(key, t))

    def tables(self, T: int) -> dict[str, np.ndarray]:
        """The coefficients of the law."""
        return {"coefficients": polynomial(T)}

    def count(self, u: Array, T: Steps, key: Key | None, coefficients: Array | None = None) -> jax.Array:
        """`floor(u)` or `floor(u) + 1`, drawn from the law with one uniform number per neuron."""
        assert key is not None
        u = jnp.clip(u, 0, T)
        a = jnp.minimum(jnp.floor(u), T - 1)
        return a + jax.random.bernoulli(key, probability_of_one_more(u, a, T, coefficients))

    def squared_error(self, x: Array, theta: Array | float, T: int) -> jax.Array:
        """As `Neuron.squared_error`, exactly."""
        return error_of_two(x, theta, T, lambda u, a: probability_of_one_more(u, a, T))


def fire(u: jax.Array, n: jax.Array, steps_left: Steps, key: Key) -> jax.Array:
    """`s ~ Bernoulli(clip((u - n) / steps_left, 0, 1))`: Eq. 7, where `steps_left` includes this step."""
    return jax.random.bernoulli(key, jnp.clip((u - n) / steps_left, 0.0, 1.0)).astype(u.dtype)


def error_of_two(x: Array, theta: Array | float, T: int, probability: Callable) -> jax.Array:
    """Expected squared error of a rate whose count is `a = floor(u)`, or `a + 1` with `probability(u, a)`."""
    u = in_thresholds(T * x, theta)
    inside = jnp.clip(u, 0, T)
    a = jnp.minimum(jnp.floor(inside), T - 1)
    more = probability(inside, a)
    return jnp.multiply((theta / T) ** 2, (1 - more) * (a - u) ** 2 + more * (a + 1 - u) ** 2)


def probability_of_one_more(u: jax.Array, a: jax.Array, T: Any, coefficients: Array | None = None) -> jax.Array:
    """`P(count = a + 1)` of a TPP neuron with `u` in [0, T] and `a = floor(u)`, but T - 1 at u = T.

    The error is at most 1e-5 up to T = 512, and 2e-5 at T = 1024. The law is symmetric, `g(a, f, T) = 1 - g(T-1-a, 1-f,
    T)`, so half of it is enough. There `1 - g = (1 - f) (1 + f y)^8`, where `y` is so smooth in `f` and in
    `log((a+1) / (T-a))` that a polynomial suffices. It costs less than one look-up in a table.
    """
    coefficients = polynomial(T) if coefficients is None else coefficients
    f = u - a
    mirrored = 2 * a >= T
    a, f = jnp.where(mirrored, T - 1 - a, a), jnp.where(mirrored, 1 - f, f)
    x, y = _smooth(a, T), 0.0
    for i in reversed(range(DEGREES[0] + 1)):  # Horner, in both variables
        y = y * x + functools.reduce(lambda total, j, i=i: total * f + coefficients[i, j], reversed(_powers(i)), 0.0)
    none_more = (1 - f) * (1 + f * y) ** 8
    return jnp.where(mirrored, none_more, 1 - none_more)


def _smooth(a: Any, T: Any, xp: ModuleType = jnp) -> Any:
    """`log((a+1) / (T-a))`, stretched from `a` in 0..(T-1)/2 to -1..1."""
    return 1 + xp.log((a + 1) / (T - a)) * (2 / xp.log(xp.maximum(T, 2.0)))


def _powers(i: int) -> range:
    """The powers of `f` that go with power `i` of `_smooth(a, T)`."""
    _, in_f, in_all = DEGREES
    return range(min(in_f, in_all - i) + 1)


@functools.lru_cache(maxsize=32)
def polynomial(T: int) -> np.ndarray:
    """Coefficients of `y`, powers of `_smooth(a, T)` down, powers of `f` across, float32.

    Least squares on the law, in float64 on the host.
    """
    nodes = 16
    f = (1 - np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)) / 2  # Chebyshev's
    a = np.arange((T + 1) // 2)[:, None]
    none_more = 1 - one_more_probability(f, T)[: len(a)]
    root = (none_more / (1 - f)) ** (1 / 8)
    y, weight = (root - 1) / f, none_more / root * f / np.sqrt(a + 1)  # what an error of y does to g; more at small a
    powers = [(i, j) for i in range(min(DEGREES[0], len(a) - 1) + 1) for j in _powers(i)]
    terms = [(weight * _smooth(a, T, np) ** i * f**j).ravel() for i, j in powers]
    coefficients = np.zeros((DEGREES[0] + 1, DEGREES[1] + 1), np.float32)
    coefficients[*zip(*powers, strict=True)] = np.linalg.lstsq(np.stack(terms, 1), (weight * y).ravel())[0]
    coefficients.setflags(write=False)  # the cache returns it again
    return coefficients


def mean_count(u: ArrayLike, T: int) -> np.ndarray:
    """The exact mean count of a TPP neuron with an accumulated potential of `u` thresholds, in float64 on the host.

    Examples:
      >>> [round(float(mean_count(0.5, T)), 3) for T in (2, 4, 8, 16, 32)]
      [0.625, 0.727, 0.804, 0.86, 0.901]
    """
    u = np.clip(np.asarray(u, np.float64), 0, T)
    a = np.minimum(np.floor(u), T - 1).astype(int)
    flat_a, flat_f = a.ravel(), (u - a).ravel()
    return (flat_a + one_more_probability(flat_f, T)[flat_a, np.arange(flat_f.size)]).reshape(u.shape)


def one_more_probability(f: ArrayLike, T: int) -> np.ndarray:
    """`g(a, T) = P(count = a + 1)` for every `a` in 0..T-1 and every `f`: float64 `[T, len(f)]`, on the host.

    It is the recursion at the head of this file, unrolled over the number of steps left. For `a = 0` it has the closed
    form `1 - prod_{n=1..T} (1 - f/n)`.
    """
    check_steps(T)
    f = np.asarray(f, np.float64)
    chex.assert_rank(f, 1)
    j = np.arange(T)[:, None]
    g = np.zeros((T, f.size))
    for n in range(1, T + 1):
        p = np.clip((j + f) / n, 0.0, 1.0)
        one_more = np.concatenate([np.ones((1, f.size)), g[:-1]])  # g(j-1, n-1), with g(-1, .) = 1
        g = p * one_more + (1.0 - p) * g
    return g

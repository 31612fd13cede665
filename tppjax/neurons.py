"""Spike trains: one pure function for each neuron of the paper, and the two that we add.

Arrays in, spike trains in {0, 1} out, time leading: `[T, ...]`. A spike of a neuron with threshold `theta` weighs
`theta` in the next layer. Potentials are counted in thresholds, `u = v / theta`, and spikes in whole numbers `n`, so
that a potential of exactly `k` thresholds gives `k` spikes in floating point too; `u - n` is what the paper writes
`v / theta`.

    baseline   integrate_and_fire                        Eq. 1 and 2, Algorithm 1
    shuffle    shuffle(integrate_and_fire(...))          Algorithm 2
    tpp        tpp                                       Eq. 7, Algorithm 3
    rounded    two phases, no chance: nearest count      ours
    unbiased   two phases, mean count exactly v / theta  ours
"""

import chex
import jax
import jax.numpy as jnp

from tppjax import counts


def integrate_and_fire(current, theta, v_init=0.0):
    """`v[t] = v[t-1] + x[t] - theta s[t-1]`, `s[t] = H(v[t] - theta)`: Eq. 1 and 2, Algorithm 1.

    Soft reset, one spike a step at most. Fires on `v >= theta`: the strict `>` of Algorithm 1 contradicts Eq. 2 and the
    published code of every baseline.

    Args:
      current: input over time, `[T, ...]`.
      theta: threshold, broadcasts to `current[0]`, in the units of `current`.
      v_init: potential before the first step, likewise.

    Returns:
      Spikes in {0, 1}, `[T, ...]`.
    """

    def step(carry, x):
        u, n = carry
        u = u + counts.in_thresholds(x, theta)
        s = (u - n >= 1).astype(u.dtype)
        return (u, n + s), s

    v = jnp.broadcast_to(v_init, current.shape[1:]).astype(current.dtype)
    u = counts.in_thresholds(v, theta)
    _, spikes = jax.lax.scan(step, (u, jnp.zeros_like(u)), current)
    return spikes


def shuffle(spikes, key, shared: bool = False):
    """Algorithm 2: the spikes of a layer in random order.

    Every neuron's train gets its own uniform permutation (Appendix G). It is drawn without sorting: a neuron with `n`
    spikes left and `k` steps left fires with probability `n / k`, which is Eq. 7 for a whole number of thresholds.

    Args:
      spikes: `[T, ...]`.
      key: PRNG key.
      shared: one order for all neurons instead, the other reading of Algorithm 2.

    Returns:
      Spikes, `[T, ...]`; every neuron keeps its count.
    """
    T = spikes.shape[0]
    if shared:
        return permute(spikes, jax.random.permutation(key, T))
    return tpp(spikes.sum(axis=0), 1.0, T, key)


def permute(spikes, order):
    """The spikes of a layer in one given order, the same for all neurons: step `t` shows what step `order[t]` had.

    Args:
      spikes: `[T, ...]`.
      order: a permutation of 0..T-1, `[T]`.
    """
    order = jnp.asarray(order)
    chex.assert_shape(order, (spikes.shape[0],))
    return spikes[order]


def tpp(v, theta, T: int, key):
    """`s[t] ~ Bernoulli(clip(v[t-1] / (theta (T-t+1)), 0, 1))`, `v[t] = v[t-1] - theta s[t]`: Eq. 7, Algorithm 3.

    Args:
      v: potential accumulated over all T steps of the first phase, any shape; it starts at 0 (Appendix C.2.2).
      theta: threshold, broadcasts to `v`, in the units of `v`.
      T: number of time steps.
      key: PRNG key, split over time.

    Returns:
      Spikes in {0, 1}, `[T, ...]`.
    """
    u = counts.in_thresholds(v, theta)

    def step(n, now):
        t, key = now
        p = jnp.clip((u - n) / (T - t + 1), 0.0, 1.0)
        s = jax.random.bernoulli(key, p).astype(u.dtype)
        return n + s, s

    _, spikes = jax.lax.scan(step, jnp.zeros_like(u), (jnp.arange(1, T + 1), jax.random.split(key, T)))
    return spikes


def rounded(v, theta, T: int):
    """`counts.rounded` spikes, spread evenly: after `t` steps the neuron has fired `floor(t count / T)` times.

    Args:
      v: potential accumulated over all T steps of the first phase, any shape.
      theta: threshold, broadcasts to `v`, in the units of `v`.
      T: number of time steps.

    Returns:
      Spikes in {0, 1}, `[T, ...]`.
    """
    count = counts.rounded(v, theta, T)
    fired = jax.vmap(lambda t: jnp.floor(t * count / T))(jnp.arange(T + 1))
    return jnp.diff(fired, axis=0)


def unbiased(v, theta, T: int, key):
    """`counts.unbiased` spikes at uniformly random steps, so that `E[s[t]] = clip(v / theta, 0, T) / T` at every step.

    Args:
      v: potential accumulated over all T steps of the first phase, any shape.
      theta: threshold, broadcasts to `v`, in the units of `v`.
      T: number of time steps.
      key: PRNG key, split between the count and its steps.

    Returns:
      Spikes in {0, 1}, `[T, ...]`.
    """
    count_key, order_key = jax.random.split(key)
    return tpp(counts.unbiased(v, theta, T, count_key), 1.0, T, order_key)


def potential(current, spikes, theta, v_init=0.0):
    """`v[t] = v_init + sum_{i<=t} x[i] - theta sum_{i<t} s[i]`: the membrane potential before firing, over time.

    Args:
      current: input over time, `[T, ...]`; for a two-phase neuron all of it comes before the first spike, so pass it as
        `v_init` and `current` as zeros.
      spikes: what the neuron fired, `[T, ...]`.
      theta: threshold, broadcasts to `current[0]`.
      v_init: potential before the first step, likewise.

    Returns:
      Potentials in the units of `current`, `[T, ...]`.
    """
    v_init, theta = (jnp.broadcast_to(a, current.shape) for a in (v_init, theta))
    return v_init + jnp.cumsum(current, axis=0) - theta * (jnp.cumsum(spikes, axis=0) - spikes)

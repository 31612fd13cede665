"""Spike trains: one pure function for each neuron of the paper, and the two that we add.

Arrays in, spike trains in {0, 1} out, time leading: `[T, ...]`. A spike of a neuron with threshold `theta` weighs
`theta` in the next layer. Potentials are counted in thresholds, `u = v / theta`, so that a potential of exactly `k`
thresholds gives `k` spikes in floating point too. In two-phase neurons `u` stays what was accumulated and `n` counts
the spikes, so `u - n` is what the paper writes `v / theta`.

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
    """`v[t] = v[t-1] - theta s[t-1] + x[t]`, `s[t] = H(v[t] - theta)`: Eq. 1 and 2, Algorithm 1.

    Soft reset, one spike a step at most. Fires on `v >= theta`: the strict `>` of Algorithm 1 contradicts Eq. 2 and the
    published code of every baseline.

    Args:
      current: input over time, `[T, ...]`.
      theta: threshold, broadcasts to `current[0]`, in the units of `current`.
      v_init: potential before the first step, likewise.

    Returns:
      Spikes in {0, 1}, `[T, ...]`.
    """
    current = current.at[0].add(v_init)

    def step(u, x):
        u = integrate(u, counts.in_thresholds(x, theta))
        return u, fire(u)

    _, spikes = jax.lax.scan(step, jnp.zeros_like(current[0]), current)
    return spikes


def integrate(u, x):
    """`u[t] = u[t-1] - s[t-1] + x[t]`: Eq. 1 in thresholds, from the potential before firing to the next one."""
    return u - fire(u) + x


def fire(u):
    """`s[t] = H(u[t] - 1)`: Eq. 2 in thresholds."""
    return (u >= 1).astype(u.dtype)


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
        s = tpp_step(u, n, T - t + 1, key)
        return n + s, s

    _, spikes = jax.lax.scan(step, jnp.zeros_like(u), (jnp.arange(1, T + 1), jax.random.split(key, T)))
    return spikes


def tpp_step(u, n, left, key):
    """One step of `tpp`, in thresholds: `s ~ Bernoulli(clip((u - n) / left, 0, 1))`.

    Args:
      u: accumulated potential, any shape.
      n: number of spikes so far, likewise.
      left: number of steps left, this one included.
      key: PRNG key of this step.

    Returns:
      Spikes in {0, 1} of the shape of `u`.
    """
    return jax.random.bernoulli(key, jnp.clip((u - n) / left, 0.0, 1.0)).astype(u.dtype)


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
    return jax.vmap(lambda left: rounded_step(count, left, T))(jnp.arange(T, 0, -1))


def rounded_step(count, left, T: int):
    """One step of `rounded`, `left` steps before the end, this one included: spikes of the shape of `count`."""
    t, whole = T - left, count.astype(jnp.int32)  # a product over T in floating point can fall short of a whole number
    return ((t + 1) * whole // T - t * whole // T).astype(count.dtype)


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

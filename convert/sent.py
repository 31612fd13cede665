"""Published corrections that compare the output of a site with the ANN's; `correction` compares its input.

    rates       a bias for each channel, once: SNNC's light calibration (Li et al., ICML 2021)
    potential   a potential for each neuron before the first step: SNNC's advanced calibration, as it is on CIFAR
    steps       a bias for each channel and step: FTBC (Wu et al., ECCV 2024)

Each follows its authors' code (yhhhli/SNN_Calibration, and FTBC's for SNNC): it corrects the sites in the order in
which they run, after all sites before. All compare means over images with the ANN's activations.

Each takes the ANN `reference`, its spiking version `snn` with the corrections so far, the site, and `batches`, a
function that returns an iterator over `(images, keys)`. It returns the network with the correction of the site.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.execution import summed
from convert.snn import Snn
from tppjax.graph import Site
from tppjax.network import Network
from tppjax.neurons import OnePhase, in_thresholds
from tppjax.types import Array, Key

Batches = Callable[[], Iterator[tuple[Array, Key | None]]]

STEP, ROUNDS = 0.5, 10  # of FTBC: its alpha, and the number of passes over the steps of a batch


def rates(reference: Network, snn: Snn, site: Site, batches: Batches) -> Network:
    """`b <- b - (mean r - mean a)` for each channel, with the ANN's activations `a` and the rates `r`."""
    change = np.asarray(_by_channel(site, _mean_difference(reference, snn, site, batches)[None]), np.float32)
    offset = snn.network.offsets.get(site.name, np.zeros(site.channels, np.float32)) + change
    return snn.network.replace(offsets=snn.network.offsets | {site.name: offset})


def potential(reference: Network, snn: Snn, site: Site, batches: Batches) -> Network:
    """`v_init = T (mean a - mean r)` for each neuron, added to its initial potential so far."""
    v = np.asarray(snn.steps * _mean_difference(reference, snn, site, batches), np.float32)[None]
    u = np.asarray(in_thresholds(v, snn.network.theta(site, v)))[0]
    before = snn.network.potentials.get(site.name, 0)
    return snn.network.replace(potentials=snn.network.potentials | {site.name: before + u})


def steps(reference: Network, snn: Snn, site: Site, batches: Batches) -> Network:
    """`b[t] <- b[t] - STEP (mean theta s[t] - mean a)` for each channel, step after step.

    A step is computed again with its new bias before the next one, and all steps `ROUNDS` times. Each batch starts from
    the same offsets, and the result is the mean over all batches, so that all images count alike. In the authors' code
    each batch continues from the one before, and the round that is kept is chosen on the test set.
    """
    before = jnp.broadcast_to(snn.network.offsets.get(site.name, 0.0), (snn.steps, site.channels))
    total, n = summed((len(x) * _stepwise(reference, snn, site, x, key, before), len(x)) for x, key in batches())
    return snn.network.replace(offsets=snn.network.offsets | {site.name: np.asarray(total / n, np.float32)})


def _mean_difference(reference: Network, snn: Snn, site: Site, batches: Batches) -> np.ndarray:
    """`mean a - mean r` over images, for each neuron, float64."""
    total, n = summed((_difference(reference, snn, site, x, key), len(x)) for x, key in batches())
    return np.asarray(total / n)


@partial(jax.jit, static_argnames="site")
def _difference(reference: Network, snn: Snn, site: Site, x: Array, key: Key | None) -> jax.Array:
    """The sum over a batch of the ANN's activations less the rates, for each neuron."""
    (activation,), (rate,) = reference.values(x, (site.output,)), snn.values(x, key, (site.output,))
    return (activation - rate).sum(axis=0)


@partial(jax.jit, static_argnames="site")
def _stepwise(reference: Network, snn: Snn, site: Site, x: Array, key: Key | None, offset: jax.Array) -> jax.Array:
    """The offsets `[T, C]` of `steps` for one batch, from the input of the site over time, which they don't change."""
    network, T = snn.network, snn.steps
    neuron = snn.in_network[site.name]
    assert isinstance(neuron, OnePhase)  # by `check_method`
    (activation,), (current,) = reference.values(x, (site.output,)), snn.over_time(x, key, (site.input,))
    target = _by_channel(site, activation)
    current = jax.vmap(jax.vmap(lambda one: site.prepare(one[None], network.weights)[0]))(current)
    current = current.at[0].add(network.initial(site, activation))
    theta = neuron.weight * network.theta(site, activation)

    def fire(state: Any, t: jax.Array, bias: jax.Array) -> tuple[Any, jax.Array]:
        x, now = in_thresholds(current[t] + site.by_channel(bias), theta), jax.random.fold_in(jax.random.key(0), t)
        return neuron.step(state, x, t, T, now, **snn.time["tables"][site.name])

    def step(state: Any, now: tuple[jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        t, bias = now
        _, spikes = fire(state, t, bias)
        bias = bias - STEP * (_by_channel(site, theta * spikes) - target)
        return fire(state, t, bias)[0], bias

    def once(offset: jax.Array, _: None) -> tuple[jax.Array, None]:
        return jax.lax.scan(step, neuron.init(activation.shape, T), (jnp.arange(T), offset))[1], None

    return jax.lax.scan(once, offset, length=ROUNDS)[0]


COMPILED = _difference, _stepwise


def _by_channel(site: Site, x: Array) -> Array:
    """The mean of each channel over examples and positions, `[C]`."""
    axes = tuple(i for i in range(x.ndim) if site.axis is None or i != site.axis + 1)
    return x.mean(axis=axes).reshape(-1)

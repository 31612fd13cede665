"""Corrections of the field that look at what a site sends, where `correction` looks at what reaches it.

    rates       a bias for each channel, once: SNNC's light calibration (Li et al., ICML 2021)
    potential   a potential for each neuron before the first step: what SNNC's advanced calibration is on CIFAR
    steps       a bias for each channel and step: FTBC (Wu et al., ECCV 2024)

Each is as its authors' code has it (yhhhli/SNN_Calibration, and FTBC's for SNNC): site by site, in the order in which
they run, with all sites before corrected already. All compare means over images with the ANN's activations.

Each takes the ANN `reference`, its spiking version `snn` as it is corrected so far, the site, and `batches()`, which
gives `(images, keys)`; and returns the network corrected at the site, too.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from convert.snn import Snn
from tppjax.graph import Site
from tppjax.network import Network
from tppjax.neurons import in_thresholds

STEP, ROUNDS = 0.5, 10  # of FTBC: its alpha, and how often the steps of a batch are gone through


def rates(reference: Network, snn: Snn, site: Site, batches) -> Network:
    """`b <- b - (mean r - mean a)` for each channel: `a` the ANN's activations, `r` the rates."""
    change = np.float32(_by_channel(site, _lacking(reference, snn, site, batches)[None]))
    offset = snn.network.offsets.get(site.name, np.zeros(site.channels, np.float32)) + change
    return snn.network.replace(offsets=snn.network.offsets | {site.name: offset})


def potential(reference: Network, snn: Snn, site: Site, batches) -> Network:
    """`v_init = T (mean a - mean r)` for each neuron, on top of what it has already."""
    v = np.float32(snn.T * _lacking(reference, snn, site, batches))[None]
    u = np.asarray(in_thresholds(v, snn.network.theta(site, v)))[0]
    before = snn.network.potentials.get(site.name, 0)
    return snn.network.replace(potentials=snn.network.potentials | {site.name: before + u})


def steps(reference: Network, snn: Snn, site: Site, batches) -> Network:
    """`b[t] <- b[t] - STEP (mean theta s[t] - mean a)` for each channel, step after step.

    A step is done again with its new bias before the next one, and all steps `ROUNDS` times. Each batch does so by
    itself, and the offsets are means over all of them, so that no image counts more than another; in their code batches
    follow one another, and the round that is kept is chosen on the test set.
    """
    before = jnp.broadcast_to(snn.network.offsets.get(site.name, 0.0), (snn.T, site.channels))
    total, n = 0.0, 0
    for x, key in batches():
        total, n = total + len(x) * np.float64(_stepwise(reference, snn, site, x, key, before)), n + len(x)
    return snn.network.replace(offsets=snn.network.offsets | {site.name: np.float32(total / n)})


def _lacking(reference: Network, snn: Snn, site: Site, batches) -> np.ndarray:
    """`mean a - mean r` over images, for each neuron."""
    total, n = 0.0, 0
    for x, key in batches():
        total, n = total + np.float64(_difference(reference, snn, site, x, key)), n + len(x)
    return total / n


@partial(jax.jit, static_argnames="site")
def _difference(reference: Network, snn: Snn, site: Site, x, key):
    (activation,), (rate,) = reference.values(x, (site.output,)), snn.values(x, key, (site.output,))
    return (activation - rate).sum(axis=0)


@partial(jax.jit, static_argnames="site")
def _stepwise(reference: Network, snn: Snn, site: Site, x, key, offset):
    """`steps` on one batch, from what reaches the site over time, which its own bias does not change."""
    network, T = snn.network, snn.T
    neuron = snn.in_network[site.name]
    (activation,), (current,) = reference.values(x, (site.output,)), snn.over_time(x, key, (site.input,))
    wanted = _by_channel(site, activation)
    current = jax.vmap(jax.vmap(lambda one: site.prepare(one[None], network.weights)[0]))(current)
    current = current.at[0].add(network.initial(site, activation))
    theta = neuron.weight * network.theta(site, activation)

    def fire(state, t, bias):
        x, now = in_thresholds(current[t] + site.by_channel(bias), theta), jax.random.fold_in(jax.random.key(0), t)
        return neuron.step(state, x, t, T, now, **snn.time["tables"][site.name])

    def step(state, now):
        t, bias = now
        _, spikes = fire(state, t, bias)
        bias = bias - STEP * (_by_channel(site, theta * spikes) - wanted)
        return fire(state, t, bias)[0], bias

    def once(offset, _):
        return jax.lax.scan(step, neuron.init(activation.shape, T), (jnp.arange(T), offset))[1], None

    return jax.lax.scan(once, offset, length=ROUNDS)[0]


def _by_channel(site: Site, x):
    """Mean over examples and places, `[C]`."""
    axes = tuple(i for i in range(x.ndim) if site.axis is None or i != site.axis + 1)
    return x.mean(axis=axes).reshape(-1)

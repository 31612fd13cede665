"""Spiking networks without time: if every neuron is two-phase, one pass on means over time is enough.

A two-phase neuron reads only the sum of its input, and everything between two sites is linear, so one pass on the mean
over T steps gives the same as the T steps. Only the draw of spike counts depends on T, at a cost that does not grow
with it.
"""

from typing import Any

import jax
import jax.numpy as jnp

import convert
from convert.stepped import site_key
from tppjax.graph import Site
from tppjax.neurons import in_thresholds
from tppjax.types import Key


def run(snn: "convert.Snn", x: jax.Array, key: Key | None) -> tuple[Any, dict[str, jax.Array]]:
    """`(outputs of the network, {site: spike counts})` for one example `[1, ...]`, means over time.

    Args:
      snn: the spiking network, of two-phase neurons.
      x: the input `[1, ...]`; for recordings, the mean over their frames.
      key: a PRNG key, or None if nothing is random.
    """
    network, counts, T = snn.network, {}, snn.time["T"]

    def fire(site: Site, current: jax.Array) -> jax.Array:
        corrected = network.corrected(site.name, current, site.input_axis)
        v = T * site.prepare(corrected, network.weights).astype(jnp.float32)
        v = v + network.initial(site, v)
        neuron, tables = snn.in_network[site.name], snn.time["tables"][site.name]
        theta = neuron.weight * network.theta(site, v)
        count = neuron.count(in_thresholds(v, theta), T, site_key(key, site, network), **tables)
        # For each use of a result, the compiler repeats cheap operations and all before them: it would draw twice.
        # A division by an unknown number is not cheap, so the count is computed back from the rate, exactly.
        rate = theta * count / T
        counts[site.name] = jnp.round(in_thresholds(T * rate, theta))
        return rate.astype(current.dtype)

    return network.graph.run(network.weights, x, fire), counts

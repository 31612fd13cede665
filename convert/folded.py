"""Spiking networks without time: if every neuron is two-phase, one pass on means over time is enough.

A two-phase neuron reads only the sum of its input, and everything between two sites is linear, so one pass on the mean
over T steps gives the same as the T steps. Only the draw of spike counts depends on T, at a cost that does not grow
with it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.graph import Site
from tppjax.network import Network
from tppjax.neurons import Neuron, in_thresholds
from tppjax.types import Array, Key


def run(
    network: Network, x: Array, key: Key | None, neurons: dict[str, Neuron], time: dict[str, Any]
) -> tuple[Any, dict[str, jax.Array]]:
    """`(outputs of the network, {site: spike counts})` for one example `[1, ...]`, means over time.

    Args:
      network: the network, with a threshold at each site.
      x: the input `[1, ...]`; for recordings, the mean over their frames.
      key: a PRNG key, or None if nothing is random.
      neurons: two-phase neurons of each site, in the order in which the sites run.
      time: the arrays of `in_time`.
    """
    counts, T = {}, time["T"]

    def fire(site: Site, current: jax.Array) -> jax.Array:
        corrected = network.corrected(site.name, current, site.input_axis)
        v = T * site.prepare(corrected, network.weights).astype(jnp.float32)
        v = v + network.initial(site, v)
        neuron, tables = neurons[site.name], time["tables"][site.name]
        theta = neuron.weight * network.theta(site, v)
        count = neuron.count(in_thresholds(v, theta), T, site_key(key, site, network), **tables)
        # For each use of a result, the compiler repeats cheap operations and all before them: it would draw twice.
        # A division by an unknown number is not cheap, so the count is computed back from the rate, exactly.
        rate = theta * count / T
        counts[site.name] = jnp.round(in_thresholds(T * rate, theta))
        return rate.astype(current.dtype)

    return network.graph.run(network.weights, x, fire), counts


def in_time(neurons: dict[str, Neuron], T: int) -> dict[str, Any]:
    """Everything that depends on T, as arrays, so that one compilation serves every T."""
    return {"T": np.float32(T), "tables": {site: neuron.tables(T) for site, neuron in neurons.items()}}


def site_key(key: Key | None, site: Site, network: Network) -> Key | None:
    """The key of a site, from the key of the example; None if nothing is random."""
    return None if key is None else jax.random.fold_in(key, list(network.sites).index(site.name))

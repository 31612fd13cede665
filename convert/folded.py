"""Time folded away: where every neuron fires after its input of all T steps, one pass on means over time is enough.

Such a neuron reads only the sum of its input, and all between two sites is linear, so T steps of spikes give what their
mean gives once. Only the draw of spike counts is left of time, at a cost that does not grow with T.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.graph import Site
from tppjax.network import Network
from tppjax.neurons import Neuron, in_thresholds


def run(network: Network, x, key, neurons: dict[str, Neuron], time: dict):
    """`(what the network returns, {site: spike counts})` for one example `[1, ...]`, means over time.

    Args:
      network: with a threshold at each site.
      x: the input, of recordings the mean.
      key: a PRNG key, or None if nothing is random.
      neurons: of each site, in the order in which they run; two-phase.
      time: of `in_time`.
    """
    counts, T = {}, time["T"]

    def fire(site: Site, current):
        corrected = network.corrected(site.name, current, site.input_axis)
        v = T * site.prepare(corrected, network.weights).astype(jnp.float32)
        v = v + network.initial(site, v)
        neuron, tables = neurons[site.name], time["tables"][site.name]
        theta = neuron.weight * network.theta(site, v)
        count = neuron.count(in_thresholds(v, theta), T, site_key(key, site, network), **tables)
        # A compiler repeats cheap operations, and all before them, for each reader of the result: it would draw twice.
        # A division by what it doesn't know is not cheap; and the count is read off the rate, exactly.
        rate = theta * count / T
        counts[site.name] = jnp.round(in_thresholds(T * rate, theta))
        return rate.astype(current.dtype)

    return network.graph.run(network.weights, x, fire), counts


def in_time(neurons: dict[str, Neuron], T: int) -> dict:
    """All that depends on T, as arrays, so that one compilation serves every T."""
    return {"T": np.float32(T), "tables": {site: neuron.tables(T) for site, neuron in neurons.items()}}


def site_key(key, site: Site, network: Network):
    """The key of a site, from that of the example."""
    return None if key is None else jax.random.fold_in(key, list(network.sites).index(site.name))

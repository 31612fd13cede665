"""Time folded away: where every neuron fires after its input of all T steps, one pass on means over time is enough.

Such a neuron reads only the sum of its input, and all between two sites is linear, so T steps of spikes give what their
mean gives once. Only the draw of spike counts is left of time, at a cost that does not grow with T.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tppjax import counts
from tppjax.errors import InputError
from tppjax.graph import Site
from tppjax.network import Network

TWO_PHASE = ("tpp", "rounded", "unbiased")


def in_time(T: int) -> dict:
    """All that depends on T, as arrays, so that one compilation serves every T."""
    return {"T": np.float32(T), "coefficients": counts.polynomial(T)}


def run(network: Network, x, key, modes: dict[str, str], time: dict):
    """`(what the network returns, {site: spike counts})` for one example `[1, ...]`, means over time.

    Args:
      network: with a threshold at each site.
      x: the input, of recordings the mean.
      key: a PRNG key, or None if nothing is random.
      modes: of each site, in the order in which they run.
      time: of `in_time`.
    """
    fired, T = {}, time["T"]

    def fire(site: Site, current):
        corrected = network.corrected(site.name, current, site.input_axis)
        v = T * site.prepare(corrected, network.weights).astype(jnp.float32)
        theta = network.theta(site, v)
        count = _count(modes[site.name], v, theta, time, site_key(key, site, network))
        # A compiler repeats cheap operations, and all before them, for each reader of the result: it would draw twice.
        # A division by what it doesn't know is not cheap; and the count is read off the rate, exactly.
        rate = theta * count / T
        fired[site.name] = jnp.round(counts.in_thresholds(T * rate, theta))
        return rate.astype(current.dtype)

    return network.graph.run(network.weights, x, fire), fired


def site_key(key, site: Site, network: Network):
    """The key of a site, from that of the example."""
    return None if key is None else jax.random.fold_in(key, list(network.sites).index(site.name))


def _count(mode: str, v, theta, time: dict, key):
    match mode:
        case "tpp":
            return counts.tpp(v, theta, time["T"], key, time["coefficients"])
        case "rounded":
            return counts.rounded(v, theta, time["T"])
        case "unbiased":
            return counts.unbiased(v, theta, time["T"], key)
    raise InputError(f"mode {mode!r} has no folded version; known: {', '.join(TWO_PHASE)}")

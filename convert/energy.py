"""Synaptic operations: the multiply-adds of the layers of weights for an input, and their additions for spikes."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

from convert.layers import kernel_of
from tppjax.errors import InputError
from tppjax.graph import Op, Site
from tppjax.network import Network
from tppjax.types import Array


def additions(network: Network, counts: Mapping[str, Num[Array, "batch ..."]]) -> dict[str, Float[jax.Array, "batch"]]:
    """The number of additions of each layer of weights for these spikes, for each example: `{layer: [B]}`.

    With every weight set to one, the output of a layer is the number of weights that it adds up for the spikes of the
    sites, borders and strides included. A spike that passes an average pool of k x k pixels counts as 1 / k^2
    afterwards, as if the pool were computed first. The additions of the pool itself, of shortcuts without weights and
    of the neurons are not counted. The first layer, which gets no spikes, counts 0.

    Args:
      network: the network.
      counts: the spikes of each neuron, `{site: [B, ...]}`.
    """
    return jax.vmap(lambda counts: _operations(network, 0.0, counts))(counts)


def multiply_adds(network: Network) -> tuple[float, float]:
    """The multiply-adds of the ANN for one input: of all layers, and of those that take the input itself.

    Raises:
      InputError: if a layer takes the output of another one, with no site between.
    """
    spikes = {value: {s.name: jnp.full(s.shape, value) for s in network.sites.values()} for value in (0.0, 1.0)}
    between = [layer for layer, n in _operations(network, 0.0, spikes[0.0]).items() if n > 0]
    if between:
        raise InputError(
            f"the energy can't be estimated: {', '.join(between)} takes no spikes, but the output of another layer of "
            "weights; put a site between them"
        )
    whole, analog = (sum(map(float, _operations(network, 1.0, spikes[value]).values())) for value in (1.0, 0.0))
    return whole, analog


def _operations(network: Network, pixel: float, counts: Mapping[str, Array]) -> dict[str, jax.Array]:
    """Operations of each layer for one example, whose input is `pixel` everywhere."""
    values: dict[int | str, Array] = {**network.weights, 0: jnp.full((1, *network.graph.shape), pixel)}
    operations: dict[str, jax.Array] = {}
    for item in network.graph.items:
        if isinstance(item, Site):
            values[item.output] = counts[item.name][None]
        elif (name := kernel_of(item)) and not name.startswith("constant"):
            # Not a constant of ones, since XLA then adds up wrongly on a CPU (jax 0.10).
            one = {v: jnp.float32(0) * values[v] + 1 if v == name else _counted(values[v]) for v in item.inputs}
            item.run(one)
            y = one[item.output]
            layer = name.rpartition("/")[0].removeprefix("params/")
            operations[layer] = operations.get(layer, 0.0) + y.sum()
            values[item.output] = jnp.full_like(y, jnp.nan)  # marks it as no spikes, up to the next site
        else:
            _pass_on(item, values)
    return operations


def _counted(x: Array) -> jax.Array:
    """The values, with one for each output of another layer, which counts as an input does."""
    return jnp.where(jnp.isnan(x), 1.0, x)


def _pass_on(op: Op, values: dict[int | str, Array]) -> None:
    """Computes an operation that is no layer; scales and shifts of channels leave spikes as they are."""
    weights = [v for v in op.inputs if isinstance(v, str)]
    scalar = all(jnp.size(values[v]) == 1 for v in weights)
    if weights and (op.name in ("add", "sub") or (op.name in ("mul", "div") and not scalar)):
        (value,) = (v for v in op.inputs if v not in weights)
        values[op.output] = values[value]
    else:
        op.run(values)

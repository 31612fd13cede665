"""Synaptic operations: the multiply-adds of the layers of weights for an input, and their additions for spikes."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

from convert.layers import kernel_of
from tppjax.errors import InputError
from tppjax.graph import Op, Site
from tppjax.graph.operations import LAYOUT
from tppjax.network import Network
from tppjax.types import Array

SUMS = ("reduce_sum", "reduce_window_sum")


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
      InputError: if a layer takes the output of another one, with no site between, or no layer has weights.
    """
    spikes = {value: {s.name: jnp.full(s.shape, value) for s in network.sites.values()} for value in (0.0, 1.0)}
    if not any(isinstance(op, Op) and _weights(op) for op in network.graph.items):
        raise InputError(
            "the energy can't be estimated, since no layer has weights that are variables of the network: pass them to "
            "trace with the function, not as constants within it"
        )
    between = [layer for layer, n in _operations(network, 0.0, spikes[0.0]).items() if n > 0]
    if between:
        raise InputError(
            f"the energy can't be estimated: {', '.join(between)} takes no spikes, but the output of another layer of "
            "weights; put a site between them"
        )
    counts = (_operations(network, 1.0, spikes[value], limit=1.0) for value in (1.0, 0.0))
    whole, analog = (sum(map(float, of_layers.values())) for of_layers in counts)
    return whole, analog


def _operations(
    network: Network, pixel: float, counts: Mapping[str, Array], limit: float = jnp.inf
) -> dict[str, jax.Array]:
    """Operations of each layer for one example, whose input is `pixel` everywhere; at most `limit` for an input.

    An ANN multiplies a sum of activations once, while spikes are added one by one.
    """
    values: dict[int | str, Array] = {**network.weights, 0: jnp.full((1, *network.graph.shape), pixel)}
    operations: dict[str, jax.Array] = {}
    summed: set[int] = set()  # values that are sums of spikes
    for item in network.graph.items:
        if isinstance(item, Site):
            values[item.output] = counts[item.name][None]
        elif name := _weights(item):
            # Not a constant of ones, since XLA then adds up wrongly on a CPU (jax 0.10).
            one = {v: jnp.float32(0) * values[v] + 1 if v == name else _counted(values[v], limit) for v in item.inputs}
            item.run(one)
            y = one[item.output]
            layer = name.rpartition("/")[0].removeprefix("params/") or name
            operations[layer] = operations.get(layer, 0.0) + y.sum()
            values[item.output] = jnp.full_like(y, jnp.nan)  # marks it as no spikes, up to the next site
        else:
            _pass_on(item, values, item.values[0] in summed)
            moved = item.name in (*LAYOUT, "concatenate") and item.values[0] in summed
            summed |= {item.output} if item.name in SUMS or moved else set()
    return operations


def _weights(op: Op) -> str:
    """The weights of a layer; "" if they are a constant, such as the ones of a pool, or of no layer."""
    name = kernel_of(op)
    return "" if name.partition("~")[0] == "constant" else name


def _counted(x: Array, limit: float) -> jax.Array:
    """The values up to `limit`, with one for each output of another layer, which counts as an input does."""
    return jnp.minimum(jnp.where(jnp.isnan(x), 1.0, x), limit)


def _pass_on(op: Op, values: dict[int | str, Array], summed: bool) -> None:
    """Computes an operation that is no layer, such as a pool; scales, shifts and signs leave spikes as they are.

    What divides a sum (`summed`) makes a mean of it, and so does a scalar that multiplies it.
    """
    mean = summed and (op.name == "div" or all(jnp.size(values[v]) == 1 for v in op.weights))
    unchanged = ("add", "sub", "neg", "convert_element_type")
    if len(op.values) == 1 and (op.name in unchanged or (op.name in ("mul", "div") and not mean)):
        values[op.output] = values[op.values[0]]
    elif op.name == "sub":
        op._replace(name="add").run(values)
    else:
        constants = op.weights if op.name in ("concatenate", "select_n", "pad") else ()
        zero = {v: jnp.zeros_like(values[v]) for v in constants if jnp.issubdtype(values[v].dtype, jnp.floating)}
        with_spikes = {v: values[v] for v in op.inputs} | zero
        op.run(with_spikes)
        values[op.output] = with_spikes[op.output]

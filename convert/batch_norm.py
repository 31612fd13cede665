"""Batch norm folded into the weights before it."""

from typing import Any

import numpy as np

from convert.layers import SCALES, SHIFTS, is_layer, kernel_axis, kernel_of, output_axis, readers_of, with_items
from tppjax.graph import Op, Site
from tppjax.graph.build import free_name
from tppjax.network import Network
from tppjax.tracing import trace


def fold_batch_norm(network: Any, example: Any = None) -> Network:
    """The same network with batch norm folded into its layers: their weights are scaled, and one shift follows each.

    `(kernel x - mean) s + shift` becomes `(kernel s) x + (shift - mean s)`, with `s = scale / sqrt(var + eps)` and the
    epsilon of the network. This is exact but for rounding. A network without batch norm is returned as it is.

    Args:
      network: a `Network`, or any network that `trace` takes.
      example: one input `[1, ...]`, where `trace` needs one.
    """
    network = trace(network, example)
    readers = readers_of(network.graph)
    weights, items, dropped = dict(network.weights), [], set()
    for item in network.graph.items:
        if item.output in dropped:
            continue
        chain = _channelwise(network, item, readers) if is_layer(network.graph, item) else []
        if not any(op.name in SCALES for op in chain):
            items.append(item)
            continue
        folded, new = _folded(network.replace(weights=weights), item, chain)
        items += folded
        weights |= new
        dropped |= {op.output for op in chain}
    return with_items(network, items, weights) if dropped else network


def _channelwise(network: Network, layer: Op, readers: dict[int, list[Op | Site]]) -> list[Op]:
    """The operations that follow a layer and scale or shift each of its channels by one number, in order."""
    chain: list[Op] = []
    axis, outputs = output_axis(network, layer), set(network.graph.outputs)
    value = layer.output
    while axis is not None and len(readers.get(value, ())) == 1 and value not in outputs:
        (op,) = readers[value]
        if isinstance(op, Site) or op.name not in SCALES + SHIFTS or op.inputs[0] != value:
            break
        shape = np.shape(network.weights[op.weights[0]]) if op.weights else None
        if shape is None or any(n > 1 and i != axis % len(shape) for i, n in enumerate(shape)):
            break
        chain.append(op)
        value = op.output
    return chain


def _folded(network: Network, layer: Op, chain: list[Op]) -> tuple[list[Op], dict]:
    """The layer with the scales of `chain` in its weights and one shift behind it, and the new weights."""
    name, last = kernel_of(layer), chain[-1].output
    kernel = np.asarray(network.weights[name])
    scale, shift = np.ones((), np.float32), np.zeros((), np.float32)
    for op in chain:
        number = np.asarray(network.weights[op.weights[0]], np.float32)
        match op.name:
            case "mul":
                scale, shift = scale * number, shift * number
            case "div":
                scale, shift = scale / number, shift / number
            case "add":
                shift = shift + number
            case "sub":
                shift = shift - number
    axis = kernel_axis(network, layer)
    along = [-1 if i == axis else 1 for i in range(kernel.ndim)]
    new = {name: (kernel * np.reshape(scale, along)).astype(kernel.dtype)}
    if not np.any(shift):
        return [layer._replace(output=last)], new
    bias = free_name(f"{name.rpartition('/')[0] or name}/shift", network.weights)
    return [layer, Op("add", (layer.output, bias), last, place=layer.place)], new | {bias: shift.astype(kernel.dtype)}

"""The layers of weights of a graph: which operations they are, and what the axes of their weights mean."""

import numpy as np

from tppjax.graph import Graph, Op, Site
from tppjax.network import Network
from tppjax.types import Array

WEIGHING = ("dot_general", "conv_general_dilated")
SCALES, SHIFTS = ("mul", "div"), ("add", "sub")


def is_layer(graph: Graph, item: Op | Site) -> bool:
    """Whether an item is a layer of weights that nothing else reads."""
    name = kernel_of(item) if isinstance(item, Op) else ""
    return bool(name) and sum(name in names_of(other) for other in graph.items) == 1


def kernel_of(op: Op) -> str:
    """The name of a layer's weights; "" if the operation is no layer."""
    return next(iter(op.weights), "") if op.name in WEIGHING else ""


def names_of(item: Op | Site) -> set[str]:
    """The weights that an item reads."""
    ops = item.before if isinstance(item, Site) else (item,)
    names = {name for op in ops for name in op.weights}
    return names | ({item.bound} - {""} if isinstance(item, Site) else set())


def readers_of(graph: Graph) -> dict[int, list[Op | Site]]:
    """The items that read each value."""
    readers: dict[int, list[Op | Site]] = {}
    for item in graph.items:
        for v in (item.input,) if isinstance(item, Site) else item.values:
            readers.setdefault(v, []).append(item)
    return readers


def output_axis(network: Network, layer: Op) -> int | None:
    """The axis of a layer's output that holds its channels, -1 for the last; None if there are several, or none."""
    options = dict(layer.options)
    if layer.name == "conv_general_dilated":
        return options["dimension_numbers"][2][1] if isinstance(layer.inputs[1], str) else None
    batched = bool(options["dimension_numbers"][1][0])  # the weights have an axis in common with their input
    if len(free_axes(network, layer)) != 1 or batched:
        return None
    return 0 if isinstance(layer.inputs[0], str) else -1


def free_axes(network: Network, layer: Op) -> list[int]:
    """The axes of a product's weights that are neither summed over nor batch axes."""
    (sums, batches), side = dict(layer.options)["dimension_numbers"], int(isinstance(layer.inputs[1], str))
    kernel = network.weights[layer.weights[0]]
    return [i for i in range(np.ndim(kernel)) if i not in (*sums[side], *batches[side])]


def kernel_axis(network: Network, layer: Op) -> int:
    """The axis of a layer's weights that counts the channels of its output."""
    if layer.name == "conv_general_dilated":
        return dict(layer.options)["dimension_numbers"][1][0]
    return free_axes(network, layer)[0]


def with_items(network: Network, items: list[Op | Site], weights: dict[str, Array]) -> Network:
    """The network with other items, and those of the weights that these read."""
    graph = network.graph.with_items(items)
    read = {name for item in items for name in names_of(item)} | {v for v in graph.outputs if isinstance(v, str)}
    return network.replace(graph=graph, weights={name: w for name, w in weights.items() if name in read})

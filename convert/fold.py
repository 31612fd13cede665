"""Folding: batch norm into the weights before it, thresholds into the weights on both sides."""

import numpy as np

from tppjax.errors import InputError
from tppjax.graph import Graph, Op, Site
from tppjax.graph.build import free_name
from tppjax.graph.operations import LAYOUT
from tppjax.network import Network
from tppjax.tracing import trace

WEIGHING = ("dot_general", "conv_general_dilated")
SCALES, SHIFTS = ("mul", "div"), ("add", "sub")


def fold_batch_norm(network, example=None) -> Network:
    """The same network with what scales the channels of a layer folded into its weights, and one shift behind it.

    `(kernel x - mean) s + shift` becomes `(kernel s) x + (shift - mean s)`, with `s = scale / sqrt(var + eps)` and the
    epsilon that the network has. Exact but for rounding. A network without batch norm comes back as it is.

    Args:
      network: a `Network`, or what `trace` makes one of.
      example: as `trace` has it.
    """
    network = trace(network, example)
    readers = _readers(network.graph)
    weights, items, gone = dict(network.weights), [], set()
    for item in network.graph.items:
        if item.output in gone:
            continue
        chain = _channelwise(network, item, readers) if is_layer(network.graph, item) else []
        if not any(op.name in SCALES for op in chain):
            items.append(item)
            continue
        folded, new = _folded(network.replace(weights=weights), item, chain)
        items += folded
        weights |= new
        gone |= {op.output for op in chain}
    return with_items(network, items, weights) if gone else network


def with_items(network: Network, items: list, weights: dict) -> Network:
    """The network with other items, and those of the weights that they read."""
    graph = network.graph.with_items(items)
    read = {name for item in items for name in names_of(item)} | {v for v in graph.outputs if isinstance(v, str)}
    return network.replace(graph=graph, weights={name: w for name, w in weights.items() if name in read})


def is_layer(graph: Graph, item: Op | Site) -> bool:
    """Whether an item is a layer of weights that nothing else reads."""
    return isinstance(item, Op) and bool(kernel := kernel_of(item)) and _used_once(graph, kernel)


def kernel_of(op: Op) -> str:
    """The name of the weights of a layer; "" if the operation is none."""
    return next((v for v in op.inputs if isinstance(v, str)), "") if op.name in WEIGHING else ""


def names_of(item: Op | Site) -> set[str]:
    """The weights that an item reads."""
    ops = item.before if isinstance(item, Site) else (item,)
    names = {v for op in ops for v in op.inputs if isinstance(v, str)}
    return names | ({item.bound} - {""} if isinstance(item, Site) else set())


def _readers(graph: Graph) -> dict[int, list]:
    """The items that read each value."""
    readers: dict[int, list] = {}
    for item in graph.items:
        for v in (item.input,) if isinstance(item, Site) else item.inputs:
            readers.setdefault(v, []).append(item)
    return readers


def _used_once(graph: Graph, name: str) -> bool:
    return sum(name in names_of(item) for item in graph.items) == 1


def _channelwise(network: Network, layer: Op, readers: dict) -> list[Op]:
    """The operations behind a layer, one after another, that scale or shift each of its channels by one number."""
    chain, axis, outputs = [], output_axis(network, layer), set(network.graph.outputs)
    value = layer.output
    while axis is not None and len(readers.get(value, ())) == 1 and value not in outputs:
        (op,) = readers[value]
        if isinstance(op, Site) or op.name not in SCALES + SHIFTS or op.inputs[0] != value:
            break
        shape = np.shape(network.weights.get(op.inputs[1])) if isinstance(op.inputs[1], str) else None
        if shape is None or any(n > 1 and i != axis % len(shape) for i, n in enumerate(shape)):
            break
        chain.append(op)
        value = op.output
    return chain


def output_axis(network: Network, layer: Op) -> int | None:
    """The axis of a layer's output that its weights give it, -1 for the last; None if there are several, or none."""
    options = dict(layer.options)
    if layer.name == "conv_general_dilated":
        return options["dimension_numbers"][2][1] if isinstance(layer.inputs[1], str) else None
    free, batch = _free_axes(network, layer), len(options["dimension_numbers"][1][0])
    if len(free) != 1:
        return None
    return batch if isinstance(layer.inputs[0], str) else -1


def _free_axes(network: Network, layer: Op) -> list[int]:
    """The axes of a product's weights that are neither summed over nor common to both."""
    (sums, batches), side = dict(layer.options)["dimension_numbers"], int(isinstance(layer.inputs[1], str))
    kernel = network.weights[layer.inputs[side]]
    return [i for i in range(np.ndim(kernel)) if i not in (*sums[side], *batches[side])]


def _folded(network: Network, layer: Op, chain: list[Op]) -> tuple[list[Op], dict]:
    """The layer with what `chain` scales in its weights and one shift behind it, and the weights that are new."""
    name, last = kernel_of(layer), chain[-1].output
    kernel, scale, shift = np.asarray(network.weights[name]), np.float32(1), np.float32(0)
    for op in chain:
        number = np.asarray(network.weights[op.inputs[1]], np.float32)
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


def kernel_axis(network: Network, layer: Op) -> int:
    """The axis of a layer's weights that makes its output's channels."""
    if layer.name == "conv_general_dilated":
        return dict(layer.options)["dimension_numbers"][1][0]
    return _free_axes(network, layer)[0]


def fold_thresholds(network, example=None) -> Network:
    """The same network with thresholds of 1, so that what a layer sends on is 0 or 1 (Appendix A).

    A layer's weights take the thresholds of the neurons before it, and give up those of the neurons behind it, whose
    potential is then counted in thresholds: `kernel theta_before / theta_behind`, `shift / theta_behind`. Without a
    layer, as in an identity shortcut or behind a max-pool, a scale stays in the graph. Batch norm is folded first.

    Raises:
      InputError: if a site has no threshold.
    """
    network = fold_batch_norm(network, example)
    if network.missing:
        raise InputError(f"no threshold at {', '.join(network.missing)}: calibrate the network first")
    folder = _Folder(network)
    for item in network.graph.items:
        folder.site(item) if isinstance(item, Site) else folder.op(item)
    outputs = tuple(v if isinstance(v, str) else folder.scaled(v, None) for v in network.graph.outputs)
    thetas = {name: np.ones_like(theta) for name, theta in network.thetas.items()}
    offsets = {name: offset / (network.thetas.get(name, 1)) for name, offset in network.offsets.items()}
    graph = network.graph.with_items(folder.items, outputs)
    done = with_items(network.replace(graph=graph, thetas=thetas, offsets=offsets), folder.items, folder.weights)
    return done.replace(history=(*network.history, "thresholds folded into the weights"))


class _Folder:
    """Rewrites a network item by item, so that what a site sends is counted in its thresholds.

    Attributes:
      held: `{value: scale}`, by what a value has to be multiplied to be what it was; without an entry by 1.
      wanted: `{value: scale}`, by what a site wants it divided; sums hand that on to the layers that feed them.
    """

    def __init__(self, network: Network):
        self.network, self.items, self.weights = network, [], dict(network.weights)
        self.values = 1 + max(item.output for item in network.graph.items)
        self.shapes = network.graph.shapes(network.weights)
        self.held: dict[int, np.ndarray] = {}
        self.wanted: dict[int, np.ndarray] = {}
        for item in reversed(network.graph.items):
            if isinstance(item, Site):
                self.wanted[item.input] = self.theta(item, item.input_axis, item.input_shape)
            elif item.name == "add" and item.output in self.wanted:
                self.wanted |= {v: self.wanted[item.output] for v in item.inputs if isinstance(v, int)}

    def theta(self, site: Site, axis: int | None, shape) -> np.ndarray:
        """The thresholds of a site as they broadcast to `[1, *shape]`."""
        theta = np.asarray(self.network.thetas[site.name], np.float32)
        return theta.reshape([-1 if theta.ndim and i == (axis or 0) + 1 else 1 for i in range(len(shape) + 1)])

    def weight(self, name: str, array) -> str:
        """Keeps an array, and returns the name that it has."""
        name = free_name(name, self.weights)
        self.weights[name] = np.asarray(array)
        return name

    def emit(self, op: Op, held=None) -> None:
        """Adds an operation whose output is `held`."""
        self.items.append(op)
        if held is not None and not np.all(held == 1):
            self.held[op.output] = held

    def scaled(self, value: int, target) -> int:
        """A value divided by `target`: the number of one that is held so, or of a product that is added."""
        held, target = self.held.get(value, np.float32(1)), np.float32(1) if target is None else target
        if np.shape(held) == np.shape(target) and np.allclose(held, target):
            return value
        self.values += 1
        scale = self.weight(f"scale{self.values}", held / target)
        self.emit(Op("mul", (value, scale), self.values - 1))
        return self.values - 1

    def site(self, site: Site) -> None:
        """A site with a threshold of 1: what reaches it, its bound, and its offset in thresholds."""
        theta = self.theta(site, site.axis, site.shape)
        value = self.scaled(site.input, self.theta(site, site.input_axis, site.input_shape))
        before = tuple(
            op._replace(inputs=tuple(self.in_thresholds(op, v, theta) for v in op.inputs)) for op in site.before
        )
        before = tuple(op._replace(inputs=tuple(value if v == site.input else v for v in op.inputs)) for op in before)
        bound = site.bound and self.weight(f"{site.name}/bound", np.asarray(self.weights[site.bound]) / theta)
        compared = site.compared if before else value
        self.items.append(site._replace(input=value, before=before, compared=compared, bound=bound))
        self.held[site.output] = theta

    def in_thresholds(self, op: Op, v: int | str, theta) -> int | str:
        """What is added or taken away before a site compares, divided by its thresholds."""
        return self.weight(v, self.weights[v] / theta) if isinstance(v, str) and op.name in SHIFTS else v

    def op(self, op: Op) -> None:
        """An operation on what is held."""
        values, target = [v for v in op.inputs if isinstance(v, int)], self.wanted.get(op.output)
        layer = is_layer(self.network.graph, op)
        target = None if layer and not self.has_channels_of(op, target) else target
        if layer and (kernel := self.kernel(op, values[0], target)) is not None:
            self.weights[kernel_of(op)] = kernel
            self.emit(op, target)
        elif op.name in SHIFTS:
            held = next((self.held[v] for v in values if v in self.held), None) if target is None else target
            inputs = [self.scaled(v, held) if isinstance(v, int) else self.shift(v, held) for v in op.inputs]
            self.emit(op._replace(inputs=tuple(inputs)), held)
        elif op.name in SCALES and len(values) == 1:
            self.emit(op, self.held.get(values[0]))
        elif (held := self.moved(op, values)) is not None:
            self.emit(op, held)
        else:
            self.emit(op._replace(inputs=tuple(self.scaled(v, None) if isinstance(v, int) else v for v in op.inputs)))

    def has_channels_of(self, layer: Op, target) -> bool:
        """Whether a layer's weights give its output the axis along which `target` changes."""
        axis = output_axis(self.network, layer)
        others = [] if target is None else [i for i, n in enumerate(target.shape) if n > 1]
        return axis is not None and others in ([], [axis % len(self.shapes[layer.output])])

    def moved(self, op: Op, values: list[int]) -> np.ndarray | None:
        """By what the output is held, if the operation moves or sums what is held alike; None if it does not."""
        if op.name not in (*LAYOUT, "concatenate", "pad", "reduce_sum", "reduce_window_sum"):
            return None
        if not any(v in self.held for v in values):
            return np.float32(1)
        full = {v: np.broadcast_to(self.held.get(v, np.float32(1)), self.shapes[v]) for v in values}

        def run(power: int):
            env = {v: full[v] ** power if v in full else self.weights[v] for v in op.inputs}
            op.run(env)
            return np.asarray(env[op.output], np.float32)

        number, mean, square = run(0), run(1), run(2)  # of as many, their sum, the sum of squares
        number = np.where(number > 0, number, 1)
        mean, square = mean / number, square / number
        return np.where(mean > 0, mean, 1) if np.allclose(mean**2, square, rtol=1e-5) else None

    def shift(self, name: str, held) -> str:
        """What is added to a value that is held so."""
        return name if held is None else self.weight(name, np.asarray(self.weights[name]) / held)

    def kernel(self, op: Op, value: int, target) -> np.ndarray | None:
        """A layer's weights, which take what its input is held by and give up `target`; None if they can't."""
        kernel, options = np.asarray(self.weights[kernel_of(op)]), dict(op.options)
        held = compact(self.held.get(value, np.ones((1,), np.float32)))
        inputs = _summed_axes(op)
        if held.size > 1 and any(n > 1 and i not in inputs for i, n in enumerate(held.shape)):
            return None
        if op.name == "conv_general_dilated":
            ((_, channel, *_), order, _), groups = options["dimension_numbers"], options["feature_group_count"]
            inputs, whole = (
                [channel],
                np.moveaxis(kernel, order, range(kernel.ndim)),
            )  # outputs, inputs of a group, space
            of_groups = np.resize(held.ravel(), groups * whole.shape[1]).reshape(groups, 1, -1)
            factors = np.repeat(of_groups, len(whole) // groups, axis=1).reshape(len(whole), -1)
            whole = whole * factors.reshape(*factors.shape, *[1] * (kernel.ndim - 2))
            scaled = np.moveaxis(whole, range(kernel.ndim), order)
        else:
            side = int(isinstance(op.inputs[0], str))
            sums = options["dimension_numbers"][0][1 - side]
            order = [inputs[j] for j in np.argsort(sums)]  # axes of the input as they stand in the kernel
            held = held.reshape(()) if held.size == 1 else np.transpose(held, [*not_in(inputs, held.ndim), *order])
            held = held.reshape(held.shape[held.ndim - len(order) :] if held.ndim else ())
            factors = np.broadcast_to(held, [kernel.shape[i] for i in sorted(sums)])
            scaled = kernel * np.expand_dims(factors, not_in(sums, kernel.ndim))
        if target is not None:
            axis = kernel_axis(self.network, op)
            scaled = scaled / target.reshape([-1 if i == axis else 1 for i in range(kernel.ndim)])
        return scaled.astype(kernel.dtype)


def _summed_axes(op: Op) -> tuple[int, ...]:
    """The axes of a layer's input that it sums over with a weight for each."""
    numbers = dict(op.options)["dimension_numbers"]
    return numbers[0][1:2] if op.name == "conv_general_dilated" else numbers[0][int(isinstance(op.inputs[0], str))]


def compact(scale: np.ndarray) -> np.ndarray:
    """The scale with 1 for each axis along which it does not change."""
    for axis in range(scale.ndim):
        first = np.take(scale, [0], axis)
        scale = first if np.all(scale == first) else scale
    return scale


def not_in(axes, ndim: int) -> tuple[int, ...]:
    """The other axes."""
    return tuple(i for i in range(ndim) if i not in axes)

"""From a graph to nodes of NIR: convolutions, affine maps, sums over windows, neurons; images have channels first.

A value of the graph is a constant and a sum of terms, as `terms` has them, so that only what computes is a node.
"""

from dataclasses import replace

import numpy as np

from convert.fold import fold_thresholds
from convert.nir.layers import Layers
from convert.nir.terms import Picked, Term, Value, input_axis, merged, picked, scattered
from tppjax.errors import InputError
from tppjax.graph import Op, Site
from tppjax.graph.operations import LAYOUT
from tppjax.network import OUTPUT, Network


class Nodes:
    """Makes the nodes of a network item by item of its graph, by `op` and `site`, and in the end by `output`.

    Attributes:
      network: with thresholds and batch norm folded.
      layers: what is made.
      entry: the indices of the numbers of the input in what the input node sends, from 1 on.
      orders: `{site: indices of its neurons}`, likewise.
    """

    def __init__(self, nir, network: Network):
        self.network = fold_thresholds(network)
        graph = self.network.graph
        self.sizes = graph.shapes(self.network.weights)
        read = [v for item in graph.items for v in ((item.input,) if isinstance(item, Site) else item.inputs)]
        self.readers = {v: (*read, *graph.outputs).count(v) for v in read}
        axis = input_axis(self.network)
        shape = graph.shape if axis is None else (graph.shape[axis], *np.delete(graph.shape, axis).tolist())
        self.layers = Layers(nir, shape)
        indices = np.arange(1, 1 + np.prod(shape)).reshape(shape)
        indices = (indices if axis is None else np.moveaxis(indices, 0, axis))[None]
        self.entry, self.orders = indices[0], {}
        self.values = {0: Value([Term("input", indices, np.ones(indices.shape))], np.zeros(indices.shape))}

    def op(self, op: Op) -> None:
        """An operation, on values.

        Raises:
          InputError: if no nodes compute it.
        """
        match op.name:
            case "add" | "sub":
                value = self._sum(op)
            case "neg":
                value = self._read(op.inputs[0]).times(-1.0)
            case "mul" | "div":
                (number,) = (self.network.weights[v] for v in op.inputs if isinstance(v, str))
                factor = np.asarray(number, np.float64)
                value = self._read(next(v for v in op.inputs if isinstance(v, int)))
                shape = np.broadcast_shapes(value.constant.shape, factor.shape)
                value = value.each(lambda a: np.broadcast_to(a, shape)).times(
                    1 / factor if op.name == "div" else factor
                )
            case "conv_general_dilated":
                value = self._convolution(op)
            case "dot_general":
                value = self._product(op)
            case "reduce_window_sum" | "reduce_sum":
                value = self._pooled(op)
            case "convert_element_type":
                value = self._read(op.inputs[0])
            case name if name in LAYOUT or name in ("pad", "concatenate"):
                value = self._moved(op)
            case _:
                raise self._refusal(op, f"it has no node for {op.name}")
        self.values[op.output] = value

    def site(self, site: Site, node, extra: float = 0.0) -> None:
        """The neurons of a site: `node(shape, indices)` makes theirs; `extra` is added to their input at each step."""
        reached = self.values[site.input]
        axes = [
            -1 if site.input_axis is not None and i == site.input_axis + 1 else 1 for i in range(reached.constant.ndim)
        ]
        offset = np.reshape(np.asarray(self.network.offsets.get(site.name, 0.0)), axes) + extra
        value = self._read(site.input)
        self.values[site.input] = replace(value, constant=value.constant + offset)
        for op in site.before:
            self.op(op)
        value, self.values[site.input] = self._read(site.compared), reached
        shape, indices = self._arrangement(site)
        name = self.layers.add(
            f"{site.name}_neurons", node(shape, indices), self._sources(site, value, indices, shape), shape
        )
        self.orders[site.name] = indices[0]
        self.values[site.output] = Value([Term(name, indices, np.ones(indices.shape))], np.zeros(indices.shape))

    def output(self) -> None:
        """What the network returns.

        Raises:
          InputError: if that is not one vector.
        """
        graph = self.network.graph
        if len(graph.outputs) > 1 or len(self.sizes[graph.outputs[0]]) != 2:
            raise InputError(
                "NIR: the tools that read it have one output, a vector; this network returns something else"
            )
        value = self._read(graph.outputs[0])
        value = replace(value, constant=value.constant + np.asarray(self.network.offsets.get(OUTPUT, 0.0)))
        shape = value.constant.shape[1:]
        sources = self._sources(graph.items[-1], value, np.arange(1, 1 + shape[0])[None], shape)
        self.layers.end(sources, shape)

    # What operations make of values

    def _sum(self, op: Op) -> Value:
        sign = -1.0 if op.name == "sub" else 1.0
        parts = []
        for v, factor in zip(op.inputs, (1.0, sign), strict=True):
            if isinstance(v, str):
                parts.append(Value([], np.asarray(self.network.weights[v], np.float64)).times(factor))
            else:
                parts.append(self._read(v).times(factor))
        shape = np.broadcast_shapes(*(part.constant.shape for part in parts))
        first, second = (part.each(lambda array: np.broadcast_to(array, shape)) for part in parts)
        terms = merged([*first.terms, *second.terms])
        return self._settled(Value(terms, first.constant + second.constant))

    def _moved(self, op: Op) -> Value:
        """Of what moves numbers: the same done with indices, weights and constants."""
        values = {v: self._read(v) for v in op.inputs if isinstance(v, int)}

        def run(arrays: dict, fill=None):
            env = {v: self.network.weights[v] for v in op.inputs if isinstance(v, str)}
            if fill is not None and op.name == "pad":
                env[op.inputs[1]] = fill
            env |= arrays
            op.run(env)
            return np.asarray(env[op.output])

        terms = []
        for v, value in values.items():
            for term in value.terms:
                indices, weights = (
                    run(
                        {u: a if u == v else np.zeros(self.values[u].constant.shape, a.dtype) for u in values},
                        fill=a.dtype.type(0),
                    )
                    for a in (term.indices.astype(np.int32), term.weights.astype(np.float32))
                )
                terms.append(replace(term, indices=indices, weights=weights))
        return Value(terms, run({v: value.constant.astype(np.float32) for v, value in values.items()}))

    def _convolution(self, op: Op) -> Value:
        options, (v, kernel) = dict(op.options), op.inputs
        image, taps, out = options["dimension_numbers"]
        if len(image) != 4 or isinstance(v, str):
            raise self._refusal(op, "its tools have convolutions of two dimensions, with a kernel that is fixed")
        if options["batch_group_count"] != 1 or set(options["lhs_dilation"]) != {1}:
            raise self._refusal(op, "it has no transposed convolution")
        value, padding = self._read(v), options["padding"]
        if np.any(padding) and np.any(value.constant):  # which is not there where it is padded
            value = self._carried(op, value, image[1])
        kernel = np.transpose(np.asarray(self.network.weights[kernel], np.float64), taps)
        kernel, terms = _ungrouped(kernel, options["feature_group_count"]), []
        for term in value.terms:
            seen = term.each(lambda a: np.transpose(a, image)[0])
            seen, part = self._part(op, seen)
            valid = part.channels >= 0
            weights = np.zeros((len(kernel), self.layers.shapes[seen.node][0], *kernel.shape[2:]))
            weighted = kernel * part.weights[:, None, None]
            np.add.at(weights, (slice(None), part.channels[valid]), weighted[:, valid])
            name = self.layers.convolution(
                _label(op), seen.node, weights, options["window_strides"], padding, options["rhs_dilation"]
            )
            terms.append(self.layers.whole(name, lambda indices: np.transpose(indices, np.argsort(out))))
        return self._settled(Value(terms, self._ran(op, v, value.constant)))

    def _product(self, op: Op) -> Value:
        (sums, batches), side = dict(op.options)["dimension_numbers"], int(isinstance(op.inputs[0], str))
        v, kernel = op.inputs[side], np.asarray(self.network.weights[op.inputs[1 - side]], np.float64)
        value = self._read(v)
        free = [i for i in range(1, value.constant.ndim) if i not in sums[side]]
        kept = [i for i in range(kernel.ndim) if i not in sums[1 - side]]
        kernel = np.transpose(kernel, [*kept, *sums[1 - side]]).reshape(
            -1, np.prod([kernel.shape[i] for i in sums[1 - side]], dtype=int)
        )
        terms, size = [], self.sizes[op.output]
        if batches[0] or (free and (len(sums[side]), value.constant.ndim, side) != (1, 4, 0)):
            raise self._refusal(op, "its affine maps are of whole vectors, or of the channels of an image")
        for term in value.terms:
            if free:  # a convolution of one tap
                seen = self._image(op, term.each(lambda a: np.moveaxis(a, sums[0][0], 1)[0]))
                name = self.layers.convolution(_label(op), seen.node, kernel[:, :, None, None])
                terms.append(self.layers.whole(name, lambda indices: np.moveaxis(indices, 1, -1).reshape(size)))
            else:
                seen = term.each(lambda a: np.transpose(a[0], [i - 1 for i in sums[side]]).ravel())
                name = self.layers.affine(_label(op), seen, kernel)
                terms.append(self.layers.whole(name, lambda indices: indices.reshape(size)))
        return self._settled(Value(terms, self._ran(op, v, value.constant)))

    def _pooled(self, op: Op) -> Value:
        (v,), options = op.inputs, dict(op.options)
        value = self._read(v)
        rank = value.constant.ndim
        if op.name == "reduce_sum":
            window = [n if i in options["axes"] else 1 for i, n in enumerate(value.constant.shape)]
            strides, padding, plain = window, [(0, 0)] * rank, True
        else:
            window, strides = options["window_dimensions"], options["window_strides"]
            padding = options["padding"]
            plain = {*options["base_dilation"], *options["window_dilation"]} == {1}
        space = [i for i in range(rank) if (window[i], strides[i], *padding[i]) != (1, 1, 0, 0)]
        if rank != 4 or not plain or 0 in space or len(space) > 2:
            raise self._refusal(op, "it sums over windows of two dimensions")
        channel = next(i for i in (3, 1, 2) if i not in space)
        space = [i for i in (1, 2, 3) if i != channel]
        if np.any(padding) and np.any(value.constant):
            value = self._carried(op, value, channel)
        terms = []
        for term in value.terms:
            seen = term.each(lambda a: np.moveaxis(a, channel, 1)[0])
            seen, part = self._part(op, seen, all_channels=True)
            sizes, steps, edges = ([a[i] for i in space] for a in (window, strides, padding))
            name = self.layers.sum_pool(op.name, seen.node, sizes, steps, edges)
            whole = self.layers.whole(name, lambda indices: np.moveaxis(indices, 1, channel))
            weights = np.broadcast_to(np.moveaxis(part.weights[None, :, None, None], 1, channel), whole.indices.shape)
            terms.append(replace(whole, weights=weights).each(lambda a: a.reshape(self.sizes[op.output])))
        return Value(terms, self._ran(op, v, value.constant))

    # Places

    def _read(self, v: int) -> Value:
        """A value, for one of its readers."""
        value, alone = self.values[v], self.readers.get(v, 1) == 1
        return replace(value, terms=[replace(term, own=term.own and alone) for term in value.terms])

    def _part(self, op: Op, seen: Term, all_channels: bool = False) -> tuple[Term, Picked]:
        """The term `[C, H, W]` as whole channels of an image, if need be of one that is made for it."""
        part = picked(seen, self.layers.shapes[seen.node])
        every = np.arange(self.layers.shapes[seen.node][0])
        if part is None or not part.whole or (all_channels and not np.array_equal(part.channels, every)):
            seen = self._image(op, seen)
            part = picked(seen, self.layers.shapes[seen.node])
        return seen, part

    def _ran(self, op: Op, v: int, constant):
        """What an operation makes of the constant of its input."""
        env = {name: self.network.weights[name] for name in op.inputs if isinstance(name, str)}
        env[v] = constant.astype(np.float32)
        op.run(env)
        return np.asarray(env[op.output], np.float64)

    def _arrangement(self, site: Site):
        """`(shape, indices [1, ...])` of the neurons of a site: a vector, or an image with its channels first."""
        if len(site.shape) == 1:
            return site.shape, np.arange(1, 1 + site.shape[0])[None]
        if len(site.shape) != 3:
            raise self._refusal(site, "its tools have vectors and images")
        axis = site.axis or 0
        shape = (site.shape[axis], *np.delete(site.shape, axis).tolist())
        return shape, np.moveaxis(np.arange(1, 1 + np.prod(shape)).reshape(shape), 0, axis)[None]

    def _sources(self, item: Op | Site, value: Value, indices, shape) -> list[str]:
        """The nodes whose sum is the value, its numbers in the order of `indices`."""
        value, sources = self._settled(replace(value, terms=merged(value.terms))), []
        for term in value.terms:
            constant = value.constant if not sources else np.zeros(value.constant.shape)
            seen, constant = term.each(lambda a: scattered(a, indices, shape)), scattered(constant, indices, shape)
            if len(shape) == 3:
                sources.append(self._image(item, seen, constant).node)
            elif np.any(constant) or not self.layers.is_own_order(seen):
                name = self.layers.affine("pick", seen, np.eye(*shape))
                self.layers.nodes[name].bias[:] = constant
                sources.append(name)
            else:
                sources.append(self.layers.flat(term.node))
        if not sources:
            raise self._refusal(item, "it does not depend on the input")
        return sources

    def _image(self, item: Op | Site, seen: Term, constant=None) -> Term:
        """The term `[C, H, W]` as what a node sends: its own, or a convolution of one tap, which adds the constant."""
        if self.layers.is_whole(seen) and (constant is None or not np.any(constant)):
            return seen
        part = picked(seen, self.layers.shapes[seen.node])
        if part is None:
            raise self._refusal(item, "no convolution makes this of an image")
        channels, *space = self.layers.shapes[seen.node]
        padding = [
            (-offset, (n - 1) * stride + 1 - size + offset)
            for n, size, stride, offset in zip(seen.indices.shape[1:], space, part.strides, part.offsets, strict=True)
        ]
        kernel, valid = np.zeros((len(part.channels), channels, 1, 1)), part.channels >= 0
        kernel[valid, part.channels[valid], 0, 0] = part.weights[valid]
        name = self.layers.convolution("pick", seen.node, kernel, part.strides, padding)
        if constant is not None:
            self.layers.nodes[name].bias[:] = self._by_channel(item, constant)
        return replace(self.layers.whole(name, lambda indices: indices[0]), own=False)

    def _settled(self, value: Value) -> Value:
        """The value with its constant in the bias of a node that only it reads, if there is one that can have it."""
        if not np.any(value.constant):
            return value
        for term in value.terms:
            node, shape = self.layers.nodes[term.node], self.layers.shapes[term.node]
            order = np.sort(term.indices, axis=None)
            if not (term.own and hasattr(node, "bias") and np.array_equal(order, np.arange(1, 1 + np.prod(shape)))):
                continue
            bias = scattered(value.constant, term.indices, shape).reshape(len(node.bias), -1)
            if np.all(term.weights == 1) and np.allclose(bias, bias[:, :1], rtol=1e-5, atol=1e-7):
                node.bias[:] += bias[:, 0]
                return replace(value, constant=np.zeros(value.constant.shape))
        return value

    def _carried(self, op: Op, value: Value, channel: int) -> Value:
        """The value with its constant in a node, to be there before an image is padded."""
        seen = value.terms[0].each(lambda a: np.moveaxis(a, channel, 1)[0])
        carried = self._image(op, seen, np.moveaxis(value.constant, channel, 1)[0])
        first = carried.each(lambda a: np.moveaxis(a[None], 1, channel))
        return Value([first, *value.terms[1:]], np.zeros(value.constant.shape))

    def _by_channel(self, item: Op | Site, constant):
        """A bias of each channel."""
        bias = constant.reshape(len(constant), -1)
        if not np.allclose(bias, bias[:, :1], rtol=1e-5, atol=1e-7):
            raise self._refusal(item, "a bias is one number for each channel, and here it differs within a channel")
        return bias[:, 0]

    @staticmethod
    def _refusal(item: Op | Site, why: str) -> InputError:
        return InputError(f"NIR can't have what stands {item.place}: {why}")


def _label(op: Op) -> str:
    """The layer of an operation, by the path of its weights."""
    path = next(v for v in op.inputs if isinstance(v, str)).rpartition("/")[0]
    return path.removeprefix("params/") or op.name


def _ungrouped(kernel, groups: int):
    """The kernel `[O, I, ...]` of all channels, zero between groups: nir 1.0.8 can't read a convolution with groups."""
    outputs, inputs = len(kernel) // groups, kernel.shape[1]
    whole = np.zeros((len(kernel), inputs * groups, *kernel.shape[2:]), kernel.dtype)
    for g in range(groups):
        here = slice(g * outputs, (g + 1) * outputs)
        whole[here, g * inputs : (g + 1) * inputs] = kernel[here]
    return whole

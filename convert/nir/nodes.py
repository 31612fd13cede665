"""From a graph to nodes of NIR: convolutions, affine maps, sums over windows, neurons; images have channels first.

A value of the graph is a constant and a sum of terms, as `terms` has them, so that only what computes is a node.
"""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from convert.nir.terms import Term, Value, merged, scattered
from convert.nir.values import Values
from tppjax.errors import InputError
from tppjax.graph import Op, Site
from tppjax.graph.operations import LAYOUT
from tppjax.network import OUTPUT


class Nodes(Values):
    """Makes the nodes of a network item by item of its graph, by `op` and `site`, and in the end by `output`."""

    def op(self, op: Op) -> None:
        """Adds the nodes of an operation, or changes the terms of its value.

        Raises:
          InputError: if no nodes compute it.
        """
        match op.name:
            case "add" | "sub":
                value = self._sum(op)
            case "neg":
                value = self.read(op.values[0]).times(-1.0)
            case "mul" | "div":
                factor = np.asarray(self.network.weights[op.weights[0]], np.float64)
                value = self.read(op.values[0])
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
                value = self.read(op.values[0])
            case name if name in LAYOUT or name in ("pad", "concatenate"):
                value = self._moved(op)
            case _:
                raise self.refusal(op, f"it has no node for {op.name}")
        self.values[op.output] = value

    def site(self, site: Site, r: float, start: np.ndarray | None, extra: float | np.ndarray) -> None:
        """Adds the neurons of a site, with initial potentials in the metadata; `extra` is added to their input."""
        reached, one = self.values[site.input], jnp.zeros((1, *site.input_shape))
        offset = np.asarray(self.network.corrected(site.name, one, site.input_axis), np.float64) + extra
        value = self.read(site.input)
        self.values[site.input] = replace(value, constant=value.constant + offset)
        for op in site.before:
            self.op(op)
        value, self.values[site.input] = self.read(site.compared), reached
        shape, indices = self.arrangement(site)
        ones = np.ones(shape, np.float32)
        metadata: dict[str, Any] = {"site": site.name}
        if start is not None:
            metadata["v_init"] = scattered(start, indices, shape)
        node = self.layers.nir.IF(r=np.float32(r) * ones, v_threshold=ones, metadata=metadata)
        name = self.layers.add(f"{site.name}_neurons", node, self.sources(site, value, indices, shape), shape)
        self.orders[site.name] = indices[0]
        self.values[site.output] = Value([Term(name, indices, np.ones(indices.shape))], np.zeros(indices.shape))

    def output(self) -> None:
        """Adds the output node.

        Raises:
          InputError: if the network returns anything but one vector.
        """
        graph = self.network.graph
        last = graph.outputs[0]
        if len(graph.outputs) > 1 or not isinstance(last, int) or len(self.sizes[last]) != 2:
            raise InputError(
                "NIR: the tools that read it have one output, a vector; this network returns something else"
            )
        value = self.read(last)
        value = replace(value, constant=value.constant + np.asarray(self.network.offsets.get(OUTPUT, 0.0)))
        shape = value.constant.shape[1:]
        sources = self.sources(graph.items[-1], value, np.arange(1, 1 + shape[0])[None], shape)
        self.layers.end(sources, shape)

    # What operations make of values

    def _sum(self, op: Op) -> Value:
        sign = -1.0 if op.name == "sub" else 1.0
        parts = []
        for v, factor in zip(op.inputs, (1.0, sign), strict=True):
            if isinstance(v, str):
                parts.append(Value([], np.asarray(self.network.weights[v], np.float64)).times(factor))
            else:
                parts.append(self.read(v).times(factor))
        shape = np.broadcast_shapes(*(part.constant.shape for part in parts))
        first, second = (part.each(lambda array: np.broadcast_to(array, shape)) for part in parts)
        terms = merged([*first.terms, *second.terms])
        return self.settled(Value(terms, first.constant + second.constant))

    def _moved(self, op: Op) -> Value:
        """The value of an operation that moves numbers, which is done to indices, weights and constants."""
        values = {v: self.read(v) for v in op.values}

        def run(arrays: dict[int, np.ndarray], fill: Any = None) -> np.ndarray:
            env: dict = self.weights(op)
            if fill is not None and op.name == "pad":
                env[op.inputs[1]] = fill
            if fill is not None and op.name == "concatenate":
                env = {name: np.full(np.shape(weights), fill) for name, weights in env.items()}
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
        options = dict(op.options)
        image, taps, out = options["dimension_numbers"]
        if len(image) != 4 or not op.weights or op.inputs[1] != op.weights[0]:
            raise self.refusal(op, "its tools have convolutions of two dimensions, with a kernel that is fixed")
        if options["batch_group_count"] != 1 or set(options["lhs_dilation"]) != {1}:
            raise self.refusal(op, "it has no transposed convolution")
        value, padding = self.read(op.values[0]), options["padding"]
        if np.any(padding) and np.any(value.constant):  # which is not there where it is padded
            value = self.carried(op, value, image[1])
        kernel = np.transpose(np.asarray(self.network.weights[op.weights[0]], np.float64), taps)
        kernel, terms = _ungrouped(kernel, options["feature_group_count"]), []
        for term in value.terms:
            seen = term.each(lambda a: np.transpose(a, image)[0])
            seen, part = self.part(op, seen)
            valid = part.channels >= 0
            weights = np.zeros((len(kernel), self.layers.shapes[seen.node][0], *kernel.shape[2:]))
            weighted = kernel * part.weights[:, None, None]
            np.add.at(weights.swapaxes(0, 1), part.channels[valid], weighted[:, valid].swapaxes(0, 1))
            name = self.layers.convolution(
                _label(op), seen.node, weights, options["window_strides"], padding, options["rhs_dilation"]
            )
            terms.append(self.layers.whole(name, lambda indices: np.transpose(indices, np.argsort(out))))
        return self.settled(Value(terms, self.ran(op, value.constant)))

    def _product(self, op: Op) -> Value:
        (sums, batches), side = dict(op.options)["dimension_numbers"], int(isinstance(op.inputs[0], str))
        kernel, value = np.asarray(self.network.weights[op.weights[0]], np.float64), self.read(op.values[0])
        free = [i for i in range(1, value.constant.ndim) if i not in sums[side]]
        kept = [i for i in range(kernel.ndim) if i not in sums[1 - side]]
        kernel = np.transpose(kernel, [*kept, *sums[1 - side]]).reshape(
            -1, np.prod([kernel.shape[i] for i in sums[1 - side]], dtype=int)
        )
        terms, size = [], self.sizes[op.output]
        if batches[0] or (free and (len(sums[side]), value.constant.ndim, side) != (1, 4, 0)):
            raise self.refusal(op, "its affine maps are of whole vectors, or of the channels of an image")
        for term in value.terms:
            if free:  # a convolution of one tap
                seen = self.image(op, term.each(lambda a: np.moveaxis(a, sums[0][0], 1)[0]))
                name = self.layers.convolution(_label(op), seen.node, kernel[:, :, None, None])
                terms.append(self.layers.whole(name, lambda indices: np.moveaxis(indices, 1, -1).reshape(size)))
            else:
                seen = term.each(lambda a: np.transpose(a[0], [i - 1 for i in sums[side]]).ravel())
                name = self.layers.affine(_label(op), seen, kernel)
                terms.append(self.layers.whole(name, lambda indices: indices.reshape(size)))
        return self.settled(Value(terms, self.ran(op, value.constant)))

    def _pooled(self, op: Op) -> Value:
        options, value = dict(op.options), self.read(op.values[0])
        shape, plain, still = value.constant.shape, True, (1, 1, (0, 0))
        if op.name == "reduce_sum":
            windows = [(n, n, (0, 0)) if i in options["axes"] else still for i, n in enumerate(shape)]
        else:
            windows = [*zip(options["window_dimensions"], options["window_strides"], options["padding"], strict=True)]
            plain = {*options["base_dilation"], *options["window_dilation"]} == {1}
        single = [i for i, n in enumerate(shape) if i and n == 1 and windows[i] == still]  # Equinox's pools have one
        single = single[: max(len(shape) - 4, 0)]
        windows = [window for i, window in enumerate(windows) if i not in single]
        if len(windows) != 4 or not plain or windows[0] != still or still not in windows[1:]:
            raise self.refusal(op, "it sums over windows of two dimensions")
        value = value.each(lambda a: np.squeeze(a, tuple(single)))
        channel = next(i for i in (3, 1, 2) if windows[i] == still)
        sizes, steps, padding = zip(*(windows[i] for i in (1, 2, 3) if i != channel), strict=True)
        if np.any(padding) and np.any(value.constant):
            value = self.carried(op, value, channel)
        terms = []
        for term in value.terms:
            seen = term.each(lambda a: np.moveaxis(a, channel, 1)[0])
            seen, part = self.part(op, seen, all_channels=True)
            name = self.layers.sum_pool(op.name, seen.node, sizes, steps, padding)
            whole = self.layers.whole(name, lambda indices: np.moveaxis(indices, 1, channel))
            weights = np.broadcast_to(np.moveaxis(part.weights[None, :, None, None], 1, channel), whole.indices.shape)
            terms.append(replace(whole, weights=weights).each(lambda a: a.reshape(self.sizes[op.output])))
        return Value(terms, self.ran(op, value.constant.reshape(self.sizes[op.values[0]])))


def _label(op: Op) -> str:
    """The layer of an operation, by the path of its weights."""
    path = op.weights[0].rpartition("/")[0]
    return path.removeprefix("params/") or op.name


def _ungrouped(kernel: np.ndarray, groups: int) -> np.ndarray:
    """The kernel `[O, I, ...]` of all channels, zero between groups: nir 1.0.8 can't read a convolution with groups."""
    whole = np.eye(groups).reshape(groups, 1, groups, *[1] * (kernel.ndim - 1))
    whole = whole * kernel.reshape(groups, -1, 1, *kernel.shape[1:])
    return whole.reshape(len(kernel), -1, *kernel.shape[2:])

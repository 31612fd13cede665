"""Values of a graph in the form that nodes of NIR can take them in: as a vector, or as an image, channels first."""

from dataclasses import replace
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from convert.nir.layers import Layers
from convert.nir.terms import Picked, Term, Value, input_axis, merged, picked, scattered
from convert.thresholds import fold_thresholds
from tppjax.errors import InputError
from tppjax.graph import Op, Site
from tppjax.network import Network


class Values:
    """The values of a graph, each a constant and a sum of terms, and nodes made where a reader needs another form.

    Attributes:
      network: with thresholds and batch norm folded.
      layers: the nodes made so far.
      entry: the indices of the numbers of the input in what the input node sends, from 1 on.
      orders: `{site: indices of its neurons}`, likewise.
      sizes: `{value: shape [1, ...]}`.
      readers: `{value: number of items and outputs that read it}`.
      values: `{number of a value in the graph: what it is}`.
    """

    def __init__(self, nir: ModuleType, network: Network):
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
        self.entry = indices[0]
        self.orders: dict[str, np.ndarray] = {}
        self.values = {0: Value([Term("input", indices, np.ones(indices.shape))], np.zeros(indices.shape))}

    def read(self, v: int) -> Value:
        """A value, for one of its readers: a node that others read, too, is not its own."""
        value, alone = self.values[v], self.readers.get(v, 1) == 1
        return replace(value, terms=[replace(term, own=term.own and alone) for term in value.terms])

    def part(self, op: Op, seen: Term, all_channels: bool = False) -> tuple[Term, Picked]:
        """The term `[C, H, W]` as whole channels of an image, for which a node is made if need be."""
        part = picked(seen, self.layers.shapes[seen.node])
        every = np.arange(self.layers.shapes[seen.node][0])
        if part is None or not part.whole or (all_channels and not np.array_equal(part.channels, every)):
            seen = self.image(op, seen)
            part = picked(seen, self.layers.shapes[seen.node])
            assert part is not None  # of what an image node sends
        return seen, part

    def weights(self, op: Op) -> dict[str, Any]:
        """The weights of an operation by name, in single precision."""
        weights = {name: self.network.weights[name] for name in op.weights}
        return {k: w.astype(np.float32) if jnp.issubdtype(w.dtype, jnp.floating) else w for k, w in weights.items()}

    def ran(self, op: Op, constant: np.ndarray) -> np.ndarray:
        """The result of an operation on the constant of its input."""
        env: dict = self.weights(op)
        env[op.values[0]] = constant.astype(np.float32)
        op.run(env)
        return np.asarray(env[op.output], np.float64)

    def arrangement(self, site: Site) -> tuple[tuple[int, ...], np.ndarray]:
        """`(shape, indices [1, ...])` of the neurons of a site: a vector, or an image with channels first."""
        size = int(np.prod(site.shape))
        if len(site.shape) != 3 and size == max(site.shape, default=1):  # Equinox's vectors are [C, 1]
            return (size,), np.arange(1, 1 + size).reshape(1, *site.shape)
        if len(site.shape) != 3:
            raise self.refusal(site, "its tools have vectors and images")
        axis = site.axis or 0
        shape = (site.shape[axis], *np.delete(site.shape, axis).tolist())
        return shape, np.moveaxis(np.arange(1, 1 + np.prod(shape)).reshape(shape), 0, axis)[None]

    def sources(self, item: Op | Site, value: Value, indices: np.ndarray, shape: tuple[int, ...]) -> list[str]:
        """The nodes whose sum is the value, with its numbers in the order of `indices`."""
        value, sources = self.settled(replace(value, terms=merged(value.terms))), []
        for term in value.terms:
            constant = value.constant if not sources else np.zeros(value.constant.shape)
            seen, constant = term.each(lambda a: scattered(a, indices, shape)), scattered(constant, indices, shape)
            if len(shape) == 3:
                sources.append(self.image(item, seen, constant).node)
            elif np.any(constant) or not self.layers.is_own_order(seen):
                name = self.layers.affine("pick", seen, np.eye(shape[0]))
                self.layers.nodes[name].bias[:] = constant
                sources.append(name)
            else:
                sources.append(self.layers.flat(term.node))
        if not sources:
            raise self.refusal(item, "it does not depend on the input")
        return sources

    def image(self, item: Op | Site, seen: Term, constant: np.ndarray | None = None) -> Term:
        """The term `[C, H, W]` as the output of its node, or of a convolution of one tap, which adds the constant."""
        if self.layers.is_whole(seen) and (constant is None or not np.any(constant)):
            return seen
        part = picked(seen, self.layers.shapes[seen.node])
        if part is None:
            raise self.refusal(item, "no convolution makes this of an image")
        channels, *space = self.layers.shapes[seen.node]
        padding = [
            (-offset, (n - 1) * stride + 1 - size + offset)
            for n, size, stride, offset in zip(seen.indices.shape[1:], space, part.strides, part.offsets, strict=True)
        ]
        kernel, valid = np.zeros((len(part.channels), channels, 1, 1)), part.channels >= 0
        kernel[valid, part.channels[valid], 0, 0] = part.weights[valid]
        name = self.layers.convolution("pick", seen.node, kernel, part.strides, padding)
        if constant is not None:
            self.layers.nodes[name].bias[:] = self.by_channel(item, constant)
        return replace(self.layers.whole(name, lambda indices: indices[0]), own=False)

    def settled(self, value: Value) -> Value:
        """The value with its constant moved into the bias of a node that only it reads, if there is such a node."""
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

    def carried(self, op: Op, value: Value, channel: int) -> Value:
        """The value with its constant moved into a node, so that it is added before an image is padded."""
        seen = value.terms[0].each(lambda a: np.moveaxis(a, channel, 1)[0])
        carried = self.image(op, seen, np.moveaxis(value.constant, channel, 1)[0])
        first = carried.each(lambda a: np.moveaxis(a[None], 1, channel))
        return Value([first, *value.terms[1:]], np.zeros(value.constant.shape))

    def by_channel(self, item: Op | Site, constant: np.ndarray) -> np.ndarray:
        """The constant `[C, H, W]` as a bias of each channel, `[C]`."""
        bias = constant.reshape(len(constant), -1)
        if not np.allclose(bias, bias[:, :1], rtol=1e-5, atol=1e-7):
            raise self.refusal(item, "a bias is one number for each channel, and here it differs within a channel")
        return bias[:, 0]

    @staticmethod
    def refusal(item: Op | Site, why: str) -> InputError:
        """The error for what no nodes of NIR compute."""
        return InputError(f"NIR can't have what stands {item.place}: {why}")

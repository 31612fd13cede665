"""The nodes of NIR that a network is made of, and what each sends."""

import re

import numpy as np

from convert.nir.terms import Term
from tppjax.errors import InputError


class Layers:
    """Nodes and edges, made one after another.

    Attributes:
      nir: the package.
      nodes: `{name: node}`; names sort in the order in which nodes run, since files keep no other.
      edges: pairs of names; what several send to one is added.
      shapes: of what each node sends, `(C, H, W)` or `(N,)`.
    """

    def __init__(self, nir, shape):
        self.nir, self.edges, self.shapes = nir, [], {"input": shape}
        self.nodes = {"input": nir.Input(input_type={"input": np.array(shape)})}

    def add(self, label: str, node, sources, shape) -> str:
        """Takes a node in, and returns the name that it has."""
        name = f"n{len(self.nodes):04d}_{re.sub(r'[^0-9A-Za-z]+', '_', label).strip('_')}"
        self.nodes[name], self.shapes[name] = node, tuple(int(n) for n in shape)
        self.edges += [(source, name) for source in sources]
        return name

    def end(self, sources, shape) -> None:
        """The output, the sum of these nodes; added before, since nirtorch does not add there."""
        if len(sources) > 1:
            same = self.nir.Affine(weight=np.eye(*shape, dtype=np.float32), bias=np.zeros(shape, np.float32))
            sources = [self.add("sum", same, sources, shape)]
        self.nodes["output"], self.shapes["output"] = self.nir.Output(output_type={"output": np.array(shape)}), shape
        self.edges += [(source, "output") for source in sources]

    def convolution(self, label, source, kernel, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)) -> str:
        """A convolution; NIR pads both sides alike and reads square kernels, so zeros in the kernel make up for both.

        Raises:
          InputError: if no zeros make the kernel square.
        """
        spread = [1 + d * (n - 1) for d, n in zip(dilation, kernel.shape[2:], strict=True)]
        uneven = any(low != high or low < 0 for low, high in padding)
        if uneven or spread[0] != spread[1] or kernel.shape[2] != kernel.shape[3]:
            taps = np.zeros((*kernel.shape[:2], *spread))
            taps[:, :, :: dilation[0], :: dilation[1]] = kernel
            alike = [max(low, high, 0) for low, high in padding]
            sizes = [n + 2 * most - low - high for n, most, (low, high) in zip(spread, alike, padding, strict=True)]
            if (sizes[0] - sizes[1]) % 2:
                raise InputError(
                    f"NIR can't have the layer {label}: nir reads square kernels, and zeros make none of this"
                )
            alike = [most + (max(sizes) - n) // 2 for most, n in zip(alike, sizes, strict=True)]
            fill = [(most - low, most - high) for most, (low, high) in zip(alike, padding, strict=True)]
            kernel, dilation, padding = np.pad(taps, [(0, 0), (0, 0), *fill]), (1, 1), [(n, n) for n in alike]
        space = self.shapes[source][1:]
        sizes = [
            (n + 2 * pad - d * (k - 1) - 1) // step + 1
            for n, (pad, _), d, k, step in zip(space, padding, dilation, kernel.shape[2:], strides, strict=True)
        ]
        whole = lambda numbers: tuple(int(n) for n in numbers)  # noqa: E731
        node = self.nir.Conv2d(
            input_shape=whole(space),
            weight=np.ascontiguousarray(kernel, np.float32),
            stride=whole(strides),
            padding=whole(low for low, _ in padding),
            dilation=whole(dilation),
            groups=1,
            bias=np.zeros(len(kernel), np.float32),
        )
        return self.add(label, node, [source], (len(kernel), *sizes))

    def affine(self, label: str, term: Term, matrix) -> str:
        """A matrix `[O, N]` times a term `[N]`, for the numbers of its node in their order."""
        valid, source = term.indices > 0, self.flat(term.node)
        weights = np.zeros((len(matrix), *self.shapes[source]))
        np.add.at(weights, (slice(None), term.indices[valid] - 1), (matrix * term.weights)[:, valid])
        node = self.nir.Affine(weight=weights.astype(np.float32), bias=np.zeros(len(matrix), np.float32))
        return self.add(label, node, [source], (len(matrix),))

    def flat(self, source: str) -> str:
        """The vector of what a node sends; by negative axes, since tools differ in whether they count the batch."""
        shape = self.shapes[source]
        if len(shape) == 1:
            return source
        known = [b for a, b in self.edges if a == source and isinstance(self.nodes.get(b), self.nir.Flatten)]
        flat = self.nir.Flatten(input_type={"input": np.array(shape)}, start_dim=-len(shape), end_dim=-1)
        return known[0] if known else self.add("flatten", flat, [source], (np.prod(shape),))

    def sum_pool(self, label: str, source: str, window, strides, padding) -> str:
        """Sums over windows; padded by a convolution, since not all tools read the padding of a pool."""
        channels, *space = self.shapes[source]
        if np.any(padding):
            each = np.eye(channels)[:, :, None, None] * np.ones(window)
            return self.convolution(label, source, each, strides, padding)
        window, strides = (np.array(numbers, np.int64) for numbers in (window, strides))
        node = self.nir.SumPool2d(kernel_size=window, stride=strides, padding=np.zeros(2, np.int64))
        sizes = [(n - k) // step + 1 for n, k, step in zip(space, window, strides, strict=True)]
        return self.add(label, node, [source], (channels, *sizes))

    def whole(self, name: str, order) -> Term:
        """All that a node sends, its indices `[1, ...]` brought to an order."""
        shape = self.shapes[name]
        indices = order(np.arange(1, 1 + np.prod(shape)).reshape(1, *shape))
        return Term(name, indices, np.ones(indices.shape), own=True)

    def is_own_order(self, seen: Term) -> bool:
        """Whether a term is what its node sends, flattened or not."""
        indices = np.arange(1, 1 + np.prod(self.shapes[seen.node]))
        return np.array_equal(seen.indices.ravel(), indices) and bool(np.allclose(seen.weights, 1, rtol=1e-6))

    def is_whole(self, seen: Term) -> bool:
        """Whether a term is what its node sends, as it is."""
        return seen.indices.shape == self.shapes[seen.node] and self.is_own_order(seen)

"""The nodes of NIR that a network is made of, and what each sends."""

import re

import numpy as np

from convert.nir.places import Term


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
        """The output, the sum of these nodes."""
        self.nodes["output"], self.shapes["output"] = self.nir.Output(output_type={"output": np.array(shape)}), shape
        self.edges += [(source, "output") for source in sources]

    def convolution(self, label, source, kernel, strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1)) -> str:
        """A convolution; NIR pads both sides alike, so zeros in the kernel make up where they differ."""
        if any(low != high for low, high in padding):
            spread = np.zeros(
                (*kernel.shape[:2], *(1 + d * (n - 1) for d, n in zip(dilation, kernel.shape[2:], strict=True)))
            )
            spread[:, :, :: dilation[0], :: dilation[1]] = kernel
            alike = [max(low, high, 0) for low, high in padding]
            fill = [(most - low, most - high) for most, (low, high) in zip(alike, padding, strict=True)]
            kernel, dilation, padding = np.pad(spread, [(0, 0), (0, 0), *fill]), (1, 1), [(n, n) for n in alike]
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
        shape = self.shapes[term.node]
        size, there, source = int(np.prod(shape)), term.places > 0, term.node
        if len(shape) > 1:
            flat = self.nir.Flatten(input_type={"input": np.array(shape)}, start_dim=-3, end_dim=-1)
            known = [b for a, b in self.edges if a == source and isinstance(self.nodes.get(b), self.nir.Flatten)]
            source = known[0] if known else self.add("flatten", flat, [source], (size,))
        weights = np.zeros((len(matrix), size))
        np.add.at(weights, (slice(None), term.places[there] - 1), (matrix * term.weights)[:, there])
        node = self.nir.Affine(weight=weights.astype(np.float32), bias=np.zeros(len(matrix), np.float32))
        return self.add(label, node, [source], (len(matrix),))

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
        """All that a node sends, its places `[1, ...]` brought to an order."""
        shape = self.shapes[name]
        places = order(np.arange(1, 1 + np.prod(shape)).reshape(1, *shape))
        return Term(name, places, np.ones(places.shape), own=True)

    def is_whole(self, seen: Term) -> bool:
        """Whether a term is what its node sends, as it is."""
        shape = self.shapes[seen.node]
        whole = seen.places.shape == shape and np.array_equal(seen.places.ravel(), np.arange(1, 1 + seen.places.size))
        return bool(whole and np.allclose(seen.weights, 1, rtol=1e-6))

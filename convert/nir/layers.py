"""The nodes of NIR of which a network consists, and the shape of each node's output."""

import re
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from convert.nir.terms import Term
from tppjax.errors import InputError

Pads = Sequence[tuple[int, int]]  # before and after, for each axis


class Layers:
    """Nodes and edges, added one after another.

    Attributes:
      nir: the package nir.
      nodes: `{name: node}`; names sort in the order in which nodes run, since files keep no other order.
      edges: pairs of names; several inputs of a node are added.
      shapes: shape of each node's output, `(C, H, W)` or `(N,)`.
    """

    def __init__(self, nir: ModuleType, shape: Sequence[int]):
        self.nir = nir
        self.nodes: dict[str, Any] = {"input": nir.Input(input_type={"input": np.array(shape)})}
        self.edges: list[tuple[str, str]] = []
        self.shapes: dict[str, tuple[int, ...]] = {"input": tuple(shape)}

    def add(self, label: str, node: Any, sources: Iterable[str], shape: Iterable[int]) -> str:
        """Adds a node whose name contains the label, and returns the name."""
        name = f"n{len(self.nodes):04d}_{re.sub(r'[^0-9A-Za-z]+', '_', label).strip('_')}"
        self.nodes[name], self.shapes[name] = node, tuple(int(n) for n in shape)
        self.edges += [(source, name) for source in sources]
        return name

    def end(self, sources: Sequence[str], shape: Sequence[int]) -> None:
        """Adds the output, the sum of these nodes; several are added in a node before it, since nirtorch does not."""
        if len(sources) > 1:
            same = self.nir.Affine(weight=np.eye(*shape, dtype=np.float32), bias=np.zeros(shape, np.float32))
            sources = [self.add("sum", same, sources, shape)]
        self.nodes["output"] = self.nir.Output(output_type={"output": np.array(shape)})
        self.shapes["output"] = tuple(shape)
        self.edges += [(source, "output") for source in sources]

    def convolution(
        self,
        label: str,
        source: str,
        kernel: np.ndarray,
        strides: Sequence[int] = (1, 1),
        padding: Pads = ((0, 0), (0, 0)),
        dilation: Sequence[int] = (1, 1),
    ) -> str:
        """Adds a convolution, as NIR has them: with equal padding on both sides and, in files, square kernels.

        Raises:
          InputError: if the kernel can't be made square by zeros.
        """
        kernel, padding, dilation = _squared(label, kernel, padding, dilation)
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

    def affine(self, label: str, term: Term, matrix: np.ndarray) -> str:
        """Adds a matrix `[O, N]` that multiplies a term `[N]`, for the numbers of its node in their order."""
        valid, source = term.indices > 0, self.flat(term.node)
        weights = np.zeros((len(matrix), *self.shapes[source]))
        columns: Any = (slice(None), term.indices[valid] - 1)
        np.add.at(weights, columns, (matrix * term.weights)[:, valid])
        node = self.nir.Affine(weight=weights.astype(np.float32), bias=np.zeros(len(matrix), np.float32))
        return self.add(label, node, [source], (len(matrix),))

    def flat(self, source: str) -> str:
        """A node with the output of another one as a vector; by negative axes, since not all tools count the batch."""
        shape = self.shapes[source]
        if len(shape) == 1:
            return source
        known = [b for a, b in self.edges if a == source and isinstance(self.nodes.get(b), self.nir.Flatten)]
        flat = self.nir.Flatten(input_type={"input": np.array(shape)}, start_dim=-len(shape), end_dim=-1)
        return known[0] if known else self.add("flatten", flat, [source], (int(np.prod(shape)),))

    def sum_pool(self, label: str, source: str, window: Sequence[int], strides: Sequence[int], padding: Pads) -> str:
        """Adds sums over windows; with padding as a convolution, since not all tools read the padding of a pool."""
        channels, *space = self.shapes[source]
        if np.any(padding):
            each = np.eye(channels)[:, :, None, None] * np.ones(window)
            return self.convolution(label, source, each, strides, padding)
        kernel_size, stride = (np.array(numbers, np.int64) for numbers in (window, strides))
        node = self.nir.SumPool2d(kernel_size=kernel_size, stride=stride, padding=np.zeros(2, np.int64))
        sizes = [(n - k) // step + 1 for n, k, step in zip(space, window, strides, strict=True)]
        return self.add(label, node, [source], (channels, *sizes))

    def whole(self, name: str, order: Callable[[np.ndarray], np.ndarray]) -> Term:
        """The whole output of a node, with its indices `[1, ...]` rearranged by `order`."""
        shape = self.shapes[name]
        indices = order(np.arange(1, 1 + np.prod(shape)).reshape(1, *shape))
        return Term(name, indices, np.ones(indices.shape), own=True)

    def is_own_order(self, seen: Term) -> bool:
        """Whether a term is the output of its node, flattened or not."""
        indices = np.arange(1, 1 + np.prod(self.shapes[seen.node]))
        return np.array_equal(seen.indices.ravel(), indices) and bool(np.allclose(seen.weights, 1, rtol=1e-6))

    def is_whole(self, seen: Term) -> bool:
        """Whether a term is the output of its node, unchanged."""
        return seen.indices.shape == self.shapes[seen.node] and self.is_own_order(seen)


def _squared(
    label: str, kernel: np.ndarray, padding: Pads, dilation: Sequence[int]
) -> tuple[np.ndarray, Pads, Sequence[int]]:
    """Kernel, padding and dilation of the same convolution, with zeros in the kernel where NIR needs them."""
    spread = [1 + d * (n - 1) for d, n in zip(dilation, kernel.shape[2:], strict=True)]
    uneven = any(low != high or low < 0 for low, high in padding)
    if not uneven and spread[0] == spread[1] and kernel.shape[2] == kernel.shape[3]:
        return kernel, padding, dilation
    taps = np.zeros((*kernel.shape[:2], *spread))
    taps[:, :, :: dilation[0], :: dilation[1]] = kernel
    both = [max(low, high, 0) for low, high in padding]
    sizes = [n + 2 * most - low - high for n, most, (low, high) in zip(spread, both, padding, strict=True)]
    if (sizes[0] - sizes[1]) % 2:
        raise InputError(
            f"NIR can't have the layer {label}: nir reads square kernels, and zeros can't make this one so"
        )
    both = [most + (max(sizes) - n) // 2 for most, n in zip(both, sizes, strict=True)]
    fill = [(most - low, most - high) for most, (low, high) in zip(both, padding, strict=True)]
    return np.pad(taps, [(0, 0), (0, 0), *fill]), [(n, n) for n in both], (1, 1)

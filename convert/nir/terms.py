"""Terms: parts of a value, each made of the numbers in the output of a node, moved and weighted.

Operations that move numbers (a transpose, the stride of a shortcut, a concatenation) move indices, and need no node.
Where a node reads a term whose indices are not those of a plain image, a convolution with one tap picks them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from tppjax.graph import Site
from tppjax.graph.operations import LAYOUT
from tppjax.network import Network

Change = Callable[[np.ndarray], np.ndarray]
AXES_STAY = ("convert_element_type", "add", "sub", "mul", "div", "pad", "concatenate")


@dataclass
class Term:
    """A part of a value: the output of a node, moved and weighted.

    Attributes:
      node: name of the node.
      indices: for each number of the value, its index in the flattened output of the node, from 1; 0 for a zero.
      weights: the factor of each number.
      own: whether nothing else reads the node, so that its bias may change.
    """

    node: str
    indices: np.ndarray
    weights: np.ndarray
    own: bool = False

    def each(self, change: Change) -> "Term":
        """The term with both arrays changed alike."""
        return replace(self, indices=change(self.indices), weights=change(self.weights))


@dataclass
class Value:
    """A value of the graph, `[1, ...]`: the sum of its terms and a constant.

    Attributes:
      terms: parts of the value, from the outputs of nodes.
      constant: what is added to the terms, of the shape of the value.
    """

    terms: list[Term]
    constant: np.ndarray

    def each(self, change: Change) -> "Value":
        """The value with all arrays changed alike."""
        return Value([term.each(change) for term in self.terms], change(self.constant))

    def times(self, factor: float | np.ndarray) -> "Value":
        """The value multiplied by a number or an array."""
        terms = [replace(term, weights=term.weights * factor) for term in self.terms]
        return Value(terms, self.constant * factor)


class Picked(NamedTuple):
    """An image made from another one, channel by channel and with a stride.

    Attributes:
      channels: the channel of the other image for each channel, `[C]`; -1 for one that is zero.
      weights: the factor of each channel, `[C]`.
      strides: distance in the other image of neighbouring rows and of neighbouring columns.
      offsets: row and column of the other image that come first; positions outside of it are zero.
      whole: whether each channel is a whole channel of the other image.
    """

    channels: np.ndarray
    weights: np.ndarray
    strides: tuple[int, int]
    offsets: tuple[int, int]
    whole: bool


def picked(seen: Term, shape: Sequence[int]) -> Picked | None:
    """A term `[C, H, W]` as an image made from its node's output, of that shape; None if it is no such image."""
    if len(shape) != 3:
        return None
    channels, *space = shape
    valid = seen.indices > 0
    of = np.array(np.unravel_index(np.maximum(seen.indices - 1, 0), (channels, *space)))
    used = np.any(valid, axis=(1, 2))
    channel = np.where(used, np.max(np.where(valid, of[0], -1), axis=(1, 2)), -1)
    weight = np.array([w[t][0] if t.any() else 0.0 for w, t in zip(seen.weights, valid, strict=True)])
    down, across = _steps(of[1], valid, 1), _steps(of[2], valid, 2)
    if down is None or across is None:
        return None
    strides, offsets = (down[0], across[0]), (down[1], across[1])
    rows = [offset + stride * np.arange(n) for n, stride, offset in zip(valid.shape[1:], strides, offsets, strict=True)]
    inside = [(row >= 0) & (row < size) for row, size in zip(rows, space, strict=True)]
    nonzero = np.reshape(used, (-1, 1, 1)) & inside[0][:, None] & inside[1]
    expected = 1 + np.ravel_multi_index(
        (
            np.maximum(channel, 0)[:, None, None],
            rows[0].clip(0, space[0] - 1)[:, None],
            rows[1].clip(0, space[1] - 1),
        ),
        (channels, *space),
    )
    if not np.array_equal(seen.indices, np.where(nonzero, expected, 0)):
        return None
    weights = np.broadcast_to(weight[:, None, None], valid.shape)
    if not np.allclose(seen.weights[valid], weights[valid], rtol=1e-5, atol=0):
        return None
    whole = (*strides, *offsets) == (1, 1, 0, 0) and list(valid.shape[1:]) == list(space)
    return Picked(channel, weight, strides, offsets, whole)


def _steps(rows: np.ndarray, valid: np.ndarray, axis: int) -> tuple[int, int] | None:
    """`(stride, offset)` of the rows that are picked along an axis of an image; None if they are not evenly spaced."""
    others = tuple(i for i in range(3) if i != axis)
    lows = np.min(np.where(valid, rows, np.iinfo(np.int64).max), axis=others)
    known = np.flatnonzero(valid.any(axis=others))
    if len(known) == 0:
        return 1, 0
    stride = int((lows[known[-1]] - lows[known[0]]) // max(known[-1] - known[0], 1)) if len(known) > 1 else 1
    return (stride, int(lows[known[0]] - stride * known[0])) if stride > 0 else None


def scattered(array: np.ndarray, indices: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The numbers of an array in the order of their indices, in the given shape."""
    out = np.zeros(int(np.prod(shape)), array.dtype)
    out[indices.ravel() - 1] = np.broadcast_to(array, indices.shape).ravel()
    return out.reshape(shape)


def input_axis(network: Network) -> int | None:
    """The axis of the channels in the input of an example, from its preprocessing or first convolution, else None."""
    shape, preprocessing = network.graph.shape, network.preprocessing
    if len(shape) != 3:
        return None
    if preprocessing is not None:
        return 0 if preprocessing.channels_first else 2
    indices: dict[Any, Any] = {0: np.arange(np.prod(shape), dtype=np.int32).reshape(1, *shape)}
    for item in network.graph.items:
        if isinstance(item, Site) or item.values[0] not in indices:
            continue
        if item.name == "conv_general_dilated":
            seen = np.transpose(indices[item.values[0]], dict(item.options)["dimension_numbers"][0])[0]
            step = abs(int(seen[1, 0, 0] - seen[0, 0, 0])) if len(seen) > 1 else 0
            steps = [int(np.prod(shape[i + 1 :])) if n == len(seen) else -1 for i, n in enumerate(shape)]
            return steps.index(step) if step in steps else shape.index(1) if step == 0 else 2
        if item.name in LAYOUT - {"convert_element_type", "take"}:
            item.run(indices)
        elif item.name in AXES_STAY and len(item.values) == 1:
            indices[item.output] = indices[item.values[0]]
    return None


def merged(terms: list[Term]) -> list[Term]:
    """The terms, with those of one node at the same indices added up."""
    kept: list[Term] = []
    for term in terms:
        same = [i for i, t in enumerate(kept) if t.node == term.node and np.array_equal(t.indices, term.indices)]
        if same:
            kept[same[0]] = replace(term, weights=kept[same[0]].weights + term.weights, own=False)
        else:
            kept.append(term)
    return kept

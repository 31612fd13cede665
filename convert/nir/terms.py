"""Where the numbers of a value stand in what nodes send: in any layout, moved and weighted.

Whatever moves numbers (a transpose, the stride of a shortcut, a concatenation) moves indices, and needs no node. Where
a node has to read a term whose indices are not those of a plain image, a convolution of one tap picks them.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from tppjax.graph import Site
from tppjax.graph.operations import LAYOUT
from tppjax.network import Network


@dataclass
class Term:
    """A part of a value: what a node sends, moved and weighted.

    Attributes:
      node: its name.
      indices: for each number of the value, its index in what the node sends, flattened, from 1 on; 0 for a zero.
      weights: what it is multiplied by there.
      own: whether nothing else reads the node, so that its bias may change.
    """

    node: str
    indices: np.ndarray
    weights: np.ndarray
    own: bool = False

    def each(self, change) -> "Term":
        """With both arrays changed alike."""
        return replace(self, indices=change(self.indices), weights=change(self.weights))


@dataclass
class Value:
    """A value of the graph, `[1, ...]`: the sum of its terms and a constant."""

    terms: list[Term]
    constant: np.ndarray

    def each(self, change) -> "Value":
        """With all arrays changed alike."""
        return Value([term.each(change) for term in self.terms], change(self.constant))

    def times(self, factor) -> "Value":
        """All of it multiplied by an array."""
        terms = [replace(term, weights=term.weights * factor) for term in self.terms]
        return Value(terms, self.constant * factor)


class Picked(NamedTuple):
    """An image made of another one, by channel and with a stride.

    Attributes:
      channels: of the other image, `[C]`; -1 for one that is zero.
      weights: of each channel, `[C]`.
      strides, offsets: row `i` is row `offset + stride i` of the other, zero outside; two numbers each.
      whole: whether each channel is a whole channel of the other image.
    """

    channels: np.ndarray
    weights: np.ndarray
    strides: tuple[int, int]
    offsets: tuple[int, int]
    whole: bool


def picked(seen: Term, shape) -> Picked | None:
    """What a term `[C, H, W]` is of the image of that shape which its node sends; None if it is made otherwise."""
    if len(shape) != 3:
        return None
    channels, *space = shape
    valid = seen.indices > 0
    of = np.array(np.unravel_index(np.maximum(seen.indices - 1, 0), (channels, *space)))
    used = valid.any(axis=(1, 2))
    channel = np.where(used, np.max(np.where(valid, of[0], -1), axis=(1, 2)), -1)
    weight = np.array([w[t][0] if t.any() else 0.0 for w, t in zip(seen.weights, valid, strict=True)])
    steps = [_steps(of[axis], valid, axis) for axis in (1, 2)]
    if None in steps:
        return None
    (strides, offsets) = zip(*steps, strict=True)
    rows = [offset + stride * np.arange(n) for n, stride, offset in zip(valid.shape[1:], strides, offsets, strict=True)]
    inside = [(row >= 0) & (row < size) for row, size in zip(rows, space, strict=True)]
    wanted = used[:, None, None] & inside[0][:, None] & inside[1]
    expected = 1 + np.ravel_multi_index(
        (
            np.maximum(channel, 0)[:, None, None],
            rows[0].clip(0, space[0] - 1)[:, None],
            rows[1].clip(0, space[1] - 1),
        ),
        (channels, *space),
    )
    if not np.array_equal(seen.indices, np.where(wanted, expected, 0)):
        return None
    if not np.allclose(
        seen.weights[valid], np.broadcast_to(weight[:, None, None], valid.shape)[valid], rtol=1e-5, atol=0
    ):
        return None
    whole = (*strides, *offsets) == (1, 1, 0, 0) and list(valid.shape[1:]) == list(space)
    return Picked(channel, weight, strides, offsets, whole)


def _steps(rows, valid, axis: int) -> tuple[int, int] | None:
    """`(stride, offset)` of the rows that are picked along an axis of an image; None if they are not evenly spaced."""
    others = tuple(i for i in range(3) if i != axis)
    lows = np.min(np.where(valid, rows, np.iinfo(np.int64).max), axis=others)
    known = np.flatnonzero(valid.any(axis=others))
    if len(known) == 0:
        return 1, 0
    stride = int((lows[known[-1]] - lows[known[0]]) // max(known[-1] - known[0], 1)) if len(known) > 1 else 1
    return (stride, int(lows[known[0]] - stride * known[0])) if stride > 0 else None


def scattered(array, indices, shape):
    """The numbers of an array in the order of their indices."""
    out = np.zeros(int(np.prod(shape)), array.dtype)
    out[indices.ravel() - 1] = np.broadcast_to(array, indices.shape).ravel()
    return out.reshape(shape)


def input_axis(network: Network) -> int | None:
    """The axis of the channels in the input of an example: by its preprocessing or the first convolution, else None."""
    shape, like = network.graph.shape, network.preprocessing
    if len(shape) != 3:
        return None
    if like is not None:
        return 0 if like.channels_first else 2
    indices = {0: np.arange(np.prod(shape), dtype=np.int32).reshape(1, *shape)}
    for item in network.graph.items:
        if isinstance(item, Site) or item.inputs[0] not in indices:
            continue
        if item.name == "conv_general_dilated":
            seen = np.transpose(indices[item.inputs[0]], dict(item.options)["dimension_numbers"][0])[0]
            step = abs(int(seen[1, 0, 0] - seen[0, 0, 0])) if len(seen) > 1 else 0
            steps = [int(np.prod(shape[i + 1 :])) if n == len(seen) else -1 for i, n in enumerate(shape)]
            return steps.index(step) if step in steps else shape.index(1) if step == 0 else 2
        if item.name in LAYOUT - {"convert_element_type", "take"}:
            item.run(indices)
        elif len(item.inputs) == 2 and item.name in ("add", "sub", "mul", "div", "pad"):
            indices[item.output] = indices[item.inputs[0]]
    return None


def merged(terms: list[Term]) -> list[Term]:
    """The terms, those of one node at the same indices added."""
    kept: list[Term] = []
    for term in terms:
        same = [i for i, t in enumerate(kept) if t.node == term.node and np.array_equal(t.indices, term.indices)]
        if same:
            kept[same[0]] = replace(term, weights=kept[same[0]].weights + term.weights, own=False)
        else:
            kept.append(term)
    return kept

"""Channels last: convolutions of other layouts are traced as ones of [B, ..., C], and what lies between them follows.

XLA knows no other layout on CPUs and would copy what enters and leaves each convolution. So every convolution gets one
transposition before it and one behind it, and these are moved towards the end of the program, behind elementwise
operations, pools and the like, until they meet and cancel out. What nobody needs any more is not written to the graph.
"""

from typing import NamedTuple

import numpy as np

from tppjax.graph.operations import ELEMENTWISE

BY_AXIS = {  # options with a number for each axis
    *("padding_config", "start_indices", "limit_indices", "strides"),
    *("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation"),
}


class Convolution(NamedTuple):
    """A convolution of x [B, ..., C] and a kernel [..., I, O] in place of one of another layout.

    Attributes:
      x, kernel, out: the permutations to bring those there, and what it gives back.
      numbers: its dimension numbers.
    """

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    numbers: tuple[tuple[int, ...], ...]


class Moved(NamedTuple):
    """An operation before the transpositions that its inputs were.

    Attributes:
      there: the permutation of what it takes, from the order in which that was transposed.
      options: of the operation.
      behind: the permutation of what it gives.
    """

    there: tuple[int, ...]
    options: dict
    behind: tuple[int, ...]


def channels_last(options: dict) -> Convolution | None:
    """The convolution with its channels last; None if that is how it is written."""
    x, kernel, out = options["dimension_numbers"]
    n = len(x)
    last, kernel_last = (0, n - 1, *range(1, n - 1)), (n - 1, n - 2, *range(n - 2))
    numbers = (last, kernel_last, last)
    if (x, kernel, out) == numbers:
        return None
    at = lambda spec, order: tuple(spec[order.index(a)] for a in range(n))  # noqa: E731
    return Convolution(at(x, last), at(kernel, kernel_last), at(last, out), numbers)


def moved(name: str, options: dict, permutation: tuple[int, ...]) -> Moved | None:
    """How an operation on values transposed by `permutation` is one on what they were; None if it is no such one."""
    there, behind = tuple(np.argsort(permutation).tolist()), permutation
    if name == "concatenate":
        options = options | {"dimension": permutation[options["dimension"]]}
    elif name in ("reduce_sum", "reduce_max"):
        axes = tuple(sorted(permutation[a] for a in options["axes"]))
        kept = [a for a in range(len(permutation)) if a not in axes]
        options, behind = options | {"axes": axes}, tuple(kept.index(a) for a in permutation if a in kept)
    elif name in ("pad", "slice") or name.startswith("reduce_window_"):
        options = {k: tuple(v[a] for a in there) if k in BY_AXIS and v else v for k, v in options.items()}
    elif name == "rev":
        options = {"dimensions": tuple(permutation[a] for a in options["dimensions"])}
    elif name not in ELEMENTWISE:
        return None
    return Moved(there, options, behind)

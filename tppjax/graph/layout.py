"""Channels last: convolutions of other layouts are traced as convolutions of [B, ..., C], and so is what follows them.

XLA knows no other layout on CPUs and would copy the input and output of each convolution. So every convolution gets one
transposition before it and one behind it, and these are moved towards the end of the program, behind elementwise
operations, pools and the like, until they meet and cancel out. Values that are then unused are left out of the graph.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tppjax.graph.operations import ELEMENTWISE

BY_AXIS = {  # options with a number for each axis
    *("padding_config", "start_indices", "limit_indices", "strides"),
    *("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation"),
}


def channels_last(options: dict) -> tuple | None:
    """The convolution with its channels last; None if it already has that layout."""
    x, kernel, out = options["dimension_numbers"]
    n = len(x)
    last, kernel_last = (0, n - 1, *range(1, n - 1)), (n - 1, n - 2, *range(n - 2))
    numbers = (last, kernel_last, last)
    if (x, kernel, out) == numbers:
        return None

    def at(spec: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
        return tuple(spec[order.index(a)] for a in range(n))

    return (at(x, last), at(kernel, kernel_last), at(last, out), numbers)


def moved(name: str, options: dict[str, Any], permutation: tuple[int, ...]) -> tuple[tuple, dict, tuple] | None:
    """An operation on values transposed by `permutation` as one on the original values; None if that is impossible."""
    inverse, behind = tuple(np.argsort(permutation).tolist()), permutation
    if name == "concatenate":
        options = options | {"dimension": permutation[options["dimension"]]}
    elif name in ("reduce_sum", "reduce_max"):
        axes = tuple(sorted(permutation[a] for a in options["axes"]))
        kept = [a for a in range(len(permutation)) if a not in axes]
        options, behind = options | {"axes": axes}, tuple(kept.index(a) for a in permutation if a in kept)
    elif name in ("pad", "slice") or name.startswith("reduce_window_"):
        options = {k: tuple(v[a] for a in inverse) if k in BY_AXIS and v else v for k, v in options.items()}
    elif name == "rev":
        options = {"dimensions": tuple(permutation[a] for a in options["dimensions"])}
    elif name not in ELEMENTWISE:
        return None
    return inverse, options, behind

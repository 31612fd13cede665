"""Operations that only move numbers, as simpler ones, or as a "take" whose indices are found by moving indices."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def stack(*arrays: Any, axis: int) -> jax.Array:
    """Arrays concatenated along a new axis."""
    return jax.lax.concatenate([jnp.expand_dims(a, axis) for a in arrays], axis)


def _unstack(x: jax.Array, axis: int) -> list[jax.Array]:
    return [jax.lax.squeeze(jax.lax.slice_in_dim(x, i, i + 1, axis=axis), (axis,)) for i in range(x.shape[axis])]


def _split(x: jax.Array, sizes: Sequence[Any], axis: int) -> list[jax.Array]:
    ends = list(itertools.accumulate(map(int, sizes)))
    return [
        jax.lax.slice_in_dim(x, end - size, end, axis=axis) for end, size in zip(ends, map(int, sizes), strict=True)
    ]


def _tile(x: jax.Array, reps: Sequence[int]) -> jax.Array:
    wide = jax.lax.broadcast_in_dim(
        x, [n for pair in zip(reps, x.shape, strict=True) for n in pair], tuple(range(1, 2 * x.ndim, 2))
    )
    return wide.reshape([r * n for r, n in zip(reps, x.shape, strict=True)])


REWRITTEN = {
    "stack": lambda *arrays, axis: stack(*arrays, axis=axis),
    "unstack": lambda x, axis: _unstack(x, axis),
    "split": lambda x, sizes, axis: _split(x, sizes, axis),
    "tile": lambda x, reps: _tile(x, reps),
    "squeeze": lambda x, dimensions: x.reshape([n for i, n in enumerate(x.shape) if i not in dimensions]),
    "expand_dims": lambda x, dimensions: x.reshape(np.expand_dims(np.empty(x.shape, bool), dimensions).shape),
}


def source_indices(eqn: Any, inputs: list[Any], i: int) -> np.ndarray | None:
    """The pixel of the flattened input `i` that each pixel of the output is; -1 for none, where the output is 0.

    None if some pixels are summed, or others are filled with another number.

    The operation itself finds it, on indices of pixels.

    Args:
      eqn: the equation of the operation.
      inputs: shapes of the inputs that are moved, and values of those that say where to.
      i: position of one of the inputs that are moved.
    """
    added, params = eqn.primitive.name in ("scatter-add", "scatter_add"), dict(eqn.params)
    if "fill_value" in params:
        params["fill_value"] = -1
    data = [j for j, v in enumerate(inputs) if isinstance(v, tuple)]
    if added and i == 0:
        return np.arange(math.prod(inputs[0]), dtype=np.int32).reshape(inputs[0])

    def output(numbers: np.ndarray) -> np.ndarray:
        dtype, others = (np.float32, 0) if added else (np.int32, -1)  # an addition has a program for its own type
        filled = [np.full(v, others, dtype) if j in data else v for j, v in enumerate(inputs)]
        filled[i] = numbers.astype(dtype).reshape(inputs[i])
        with jax.ensure_compile_time_eval():
            return np.asarray(eqn.primitive.bind(*filled, **params)).astype(np.int32)

    numbers = np.arange(math.prod(inputs[i]))
    if not added:
        indices = output(numbers)
        filled = (indices < 0).any() and eqn.params.get("fill_value", 0) != 0
        return None if filled else indices
    once = numbers.size < 2**24 and output(np.ones_like(numbers)).max() <= 1
    return output(numbers + 1) - 1 if once else None


def along_an_axis(indices: np.ndarray, shape: tuple[int, ...]) -> tuple[int | None, np.ndarray]:
    """`(axis, indices along it)`, if whole slices across one axis are moved; else `(None, indices)`."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    for axis in range(len(shape)) if indices.ndim == len(shape) and indices.min() >= 0 else ():
        ahead = (0,) * axis
        along = indices[(*ahead, slice(None), *(0,) * (len(shape) - axis - 1))] // math.prod(shape[axis + 1 :])
        if along.max() < shape[axis] and np.array_equal(np.take(numbers, along, axis), indices):
            return axis, along.astype(np.int32)
    return None, indices

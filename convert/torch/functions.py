"""What PyTorch's ATen operations compute, in JAX, where that needs more than a line; `operations.TABLE` has all.

Each function takes an operation's arguments in the order of its ATen schema.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convert.torch.spatial import of_channels
from tppjax.types import Array

Number = Array | float | int

# Dense layers and normalisation


def dense(x: Array, w: Array, b: Array | None = None) -> Array:
    """`x w^T + b`; x [..., I], w [O, I]."""
    y = lax.dot_general(x, w, (((x.ndim - 1,), (w.ndim - 1,)), ((), ())))
    return y if b is None else aligned(jnp.add)(y, b)


def addmm(b: Array, x: Array, w: Array, beta: float = 1, alpha: float = 1) -> Array:
    """`beta b + alpha x w`; with a beta of 0, b is left out even where it is not finite."""
    y = x @ w if alpha == 1 else alpha * (x @ w)
    return y if beta == 0 else aligned(jnp.add)(beta * b, y)


def attention(
    q: Array,
    k: Array,
    v: Array,
    mask: Array | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Array:
    """Attention of q, k, v [..., heads, length, features]; with `enable_gqa`, heads of q share one of k and v."""
    if enable_gqa:
        k, v = (jnp.repeat(a, q.shape[-3] // a.shape[-3], -3) for a in (k, v))
    scores = jnp.matmul(q, k.swapaxes(-1, -2)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    mask = np.tri(*scores.shape[-2:], dtype=bool) if causal else mask
    if mask is not None and mask.dtype == bool:
        scores = aligned(jnp.where)(mask, scores, -jnp.inf)
    elif mask is not None:
        scores = aligned(jnp.add)(scores, mask)
    return jnp.matmul(jax.nn.softmax(scores, -1), v)


def batch_norm(
    x: Array, w: Array | None, b: Array | None, mean: Array, var: Array, momentum: float, eps: float
) -> tuple[Array]:
    """Batch norm as one multiplication and one addition, in float32 at least; the first of three results."""
    scale = lax.rsqrt(wide(var) + eps) * (1 if w is None else w)
    shift = (0 if b is None else b) - mean * scale
    return (wide(x) * of_channels(scale, x) + of_channels(shift, x),)


def wide(x: Array) -> Array:
    """`x` in float32, if it is of half precision."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def standardised(x: Array, axes: int | tuple[int, ...], eps: float) -> Array:
    """`x` with mean 0 and variance 1 over `axes`."""
    x = wide(x)
    return (x - x.mean(axes, keepdims=True)) * lax.rsqrt(x.var(axes, keepdims=True) + eps)


def batch_norm_of_batch(x: Array, w: Array | None, b: Array | None, *options: Any) -> tuple[Array]:
    """Batch norm with the statistics of x itself; the first of three results."""
    y = standardised(x, (0, *range(2, x.ndim)), options[-1])
    y = y if w is None else y * of_channels(w, y)
    return (y if b is None else y + of_channels(b, y),)


def layer_norm(x: Array, shape: Sequence[int], w: Array | None, b: Array | None, eps: float) -> tuple[Array]:
    """Layer norm over the last axes, whose sizes are `shape`; the first of three results."""
    y = standardised(x, tuple(range(x.ndim - len(shape), x.ndim)), eps)
    y = y if w is None else aligned(jnp.multiply)(y, w)
    return (y if b is None else aligned(jnp.add)(y, b),)


def group_norm(
    x: Array, w: Array | None, b: Array | None, n: Any, c: int, size: int, groups: int, eps: float
) -> tuple[Array]:
    """Group norm of x [n, c, ...] with `size` numbers in each channel; the first of three results."""
    y = standardised(x.reshape(n, groups, -1), 2, eps).reshape(x.shape)
    y = y if w is None else y * of_channels(w, y)
    return (y if b is None else y + of_channels(b, y),)


# Element by element, and along axes


def aligned(f: Callable) -> Callable:
    """`f` with operands of equal rank, which `jax_numpy_rank_promotion="raise"` requires."""

    def g(*xs: Any) -> Array:
        rank = max(map(jnp.ndim, xs))
        return f(*(x if jnp.ndim(x) in (0, rank) else lax.expand_dims(x, range(rank - x.ndim)) for x in xs))

    return g


def clamp(x: Array, least: Number | None = None, most: Number | None = None) -> Array:
    """`x` clipped to numbers or arrays, either of which may be missing."""
    x = x if least is None else aligned(jnp.maximum)(x, least)
    return x if most is None else aligned(jnp.minimum)(x, most)


def divide(x: Number, y: Number, rounding_mode: str | None = None) -> Array:
    """`x / y`, exact, or rounded down or towards zero."""
    f = {None: jnp.true_divide, "floor": jnp.floor_divide, "trunc": lambda x, y: jnp.trunc(jnp.true_divide(x, y))}
    return aligned(f[rounding_mode])(x, y)


def reduction(f: Callable) -> Callable:
    """`f` over one axis, a list of axes or, by default, all of them."""

    def reduce(x: Array, axes: Sequence[int] | int | None = None, keepdim: bool = False) -> Array:
        axes = tuple(axes) if isinstance(axes, list | tuple) else axes
        return f(x, None if axes == () else axes, keepdims=keepdim)

    return reduce


def variance(x: Array, axes: Any = None, correction: float | None = 1, keepdim: bool = False) -> Array:
    """The variance, with a divisor of the number of elements less the correction."""
    return jnp.var(x, None if axes is None else tuple(axes), ddof=correction or 0, keepdims=keepdim)  # pyright: ignore[reportArgumentType] - JAX takes floats


def vector_norm(x: Array, order: Any = 2, axes: Any = None, keepdim: bool = False) -> Array:
    """`(sum |x|^order)^(1/order)`; of order 0, the number of elements that are not 0."""
    axes = None if not axes else tuple(np.ravel(axes).tolist())
    return jnp.linalg.vector_norm(x, axis=axes, keepdims=keepdim, ord=order)


def with_indices(f: Callable, index: Callable) -> Callable:
    """The extreme and its index along one axis, as `torch.max` returns them."""
    return lambda x, axis, keepdim=False: (f(x, axis, keepdims=keepdim), index(x, axis, keepdims=keepdim))


def sort(x: Array, dim: int = -1, descending: bool = False, stable: bool = True) -> tuple[Array, Array]:
    """Sorted values and their indices."""
    indices = jnp.argsort(x, dim, descending=descending)
    return jnp.take_along_axis(x, indices, dim), indices


def topk(x: Array, k: int, axis: int = -1, largest: bool = True, ordered: bool = True) -> tuple[Array, Array]:
    """The k extreme values and their indices."""
    values, indices = sort(x, axis, largest)
    return lax.slice_in_dim(values, 0, k, axis=axis), lax.slice_in_dim(indices, 0, k, axis=axis)


# Shapes and indices


def squeeze(x: Array, axes: Any = None) -> Array:
    """`x` without those of the axes that have a size of one."""
    axes = range(x.ndim) if axes is None else np.ravel(axes).tolist()
    return lax.squeeze(x, [axis for axis in axes if x.shape[axis] == 1])


def expand(x: Array, shape: Sequence[int], implicit: bool = False) -> Array:
    """`x` broadcast to a shape, in which -1 keeps a size."""
    old = (1,) * (len(shape) - x.ndim) + x.shape
    return jnp.broadcast_to(x.reshape(old), [n if m == -1 else m for m, n in zip(shape, old, strict=True)])


def bounds(x: Array, axis: int, start: int | None, end: int | None) -> tuple[int, int]:
    """Start and end from 0 to the size, as Python's slices count them."""
    return slice(start, end).indices(x.shape[axis])[:2]


def slice_axis(x: Array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    """A slice of one axis, with bounds that count as Python's do."""
    start, end = bounds(x, axis, start, end)
    return lax.slice_in_dim(x, start, max(start, end), step, axis)


def slice_scatter(
    x: Array, new: Array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Array:
    """`x` with a slice replaced by `new`."""
    start, end = bounds(x, axis, start, end)
    if step == 1:
        return jnp.concatenate([slice_axis(x, axis, 0, start), new, slice_axis(x, axis, max(start, end))], axis)
    return jnp.moveaxis(jnp.moveaxis(x, axis, 0).at[start:end:step].set(jnp.moveaxis(new, axis, 0)), 0, axis)


def unfold(x: Array, axis: int, size: int, step: int) -> Array:
    """Windows of an axis, each along a new last axis."""
    indices = np.arange(0, x.shape[axis] - size + 1, step)[:, None] + np.arange(size)
    return jnp.moveaxis(jnp.take(x, indices, axis, mode="clip"), axis % x.ndim + 1, -1)


def select_scatter(x: Array, new: Array, axis: int, i: int) -> Array:
    """`x` with `new` at index `i` of an axis."""
    i %= x.shape[axis]
    return slice_scatter(x, jnp.expand_dims(new, axis), axis, i, i + 1)


def index(x: Array, indices: Sequence[Any]) -> Array:
    """`x` at arrays of indices; None takes a whole axis."""
    return x[_at(indices)]


def _at(indices: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(slice(None) if i is None else i for i in indices)


def index_put(x: Array, indices: Sequence[Any], new: Array, accumulate: bool = False) -> Array:
    """`x` with `new` at arrays of indices, or where a mask is true; with `accumulate`, `new` is added there."""
    mask = indices[0]
    if len(indices) == 1 and mask.dtype == bool and new.size == 1 and not accumulate:  # y[y < 0] = 0, a ReLU
        return jnp.where(lax.expand_dims(mask, range(mask.ndim, x.ndim)), new.reshape(()), x)
    at = jnp.asarray(x).at[_at(indices)]
    return at.add(new) if accumulate else at.set(new)


def gather(x: Array, axis: int, indices: Array) -> Array:
    """`x` at `indices` along an axis; along the others, where the indices may end earlier, each at its own place."""
    axis %= x.ndim
    sizes = [n if i == axis else m for i, (n, m) in enumerate(zip(x.shape, indices.shape, strict=True))]
    return jnp.take_along_axis(lax.slice(x, [0] * x.ndim, sizes), indices, axis)

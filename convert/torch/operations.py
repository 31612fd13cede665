"""What PyTorch's ATen operations are in JAX: `TABLE`, after the functions that need more than a line.

Each function takes an operation's arguments in the order of its ATen schema. Keywords that give a data type, a device
or a memory layout never reach it: what it returns is cast to the type that PyTorch's result has. One name stands for
all overloads of an operation, unless an overload has its own line. What is here is not decomposed by `torch.export`;
all else is, into the operations of core ATen.
"""

import math
import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convert.torch.spatial import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    channel_shuffle,
    convolution,
    cubic,
    interpolated,
    linear,
    max_pool,
    nearest,
    of_channels,
    padded,
    pixel_shuffle,
)

# Dense layers and normalisation


def dense(x, w, b=None):
    """X [..., I], w [O, I]."""
    y = lax.dot_general(x, w, (((x.ndim - 1,), (w.ndim - 1,)), ((), ())))
    return y if b is None else aligned(jnp.add)(y, b)


def attention(q, k, v, mask=None, dropout=0.0, causal=False, scale=None, enable_gqa=False):
    """q, k, v [..., heads, length, features]; with `enable_gqa` several heads of q share one of k and v."""
    if enable_gqa:
        k, v = (jnp.repeat(a, q.shape[-3] // a.shape[-3], -3) for a in (k, v))
    scores = jnp.matmul(q, k.swapaxes(-1, -2)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    mask = np.tri(*scores.shape[-2:], dtype=bool) if causal else mask
    if mask is not None and mask.dtype == bool:
        scores = aligned(jnp.where)(mask, scores, -jnp.inf)
    elif mask is not None:
        scores = aligned(jnp.add)(scores, mask)
    return jnp.matmul(jax.nn.softmax(scores, -1), v)


def batch_norm(x, w, b, mean, var, momentum, eps):
    """One multiplication and one addition, at least in float32 until then; the first of three results."""
    scale = lax.rsqrt(wide(var) + eps) * (1 if w is None else w)
    shift = (0 if b is None else b) - mean * scale
    return (x * of_channels(scale, x).astype(x.dtype) + of_channels(shift, x).astype(x.dtype),)


def wide(x):
    """`x` in float32, if its type is a half."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def standardised(x, axes, eps):
    """`x` with mean 0 and variance 1 over `axes`."""
    x = wide(x)
    return (x - x.mean(axes, keepdims=True)) * lax.rsqrt(x.var(axes, keepdims=True) + eps)


def batch_norm_of_batch(x, w, b, *options):
    """With the statistics of x itself."""
    y = standardised(x, (0, *range(2, x.ndim)), options[-1])
    y = y if w is None else y * of_channels(w, y)
    return (y if b is None else y + of_channels(b, y),)


def layer_norm(x, shape, w, b, eps):
    """Over the last axes; w and b have their shape."""
    y = standardised(x, tuple(range(x.ndim - len(shape), x.ndim)), eps)
    y = y if w is None else aligned(jnp.multiply)(y, w)
    return (y if b is None else aligned(jnp.add)(y, b),)


def group_norm(x, w, b, n, c, places, groups, eps):
    """Over groups of channels; x [n, c, ...] with `places` numbers a channel."""
    y = standardised(x.reshape(n, groups, -1), 2, eps).reshape(x.shape)
    y = y if w is None else y * of_channels(w, y)
    return (y if b is None else y + of_channels(b, y),)


# Element by element, and along axes


def aligned(f):
    """`f` with its operands of equal rank, as `jax_numpy_rank_promotion="raise"` asks for."""

    def g(*xs):
        rank = max(map(jnp.ndim, xs))
        return f(*(x if jnp.ndim(x) in (0, rank) else lax.expand_dims(x, range(rank - x.ndim)) for x in xs))

    return g


def clamp(x, least=None, most=None):
    """Between numbers or arrays, either of which may be missing."""
    x = x if least is None else aligned(jnp.maximum)(x, least)
    return x if most is None else aligned(jnp.minimum)(x, most)


def divide(x, y, rounding_mode=None):
    """Exact, or rounded down or towards zero."""
    f = {None: jnp.true_divide, "floor": jnp.floor_divide, "trunc": lambda x, y: jnp.trunc(jnp.true_divide(x, y))}
    return aligned(f[rounding_mode])(x, y)


def celu(x, alpha=1.0, scale=1.0, input_scale=1.0):
    """ELU, SELU and CELU."""
    return scale * jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x) * input_scale))


def prelu(x, w):
    """W has a size of one, or of x along the axis of channels."""
    return jnp.where(x >= 0, x, aligned(jnp.multiply)(x, w))


def softplus(x, beta=1, threshold=20):
    """The identity where `beta x` is above the threshold."""
    return jnp.where(x * beta > threshold, x, jnp.logaddexp(x * beta, 0) / beta)


def reduction(f):
    """`f` over the axes of a list, of a number or, by default, over all."""

    def reduce(x, axes=None, keepdim=False):
        axes = tuple(axes) if isinstance(axes, list | tuple) else axes
        return f(x, None if axes == () else axes, keepdims=keepdim)

    return reduce


def variance(x, axes=None, correction=1, keepdim=False):
    """Divided by the number less the correction."""
    return jnp.var(x, None if axes is None else tuple(axes), ddof=correction or 0, keepdims=keepdim)


def vector_norm(x, order=2, axes=None, keepdim=False):
    """(sum |x|^order)^(1/order)."""
    if math.isinf(order):
        return reduction(jnp.max if order > 0 else jnp.min)(jnp.abs(x), axes, keepdim)
    total = reduction(jnp.sum)(x * x if order == 2 else jnp.abs(x) ** order, axes, keepdim)
    return jnp.sqrt(total) if order == 2 else total ** (1 / order)


def with_places(f, place):
    """The extreme and its place along one axis, as `torch.max` returns them."""
    return lambda x, axis, keepdim=False: (f(x, axis, keepdims=keepdim), place(x, axis, keepdims=keepdim))


def sort(x, dim=-1, descending=False, stable=True):
    """Values and their places."""
    places = jnp.argsort(x, dim, descending=descending)
    return jnp.take_along_axis(x, places, dim), places


def topk(x, k, axis=-1, largest=True, ordered=True):
    """The k extreme values and their places."""
    values, places = sort(x, axis, largest)
    return lax.slice_in_dim(values, 0, k, axis=axis), lax.slice_in_dim(places, 0, k, axis=axis)


# Shapes and places


def squeeze(x, axes=None):
    """Without those of the axes that have a size of one."""
    axes = range(x.ndim) if axes is None else np.ravel(axes).tolist()
    return lax.squeeze(x, [axis for axis in axes if x.shape[axis] == 1])


def expand(x, shape, implicit=False):
    """-1 keeps a size."""
    old = (1,) * (len(shape) - x.ndim) + x.shape
    return jnp.broadcast_to(x.reshape(old), [n if m == -1 else m for m, n in zip(shape, old, strict=True)])


def repeat(x, times):
    """As `torch.Tensor.repeat`."""
    return jnp.tile(x.reshape((1,) * (len(times) - x.ndim) + x.shape), times)


def bounds(x, axis, start, end) -> tuple[int, int]:
    """Start and end from 0 to the size, as Python's slices count them."""
    return slice(start, end).indices(x.shape[axis])[:2]


def slice_axis(x, axis=0, start=None, end=None, step=1):
    """As Python's slices."""
    start, end = bounds(x, axis, start, end)
    return lax.slice_in_dim(x, start, max(start, end), step, axis)


def slice_scatter(x, new, axis=0, start=None, end=None, step=1):
    """`x` with `new` in the place of a slice."""
    start, end = bounds(x, axis, start, end)
    if step == 1:
        return jnp.concatenate([slice_axis(x, axis, 0, start), new, slice_axis(x, axis, max(start, end))], axis)
    return jnp.moveaxis(jnp.moveaxis(x, axis, 0).at[start:end:step].set(jnp.moveaxis(new, axis, 0)), 0, axis)


def unfold(x, axis, size, step):
    """Windows of an axis, each along a new last axis."""
    places = np.arange(0, x.shape[axis] - size + 1, step)[:, None] + np.arange(size)
    return jnp.moveaxis(jnp.take(x, places, axis, mode="clip"), axis % x.ndim + 1, -1)


def select(x, axis, i):
    """One place of an axis, without the axis."""
    return lax.index_in_dim(x, i, axis, keepdims=False)


def select_scatter(x, new, axis, i):
    """`x` with `new` at one place of an axis."""
    i %= x.shape[axis]
    return slice_scatter(x, jnp.expand_dims(new, axis), axis, i, i + 1)


def split(x, sizes, axis=0):
    """Parts of the sizes."""
    return lax.split(x, sizes, axis % x.ndim)


def index(x, places):
    """X at arrays of places, None for a whole axis."""
    return x[tuple(slice(None) if i is None else i for i in places)]


# Names of ATen, by family. `getitem`, `sym_size` and Python's arithmetic are of sizes that depend on the batch.

TABLE = {
    # Convolution and pooling
    "convolution": convolution,
    "max_pool2d_with_indices": max_pool,
    "max_pool3d_with_indices": max_pool,
    "avg_pool1d": avg_pool,
    "avg_pool2d": avg_pool,
    "avg_pool3d": avg_pool,
    "adaptive_avg_pool1d": adaptive_avg_pool,
    "adaptive_avg_pool2d": adaptive_avg_pool,
    "adaptive_avg_pool3d": adaptive_avg_pool,
    "adaptive_max_pool2d": adaptive_max_pool,
    "adaptive_max_pool3d": adaptive_max_pool,
    # Resizing and padding
    **{f"upsample_nearest{n}d": nearest(0) for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": nearest(0.5) for n in (1, 2, 3)},
    "upsample_linear1d": interpolated(linear),
    "upsample_bilinear2d": interpolated(linear),
    "upsample_trilinear3d": interpolated(linear),
    "upsample_bicubic2d": interpolated(cubic),
    "constant_pad_nd": padded("constant"),
    **{f"reflection_pad{n}d": padded("reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d": padded("edge") for n in (1, 2, 3)},
    "_pad_circular": padded("wrap"),
    "pixel_shuffle": pixel_shuffle,
    "channel_shuffle": channel_shuffle,
    # Dense layers and normalisation
    "linear": dense,
    "addmm": lambda b, x, w, beta=1, alpha=1: aligned(jnp.add)(beta * b, alpha * (x @ w)),
    "mm": jnp.matmul,
    "bmm": jnp.matmul,
    "scaled_dot_product_attention": attention,
    "_native_batch_norm_legit_no_training": batch_norm,
    "_native_batch_norm_legit.no_stats": batch_norm_of_batch,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "embedding": lambda w, i, *_: jnp.take(w, i, 0, mode="clip"),
    # Activations
    "relu": lambda x: jnp.maximum(x, 0),
    "hardtanh": lambda x, least=-1, most=1: clamp(x, least, most),
    "clamp": clamp,
    "leaky_relu": lambda x, slope=0.01: jnp.where(x >= 0, x, slope * x),
    "_prelu_kernel": prelu,
    "elu": celu,
    "sigmoid": jax.nn.sigmoid,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "silu": jax.nn.silu,
    "hardswish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "softplus": softplus,
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "_softmax": lambda x, axis, half=False: jax.nn.softmax(x, axis),
    "_safe_softmax": lambda x, axis: jax.nn.softmax(x, axis),
    "_log_softmax": lambda x, axis, half=False: jax.nn.log_softmax(x, axis),
    # Arithmetic
    "add": lambda x, y, alpha=1: aligned(jnp.add)(x, y if alpha == 1 else alpha * y),
    "sub": lambda x, y, alpha=1: aligned(jnp.subtract)(x, y if alpha == 1 else alpha * y),
    "mul": aligned(jnp.multiply),
    "div": divide,
    "remainder": aligned(jnp.remainder),
    "fmod": aligned(jnp.fmod),
    "pow": aligned(jnp.power),
    "maximum": aligned(jnp.maximum),
    "minimum": aligned(jnp.minimum),
    "atan2": aligned(jnp.arctan2),
    "neg": jnp.negative,
    "abs": jnp.abs,
    "sign": jnp.sign,
    "reciprocal": jnp.reciprocal,
    "sqrt": jnp.sqrt,
    "rsqrt": lax.rsqrt,
    "round": lambda x, decimals=0: jnp.round(x, decimals),
    "erf": lax.erf,
    **{name: getattr(jnp, name) for name in ("exp", "exp2", "expm1", "log", "log1p", "log2", "log10")},
    **{name: getattr(jnp, name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil", "trunc")},
    **{name: getattr(jnp, f"arc{name[1:]}") for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    # Comparison and logic
    "eq": aligned(jnp.equal),
    "ne": aligned(jnp.not_equal),
    "lt": aligned(jnp.less),
    "le": aligned(jnp.less_equal),
    "gt": aligned(jnp.greater),
    "ge": aligned(jnp.greater_equal),
    "where": aligned(jnp.where),
    **{name: aligned(getattr(jnp, name)) for name in ("logical_and", "logical_or", "logical_xor", "logical_not")},
    **{name: aligned(getattr(jnp, name)) for name in ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not")},
    "isnan": jnp.isnan,
    "isinf": jnp.isinf,
    # Along axes
    "sum": reduction(jnp.sum),
    "mean": reduction(jnp.mean),
    "prod": reduction(jnp.prod),
    "amax": reduction(jnp.max),
    "amin": reduction(jnp.min),
    "any": reduction(jnp.any),
    "all": reduction(jnp.all),
    "var.correction": variance,
    "linalg_vector_norm": vector_norm,
    "max.default": jnp.max,
    "min.default": jnp.min,
    "max.dim": with_places(jnp.max, jnp.argmax),
    "min.dim": with_places(jnp.min, jnp.argmin),
    "argmax": lambda x, axis=None, keepdim=False: jnp.argmax(x, axis, keepdims=keepdim),
    "argmin": lambda x, axis=None, keepdim=False: jnp.argmin(x, axis, keepdims=keepdim),
    "cumsum": jnp.cumsum,
    "sort": sort,
    "topk": topk,
    # Shapes
    "view": jnp.reshape,
    "_unsafe_view": jnp.reshape,
    "permute": jnp.transpose,
    "unsqueeze": jnp.expand_dims,
    "squeeze": squeeze,
    "expand": expand,
    "repeat": repeat,
    "cat": lambda xs, axis=0: jnp.concatenate([x for x in xs if x.shape != (0,)], axis),
    "split_with_sizes": split,
    "flip": lambda x, axes: jnp.flip(x, tuple(axes)),
    "roll": lambda x, shifts, axes=(): jnp.roll(x, tuple(shifts), tuple(axes) or None),
    "diagonal": jnp.diagonal,
    **{name: lambda x: x for name in ("clone", "alias", "detach", "_to_copy", "lift_fresh_copy")},
    # Places
    "slice": slice_axis,
    "slice_scatter": slice_scatter,
    "unfold": unfold,
    "select": select,
    "select_scatter": select_scatter,
    "index": index,
    "_unsafe_index": index,
    "index_select": lambda x, axis, i: jnp.take(x, i, axis, mode="clip"),
    "gather": lambda x, axis, i: jnp.take_along_axis(x, i, axis),
    "copy": lambda x, new, *_: expand(new, x.shape),
    "fill": lambda x, value: jnp.full(x.shape, value),
    # Constants
    "full": jnp.full,
    "full_like": lambda x, value: jnp.full(x.shape, value),
    "empty": jnp.zeros,
    "scalar_tensor": jnp.asarray,
    "arange": lambda *bounds: np.arange(*bounds),
    # Sizes, which depend on the batch
    "sym_size": lambda x, axis: x.shape[axis],
    "sym_numel": lambda x: x.size,
    "sym_max": max,
    "sym_min": min,
    "sym_float": float,
    "sym_int": int,
    "sym_not": operator.not_,
    "getitem": operator.getitem,
}

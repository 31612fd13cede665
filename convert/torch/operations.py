"""What PyTorch's ATen operations are in JAX: `TABLE`.

Each function takes an operation's arguments in the order of its ATen schema. Keywords that give a data type, a device
or a memory layout never reach it: what it returns is cast to the type that PyTorch's result has. One name stands for
all overloads of an operation, unless an overload has its own line. What is here is not decomposed by `torch.export`;
all else is, into the operations of core ATen.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convert.torch import functions, spatial
from convert.torch.functions import aligned

# Names of ATen, by family. `getitem`, `sym_size` and Python's arithmetic are of sizes that depend on the batch.

TABLE = {
    # Convolution and pooling
    "convolution": spatial.convolution,
    **{f"max_pool{n}d_with_indices": spatial.max_pool for n in (2, 3)},
    **{f"avg_pool{n}d": spatial.avg_pool for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": spatial.adaptive_avg_pool for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": spatial.adaptive_max_pool for n in (2, 3)},
    # Resizing and padding
    **{f"upsample_nearest{n}d": spatial.nearest(0) for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": spatial.nearest(0.5) for n in (1, 2, 3)},
    "upsample_linear1d": spatial.interpolated(spatial.linear),
    "upsample_bilinear2d": spatial.interpolated(spatial.linear),
    "upsample_trilinear3d": spatial.interpolated(spatial.linear),
    "upsample_bicubic2d": spatial.interpolated(spatial.cubic),
    "constant_pad_nd": spatial.padded("constant"),
    **{f"reflection_pad{n}d": spatial.padded("reflect") for n in (1, 2, 3)},
    **{f"replication_pad{n}d": spatial.padded("edge") for n in (1, 2, 3)},
    "_pad_circular": spatial.padded("wrap"),
    "pixel_shuffle": spatial.pixel_shuffle,
    "channel_shuffle": lambda x, n: x.reshape(len(x), n, -1, *x.shape[2:]).swapaxes(1, 2).reshape(x.shape),
    # Dense layers and normalisation
    "linear": functions.dense,
    "addmm": functions.addmm,
    "mm": jnp.matmul,
    "bmm": jnp.matmul,
    "scaled_dot_product_attention": functions.attention,
    "_native_batch_norm_legit_no_training": functions.batch_norm,
    "_native_batch_norm_legit.no_stats": functions.batch_norm_of_batch,
    "native_layer_norm": functions.layer_norm,
    "native_group_norm": functions.group_norm,
    "embedding": lambda w, i, *_: jnp.take(w, i, 0, mode="clip"),
    # Activations
    "relu": lambda x: jnp.maximum(x, 0),
    "hardtanh": lambda x, least=-1, most=1: functions.clamp(x, least, most),
    "clamp": functions.clamp,
    "leaky_relu": lambda x, slope=0.01: jnp.where(x >= 0, x, slope * x),
    "_prelu_kernel": lambda x, slopes: jnp.where(x >= 0, x, aligned(jnp.multiply)(x, slopes)),
    "elu": lambda x, a=1, scale=1, inner=1: scale * jnp.where(x > 0, x, a * jnp.expm1(jnp.minimum(x, 0) * inner)),
    "sigmoid": jax.nn.sigmoid,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "silu": jax.nn.silu,
    "hardswish": jax.nn.hard_swish,
    "mish": jax.nn.mish,
    "softplus": lambda x, beta=1, above=20: jnp.where(x * beta > above, x, jnp.logaddexp(x * beta, 0) / beta),
    "gelu": lambda x, approximate="none": jax.nn.gelu(x, approximate=approximate == "tanh"),
    "_softmax": lambda x, axis, half=False: jax.nn.softmax(x, axis),
    "_safe_softmax": lambda x, axis: jax.nn.softmax(x, axis),
    "_log_softmax": lambda x, axis, half=False: jax.nn.log_softmax(x, axis),
    # Arithmetic
    "add": lambda x, y, alpha=1: aligned(jnp.add)(x, y if alpha == 1 else alpha * y),
    "sub": lambda x, y, alpha=1: aligned(jnp.subtract)(x, y if alpha == 1 else alpha * y),
    "mul": aligned(jnp.multiply),
    "div": functions.divide,
    **{name: aligned(getattr(jnp, name)) for name in ("remainder", "fmod", "maximum", "minimum")},
    "pow": aligned(jnp.power),
    "atan2": aligned(jnp.arctan2),
    "neg": jnp.negative,
    **{
        name: getattr(jnp, name)
        for name in ("abs", "sign", "reciprocal", "sqrt", "isnan", "isinf", "cumsum", "diagonal")
    },
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
    # Along axes
    **{name: functions.reduction(getattr(jnp, name)) for name in ("sum", "mean", "prod", "any", "all")},
    "amax": functions.reduction(jnp.max),
    "amin": functions.reduction(jnp.min),
    "var.correction": functions.variance,
    "linalg_vector_norm": functions.vector_norm,
    "max.default": jnp.max,
    "min.default": jnp.min,
    "max.dim": functions.with_indices(jnp.max, jnp.argmax),
    "min.dim": functions.with_indices(jnp.min, jnp.argmin),
    "argmax": lambda x, axis=None, keepdim=False: jnp.argmax(x, axis, keepdims=keepdim),
    "argmin": lambda x, axis=None, keepdim=False: jnp.argmin(x, axis, keepdims=keepdim),
    "sort": functions.sort,
    "topk": functions.topk,
    # Shapes
    "view": jnp.reshape,
    "_unsafe_view": jnp.reshape,
    "permute": jnp.transpose,
    "unsqueeze": jnp.expand_dims,
    "squeeze": functions.squeeze,
    "expand": functions.expand,
    "repeat": jnp.tile,
    "cat": lambda xs, axis=0: jnp.concatenate([x for x in xs if x.shape != (0,)], axis),
    "split_with_sizes": lambda x, sizes, axis=0: lax.split(x, sizes, axis % x.ndim),
    "flip": lambda x, axes: jnp.flip(x, tuple(axes)),
    "roll": lambda x, shifts, axes=(): jnp.roll(x, tuple(shifts), tuple(axes) or None),
    **{name: lambda x: x for name in ("clone", "alias", "detach", "_to_copy", "lift_fresh_copy")},
    # Indices
    "slice": functions.slice_axis,
    "slice_scatter": functions.slice_scatter,
    "unfold": functions.unfold,
    "select": lambda x, axis, i: lax.index_in_dim(x, i, axis, keepdims=False),
    "select_scatter": functions.select_scatter,
    "index": functions.index,
    "_unsafe_index": functions.index,
    "index_select": lambda x, axis, i: jnp.take(x, i, axis, mode="clip"),
    "index_put": functions.index_put,
    "_unsafe_index_put": functions.index_put,
    "gather": functions.gather,
    "copy": lambda x, new, *_: functions.expand(new, x.shape),
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

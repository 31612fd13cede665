"""The operations of graphs: what each computes, and in which of its inputs it is linear.

Networks of all libraries consist of these. Each is evaluated by a public function of `jax.lax`, from options that can
be written as JSON, so that a saved graph does not depend on the internals of a version of JAX.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tppjax.errors import InputError
from tppjax.models.convolution import larger_than_image, tap_by_tap


class Operation(NamedTuple):
    """One kind of operation.

    Attributes:
      linear: function that says whether it is linear, given which of its inputs depend on the network's input.
      run: function `(*inputs, **options) -> array`.
      options: names of the parameters of JAX's primitive that it uses; `plain` converts each to JSON.
    """

    linear: Callable[[list[bool]], bool]
    run: Callable[..., Any]
    options: tuple[str, ...] = ()


def _always(depends: list[bool]) -> bool:
    return True


def _one(depends: list[bool]) -> bool:
    return sum(depends) == 1


def _first(depends: list[bool]) -> bool:
    return not any(depends[1:])


def _branches(depends: list[bool]) -> bool:
    return not depends[0]


def _convolution(x: Any, kernel: Any, dimension_numbers: tuple, **options: Any) -> jax.Array:
    numbers = lax.ConvDimensionNumbers(*dimension_numbers)
    plain = {*options["lhs_dilation"], *options["rhs_dilation"], options["feature_group_count"]} == {1}
    plain &= options["batch_group_count"] == 1 and options["preferred_element_type"] in (None, jnp.dtype(x.dtype).name)
    if numbers == NHWC and plain and larger_than_image(x, kernel):
        strides, padding, precision = (options[name] for name in ("window_strides", "padding", "precision"))
        return tap_by_tap(jnp.asarray(x), jnp.asarray(kernel), strides, padding, precision)
    options = {name: _pairs(value) for name, value in options.items()}
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)


NHWC = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))


def _pairs(value: Any) -> Any:
    return [tuple(v) for v in value] if isinstance(value, list | tuple) and np.ndim(value) == 2 else value


def _window(init: float, fold: Callable) -> Callable:
    def run(x: Any, padding: Any, **options: Any) -> jax.Array:
        return lax.reduce_window(x, np.array(init, x.dtype), fold, padding=_pairs(padding), **options)

    return run


def _take(x: Any, indices: Any, axis: int | None) -> jax.Array:
    """Elements along an axis, or of the flattened `x` if it is None; the index `NOWHERE` gives a zero."""
    return jnp.take(x if axis is not None else x.reshape(-1), indices, axis=axis, mode="fill", fill_value=0)


NOWHERE = 2**31 - 1
WINDOW = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
CONVOLUTION = (
    *("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers"),
    *("feature_group_count", "batch_group_count", "precision", "preferred_element_type"),
)

OPERATIONS = {
    "add": Operation(_always, jnp.add),
    "sub": Operation(_always, jnp.subtract),
    "neg": Operation(_always, lax.neg),
    "mul": Operation(_one, jnp.multiply),
    "div": Operation(_first, jnp.divide),
    "dot_general": Operation(_one, lax.dot_general, ("dimension_numbers", "precision", "preferred_element_type")),
    "conv_general_dilated": Operation(_one, _convolution, CONVOLUTION),
    "reduce_sum": Operation(_always, lambda x, axes: jnp.sum(x, axes, dtype=x.dtype), ("axes",)),
    "reduce_window_sum": Operation(_always, _window(0, lax.add), WINDOW),
    "cumsum": Operation(_always, lax.cumsum, ("axis", "reverse")),
    "select_n": Operation(_branches, lax.select_n),
    "convert_element_type": Operation(_always, lambda x, new_dtype: x.astype(new_dtype), ("new_dtype",)),
    "reshape": Operation(_always, lambda x, new_sizes: x.reshape(new_sizes), ("new_sizes",)),
    "transpose": Operation(_always, lambda x, permutation: lax.transpose(x, permutation), ("permutation",)),
    "broadcast_in_dim": Operation(_always, lax.broadcast_in_dim, ("shape", "broadcast_dimensions")),
    "rev": Operation(_always, lax.rev, ("dimensions",)),
    "slice": Operation(_always, lax.slice, ("start_indices", "limit_indices", "strides")),
    "pad": Operation(
        _always, lambda x, fill, padding_config: lax.pad(x, fill, _pairs(padding_config)), ("padding_config",)
    ),
    "concatenate": Operation(_always, lambda *x, dimension: lax.concatenate(x, dimension), ("dimension",)),
    "take": Operation(_first, _take, ("axis",)),
}
MAXIMA = {  # not linear in any input: taken of potentials, before an activation
    "reduce_window_max": Operation(lambda _: False, _window(-np.inf, lax.max), WINDOW),
    "reduce_max": Operation(lambda _: False, lambda x, axes: jnp.max(x, axes), ("axes",)),
}
ALL = OPERATIONS | MAXIMA
BROADCAST = ("add", "sub", "mul", "div")  # operations whose inputs may have length 1 along an axis
SAME = {  # operations that change no number
    *("copy", "copy_p", "name", "optimization_barrier", "sharding_constraint", "stop_gradient", "reduce_precision"),
}
ELEMENTWISE: dict[str, Callable] = {  # operations on each number, as NumPy computes them to recognise activations
    "add": np.add,
    "sub": np.subtract,
    "neg": np.negative,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "clamp": lambda low, x, high: np.clip(x, low, high),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "sign": np.sign,
    "abs": np.abs,
    "gt": np.greater,
    "lt": np.less,
    "ge": np.greater_equal,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "select_n": lambda which, *cases: np.choose(which.astype(np.int32), cases),
    "convert_element_type": lambda x: x,  # the caller converts the output
    "square": np.square,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "tanh": np.tanh,
}
LAYOUT = {"reshape", "transpose", "broadcast_in_dim", "rev", "slice", "take", "convert_element_type"}


def plain(value: Any) -> Any:
    """An option as JSON represents it: numbers, strings and lists of them; InputError if that is impossible."""
    match value:
        case None | bool() | str() | int() | float():
            return value
        case np.integer():
            return int(value)
        case np.dtype() | type():
            return jnp.dtype(value).name
        case lax.Precision():
            return value.name.lower()
        case tuple() | list():
            return tuple(map(plain, value))
    raise InputError(f"the network has an operation with the option {value!r}, which a graph can't hold: leave it out")

"""The axis of the channels of a value, as far as it follows from the operations that compute it."""

import math

from tppjax.graph.values import Equation, Known, Value


def channel_axis(equation: Equation, axes: dict[Value, int | None]) -> int | None:
    """The axis of the channels of an operation's output, from the axes of its inputs; None if it is unknown."""
    options, out = equation.options, equation.output
    match equation.name:
        case "conv_general_dilated":
            return options["dimension_numbers"][2][1]
        case "dot_general":
            return _of_product(equation)
    axis = next((axes.get(v) for v in equation.values if axes.get(v) is not None), None)
    if axis is None:
        return None
    match equation.name:
        case "transpose":
            return options["permutation"].index(axis)
        case "broadcast_in_dim":
            return options["broadcast_dimensions"][axis]
        case "reduce_sum" | "reduce_max":
            return None if axis in options["axes"] else axis - sum(a < axis for a in options["axes"])
        case "reshape":
            return _of_reshape(equation.values[0].shape, out.shape, axis)
        case "take":
            return axis if options["axis"] is not None else None
    return axis


def _of_product(equation: Equation) -> int | None:
    """The axis of the weights: the last one that is neither summed over nor common to both inputs."""
    (left_sum, right_sum), (left_batch, right_batch) = equation.options["dimension_numbers"]
    left, right = equation.inputs
    free_left = [i for i in range(len(left.shape)) if i not in (*left_sum, *left_batch)]
    free_right = [i for i in range(len(right.shape)) if i not in (*right_sum, *right_batch)]
    if isinstance(right, Known):
        return len(equation.output.shape) - 1 if free_right else None
    return len(left_batch) + len(free_left) - 1 if free_left else None


def _of_reshape(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """The axis with as many channels and as many pixels behind it, if there is one."""
    behind = math.prod(before[axis + 1 :])
    axes = (i for i, n in enumerate(after) if n == before[axis] and math.prod(after[i + 1 :]) == behind)
    return next(axes, None)

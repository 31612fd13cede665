"""The check that the network is linear between its activations, with one message for all places that are not.

Values are marked in the order of the program. The output of an operation that is not linear is pending, until
elementwise operations turn it into an activation. A value that is still pending when a linear operation uses it, or at
the end, is refused.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tppjax.errors import InputError
from tppjax.graph.activations import Activation, between, recognise
from tppjax.graph.operations import ELEMENTWISE, LAYOUT, MAXIMA, OPERATIONS
from tppjax.graph.trace import Program
from tppjax.graph.values import Equation, Known, Value

GROWS = LAYOUT | {"concatenate", "pad", "reduce_sum", "reduce_window_sum", "add", "mul", "div"}  # with no minus in it
WEIGHING = {"dot_general", "conv_general_dilated"}
LEFT_OUT = {"params", "batch_stats", "value"}  # parts of a leaf's path that are not part of the layer's name
INTRODUCTION = "the network can't be made spiking, since it is not linear between its activations:"
REMEDY = (
    "Only ReLU, clips of it, QCFS and max-pooling beside one of them have spiking neurons: replace the rest, and train "
    "again"
)
CANDIDATES = 16  # number of nearest values that are tried as the beginning of an activation
HINTS = {
    "logistic": "a sigmoid or SiLU",
    "tanh": "tanh, or GELU by tanh",
    "erf": "GELU",
    "erfc": "GELU",
    "exp": "softmax, ELU or attention",
    "exp2": "softmax or attention",
    "rsqrt": "normalisation by the input's own mean and variance, such as layer norm",
    "sqrt": "normalisation by the input's own mean and variance",
    "reduce_window_max": "max-pooling of values that can be negative, with no ReLU before or after it",
    "reduce_max": "the maximum of values that can be negative",
    "argmax": "a choice by the largest",
    "sort": "sorting",
    "convert_element_type": "rounding to whole numbers",
    "mul": "a product of two values that both depend on the input, such as a gate",
    "dot_general": "a product of two values that both depend on the input, such as attention",
    "conv_general_dilated": "a convolution with a kernel that depends on the input",
    "div": "a division by a value that depends on the input",
    "max": "a maximum that is no ReLU, such as leaky ReLU or maxout",
    "select_n": "a choice by the input, such as leaky ReLU or ELU",
    "min": "a minimum that is no clip, such as hard swish",
    "clamp": "a clip that is multiplied, such as hard swish",
}


class Spot(NamedTuple):
    """An activation in the program.

    Attributes:
      activation: the function that it computes.
      input: its input, which is linear in the outputs of earlier activations.
      before: the operations from `input` to `compared`: maxima, and linear operations after them.
      compared: the argument of the activation.
      output: the value of the activation.
    """

    activation: Activation
    input: Value
    before: tuple[Equation, ...]
    compared: Value
    output: Value


def mark(program: Program) -> dict[Equation, None]:
    """Sets the role of every value, and returns the operations that are refused if their outputs are needed."""
    refused: dict[Equation, None] = {}
    for equation in program.equations:
        _mark(equation, refused)
    return refused


def _mark(equation: Equation, refused: dict[Equation, None]) -> None:
    out, linear = equation.output, _is_linear(equation)
    pending, pooled = ([v for v in equation.values if v.role == role] for role in ("pending", "pooled"))
    causes = tuple(dict.fromkeys([c for v in pending + pooled for c in v.causes] + [equation] * (not linear)))
    if equation.name in MAXIMA and not pending:
        if not _pool(equation):
            out.role, out.causes = "pooled", causes
    elif linear and not causes:
        pass
    elif linear and not pending and len(equation.values) == 1 and equation.name in (*ELEMENTWISE, *LAYOUT):
        out.role, out.causes = "pooled", causes
    elif equation.name in ELEMENTWISE:
        out.role, out.causes = "pending", causes
    else:  # continues as if it were linear, to find all errors
        refused.update(dict.fromkeys(causes))
    if equation.name in ELEMENTWISE and _after_what_is_not_linear(out):
        _recognise(out)


def _is_linear(equation: Equation) -> bool:
    if equation.name == "convert_element_type" and not jnp.issubdtype(equation.output.dtype, jnp.floating):
        return False
    return equation.name in OPERATIONS and OPERATIONS[equation.name].linear(equation.depends)


def _after_what_is_not_linear(value: Value) -> bool:
    """Whether the elementwise operations that lead to the value include one that is not linear."""
    equations, _ = between(value)
    return value.role == "pending" or any(equation.output.role != "linear" for equation in equations)


def _recognise(out: Value) -> None:
    """Makes `out` a site if it is an activation; a second copy of the same activation is no other site."""
    equations, begin = between(out)
    nearest = [equation.output for equation in reversed(equations) if equation.output is not out] + list(begin)
    candidates = [v for v in nearest if v.role in ("linear", "pooled") or (v.role == "site" and v in begin)]
    for value in candidates[:CANDIDATES]:
        equations, begin = between(out, value)
        activation = recognise(equations, value, out) if begin == {value} else None
        if activation is None:
            continue
        outputs = (equation.output for equation in equations if equation.output is not out)
        sites = [output.site for output in outputs if output.role == "site"]
        same = [s.output for s in sites if s.compared is value and _same(s.activation, activation)]
        if same and same[0].dtype != out.dtype:
            return  # a cast of a site is linear
        if same:
            out.role, out.causes, out.same_as = "linear", (), same[0]
        else:
            before, start = _until_linear(value)
            out.role, out.causes, out.site = "site", (), Spot(activation, start, before, value, out)
        return


def _same(a: Activation, b: Activation) -> bool:
    if (a.low, a.levels, a.bound is None) != (b.low, b.levels, b.bound is None):
        return False
    if a.bound is None or b.bound is None:
        return True
    return a.bound.shape == b.bound.shape and np.allclose(a.bound, b.bound)


def _until_linear(value: Value) -> tuple[tuple[Equation, ...], Value]:
    """The operations from the last linear value to a pooled value, and that linear value."""
    before: list[Equation] = []
    while value.role == "pooled" and value.equation is not None:
        before.append(value.equation)
        (value,) = value.equation.values
    return tuple(reversed(before)), value


def _pool(equation: Equation) -> bool:
    """Makes a site of a maximum over non-negative values: activations are monotonic, so they may follow the maximum."""
    chain, base = [equation], equation.values[0]
    while base.role == "linear" and base.equation and base.equation.name in LAYOUT and len(base.equation.values) == 1:
        chain, base = [base.equation, *chain], base.equation.values[0]
    out = equation.output
    activation = _of_largest(base.site.activation, chain) if base.role == "site" else None
    if activation:
        site, value = base.site, base.site.compared
        before = [*site.before]
        for each in chain:  # the same operations, on the argument of the activation
            copy = _copied(each, [value if isinstance(v, Value) else v for v in each.inputs])
            before, value = [*before, copy], copy.output
        out.site = Spot(activation, site.input, tuple(before), value, out)
    elif _nonnegative(equation.values[0]):
        before, start = _until_linear(equation.values[0])
        maximum = _copied(equation, equation.inputs)
        out.site = Spot(Activation(), start, (*before, maximum), maximum.output, out)
    else:
        return False
    out.role = "site"
    return True


def _copied(equation: Equation, inputs: list[Value | Known]) -> Equation:
    """The same operation of other inputs, with an output of its own."""
    output = Value(equation.output.shape, equation.output.dtype)
    output.equation = dataclasses.replace(equation, inputs=inputs, output=output)
    return output.equation


def _of_largest(activation: Activation, chain: list[Equation]) -> Activation | None:
    """The activation behind a maximum; None if the maximum is over values that saturate at different heights."""
    bound, pool = activation.bound, chain[-1]
    if bound is None:
        return activation
    if not np.ptp(bound):
        return activation._replace(bound=bound.reshape(-1)[:1].reshape(()))
    if len(chain) > 1 or pool.name != "reduce_window_max":
        return None
    # Along the axes of different heights, such as the channels, the window is 1, and nothing is left out.
    sizes = zip(bound.shape, pool.options["window_dimensions"], pool.values[0].shape, pool.output.shape, strict=True)
    return activation if all(n == 1 or (window == 1 and a == b) for n, window, a, b in sizes) else None


def _nonnegative(value: Value) -> bool:
    if value.site is not None and value.role == "site":
        return value.site.activation.low >= 0
    if value.role != "linear" or value.equation is None or value.equation.name not in GROWS:
        return False
    known = [np.all(np.asarray(v.value) >= 0) for v in value.equation.inputs if isinstance(v, Known)]
    return all(known) and all(_nonnegative(v) for v in value.equation.values)


def layer_of(equation: Equation) -> str:
    """The name of the layer that an operation is, from the path of its weights; "" if it is not a layer."""
    leaf = next((v.leaf for v in equation.inputs if isinstance(v, Known) and v.leaf), "")
    if equation.name not in WEIGHING or not leaf:
        return ""
    parts = [part for part in leaf.replace(".", "/").split("/") if part not in LEFT_OUT]
    return "/".join(parts[:-1]) or leaf


def check(needed: list[Value], refused: dict[Equation, None]) -> None:
    """Raises InputError if one of the values that are needed is not linear, or none of them is a site."""
    failed = {equation for equation in refused if equation.output in set(needed)}
    failed |= {cause for v in needed if v.role in ("pending", "pooled") for cause in v.causes}
    if failed:
        lines = _described(sorted(failed, key=lambda equation: equation.index))
        raise InputError(f"{INTRODUCTION}\n  {lines}\n{REMEDY}")
    if not any(v.role == "site" for v in needed):
        raise InputError(
            "the network has no activation that spiking neurons can take the place of: none of its operations is a "
            "ReLU, a clip of one (such as ReLU6) or QCFS"
        )


def _described(failed: list[Equation]) -> str:
    """A line for each place: its operations, their place, the layer before them, and what they probably are."""
    places: dict[str, list[Equation]] = {}
    for equation in failed:
        places.setdefault((equation.place.line or equation.place.scope), []).append(equation)
    lines = []
    for group in places.values():
        names = list(dict.fromkeys(equation.name for equation in group))
        hint = next((HINTS[name] for name in HINTS if name in names), "")
        layer = _layer_before(group[0])
        after = f", after {layer}" if layer else ""
        lines.append(f"{', '.join(names)} {group[0].place}{after}" + (f": {hint}" if hint else ""))
    return "\n  ".join(lines)


def _layer_before(equation: Equation) -> str:
    """The last layer on the way to an operation; "" if there is none."""
    todo, seen = list(equation.values), set()
    while todo:
        latest = max(todo, key=lambda v: v.equation.index if v.equation else -1)
        todo.remove(latest)
        if latest in seen or latest.equation is None:
            continue
        seen.add(latest)
        if layer := layer_of(latest.equation):
            return layer
        todo += latest.equation.values
    return ""

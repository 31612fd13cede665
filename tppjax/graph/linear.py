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
from tppjax.graph.values import Known, Made, Value

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
    before: tuple[Made, ...]
    compared: Value
    output: Value


def mark(program: Program) -> dict[Made, None]:
    """Sets the role of every value, and returns the operations that are refused if their outputs are needed."""
    refused: dict[Made, None] = {}
    for made in program.made:
        _mark(made, refused)
    return refused


def _mark(made: Made, refused: dict[Made, None]) -> None:
    out, linear = made.output, _is_linear(made)
    pending, pooled = ([v for v in made.values if v.role == role] for role in ("pending", "pooled"))
    causes = tuple(dict.fromkeys([c for v in pending + pooled for c in v.causes] + [made] * (not linear)))
    if made.name in MAXIMA and not pending:
        if not _pool(made):
            out.role, out.causes = "pooled", causes
    elif linear and not causes:
        pass
    elif linear and not pending and len(made.values) == 1 and made.name in (*ELEMENTWISE, *LAYOUT):
        out.role, out.causes = "pooled", causes
    elif made.name in ELEMENTWISE:
        out.role, out.causes = "pending", causes
    else:  # continues as if it were linear, to find all errors
        refused.update(dict.fromkeys(causes))
    if made.name in ELEMENTWISE and _after_what_is_not_linear(out):
        _recognise(out)


def _is_linear(made: Made) -> bool:
    if made.name == "convert_element_type" and not jnp.issubdtype(made.output.dtype, jnp.floating):
        return False
    return made.name in OPERATIONS and OPERATIONS[made.name].linear(made.depends)


def _after_what_is_not_linear(value: Value) -> bool:
    """Whether the elementwise operations that lead to the value include one that is not linear."""
    made, _ = between(value)
    return value.role == "pending" or any(one.output.role != "linear" for one in made)


def _recognise(out: Value) -> None:
    """Makes `out` a site if it is an activation; a second copy of the same activation is no other site."""
    made, begin = between(out)
    nearest = [one.output for one in reversed(made) if one.output is not out] + list(begin)
    candidates = [v for v in nearest if v.role in ("linear", "pooled") or (v.role == "site" and v in begin)]
    for value in candidates[:CANDIDATES]:
        made, begin = between(out, value)
        activation = recognise(made, value, out) if begin == {value} else None
        if activation is None:
            continue
        sites = [one.output.site for one in made if one.output.role == "site" and one.output is not out]
        same = [s.output for s in sites if s.compared is value and _same(s.activation, activation)]
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


def _until_linear(value: Value) -> tuple[tuple[Made, ...], Value]:
    """The operations from the last linear value to a pooled value, and that linear value."""
    before: list[Made] = []
    while value.role == "pooled" and value.made is not None:
        before.append(value.made)
        (value,) = value.made.values
    return tuple(reversed(before)), value


def _pool(made: Made) -> bool:
    """Makes a site of a maximum over non-negative values: activations are monotonic, so they may follow the maximum."""
    chain, base = [made], made.values[0]
    while base.role == "linear" and base.made and base.made.name in LAYOUT and len(base.made.values) == 1:
        chain, base = [base.made, *chain], base.made.values[0]
    out = made.output
    if base.role == "site":
        site, value = base.site, base.site.compared
        before = [*site.before]
        for one in chain:  # the same operations, on the argument of the activation
            copy = _copied(one, [value if isinstance(v, Value) else v for v in one.inputs])
            before, value = [*before, copy], copy.output
        if (activation := _of_largest(site.activation)) is None:
            return False
        out.site = Spot(activation, site.input, tuple(before), value, out)
    elif _nonnegative(made.values[0]):
        before, start = _until_linear(made.values[0])
        maximum = _copied(made, made.inputs)
        out.site = Spot(Activation(), start, (*before, maximum), maximum.output, out)
    else:
        return False
    out.role = "site"
    return True


def _copied(made: Made, inputs: list[Value | Known]) -> Made:
    """The same operation of other inputs, with an output of its own."""
    output = Value(made.output.shape, made.output.dtype)
    output.made = dataclasses.replace(made, inputs=inputs, output=output)
    return output.made


def _of_largest(activation: Activation) -> Activation | None:
    """The activation behind a maximum; None if the maximum is over values that saturate at different heights."""
    if activation.bound is None:
        return activation
    if np.ptp(activation.bound):
        return None
    return activation._replace(bound=activation.bound.reshape(-1)[:1].reshape(()))


def _nonnegative(value: Value) -> bool:
    if value.site is not None and value.role == "site":
        return value.site.activation.low >= 0
    if value.role != "linear" or value.made is None or value.made.name not in GROWS:
        return False
    known = [np.all(np.asarray(v.value) >= 0) for v in value.made.inputs if isinstance(v, Known)]
    return all(known) and all(_nonnegative(v) for v in value.made.values)


def layer_of(made: Made) -> str:
    """The name of the layer that an operation is, from the path of its weights; "" if it is not a layer."""
    leaf = next((v.leaf for v in made.inputs if isinstance(v, Known) and v.leaf), "")
    if made.name not in WEIGHING or not leaf:
        return ""
    parts = [part for part in leaf.replace(".", "/").split("/") if part not in LEFT_OUT]
    return "/".join(parts[:-1]) or leaf


def check(needed: list[Value], refused: dict[Made, None]) -> None:
    """Raises InputError if one of the values that are needed is not linear, or none of them is a site."""
    failed = {made for made in refused if made.output in set(needed)}
    failed |= {cause for v in needed if v.role in ("pending", "pooled") for cause in v.causes}
    if failed:
        lines = _described(sorted(failed, key=lambda made: made.index))
        raise InputError(f"{INTRODUCTION}\n  {lines}\n{REMEDY}")
    if not any(v.role == "site" for v in needed):
        raise InputError(
            "the network has no activation that spiking neurons can take the place of: none of its operations is a "
            "ReLU, a clip of one (such as ReLU6) or QCFS"
        )


def _described(failed: list[Made]) -> str:
    """A line for each place: its operations, their place, the layer before them, and what they probably are."""
    places: dict[str, list[Made]] = {}
    for made in failed:
        places.setdefault((made.place.line or made.place.scope), []).append(made)
    lines = []
    for group in places.values():
        names = list(dict.fromkeys(made.name for made in group))
        hint = next((HINTS[name] for name in HINTS if name in names), "")
        layer = _layer_before(group[0])
        after = f", after {layer}" if layer else ""
        lines.append(f"{', '.join(names)} {group[0].place}{after}" + (f": {hint}" if hint else ""))
    return "\n  ".join(lines)


def _layer_before(made: Made) -> str:
    """The last layer on the way to an operation; "" if there is none."""
    todo, seen = list(made.values), set()
    while todo:
        latest = max(todo, key=lambda v: v.made.index if v.made else -1)
        todo.remove(latest)
        if latest in seen or latest.made is None:
            continue
        seen.add(latest)
        if layer := layer_of(latest.made):
            return layer
        todo += latest.made.values
    return ""

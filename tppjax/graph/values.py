"""The parts of a program while it is traced: values, known values, the equations between them, and their places."""

import dataclasses
import os
import re
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np

LIBRARIES = ("site-packages/", "dist-packages/", "<frozen", "<string>", os.path.dirname(os.__file__))
INSIDE = tuple(os.path.dirname(file) for file in (__file__, jax.__file__, flax.__file__) if file)


class Place(NamedTuple):
    """The place of an operation in the source code.

    Attributes:
      scope: names of the modules around the operation, such as "stage1_block1/conv1"; "" if none are known.
      line: the user's own line, "model.py:12"; "" if there is none.
    """

    scope: str = ""
    line: str = ""

    def __str__(self) -> str:
        return " in ".join(filter(None, (f"at {self.line}" if self.line else "", self.scope))) or "at an unknown line"


def place_of(eqn: Any, outer: Place) -> Place:
    """The scope and the line of an equation, or of the call around it if the equation has none."""
    scope = "/".join(filter(None, (outer.scope, str(eqn.source_info.name_stack))))
    lines = re.findall(r"@([^@]*?:\d+)", scope)  # "layer@file:line", as `convert.torch` writes
    names = re.sub(r"@[^@]*?:\d+", "", scope).split("/")
    scope = "/".join(name for name in names if name and "(" not in name)
    return Place(scope, lines[-1] if lines else outer.line or _line(eqn.source_info.traceback))


def _line(traceback: Any) -> str:
    """The innermost line of the user; if all lines are in libraries, the innermost one outside of JAX."""
    frames = [f for f in (traceback.frames if traceback else ()) if not f.file_name.startswith(INSIDE)]
    users = [f for f in frames if not any(library in f.file_name for library in LIBRARIES)]
    frame = next(iter(users or frames), None)
    return f"{frame.file_name}:{frame.line_num}" if frame else ""


@dataclasses.dataclass(eq=False)
class Known:
    """A value that depends on the variables alone.

    Attributes:
      value: the array.
      leaf: path of the leaf from which it was computed, the longest if there are several; "" for a constant.
      random: whether it was drawn at random.
      compact: the array with length 1 along axes along which it was only repeated; None if there are none.
    """

    value: Any
    leaf: str = ""
    random: bool = False
    compact: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return np.shape(self.value)

    @property
    def dtype(self) -> Any:
        """The type of the array."""
        return jnp.result_type(self.value)


@dataclasses.dataclass(eq=False)
class Value:
    """A value that depends on the network's input, for one example.

    Attributes:
      shape: shape of the value, which begins with the 1 of the batch.
      dtype: type of the value.
      equation: the equation that computes it; None for the network's input.
      role: "linear"; "site", the output of an activation; or, before an activation, "pooled", if it comes from a
        maximum, or "pending", if it comes from another operation that is not linear.
      site: the `linear.Spot` of a site; None for other values.
      causes: the operations because of which it is pooled or pending.
      same_as: the equal value, if the same activation is computed twice.
    """

    shape: tuple[int, ...]
    dtype: Any
    equation: "Equation | None" = None
    role: str = "linear"
    site: Any = None
    causes: tuple = ()
    same_as: "Value | None" = None


@dataclasses.dataclass(eq=False)
class Equation:
    """An operation of the program with its inputs and its output, as in a jaxpr.

    Attributes:
      name: name of the operation.
      inputs: its inputs.
      output: its output.
      options: its options, as `operations.Operation` takes them.
      place: its place in the source code.
      index: its index in the program.
    """

    name: str
    inputs: "list[Value | Known]"
    output: Value
    options: dict
    place: Place
    index: int

    @property
    def values(self) -> list[Value]:
        """The inputs that depend on the network's input."""
        return [v for v in self.inputs if isinstance(v, Value)]

    @property
    def depends(self) -> list[bool]:
        """For each input, whether it depends on the network's input."""
        return [isinstance(v, Value) for v in self.inputs]

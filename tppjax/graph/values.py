"""What a program consists of while it is traced: values, known ones, the operations between them, and their places."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


class Place(NamedTuple):
    """Where an operation was written.

    Attributes:
      scope: names of the modules around it, such as "stage1_block1/conv1"; "" if none are known.
      line: the user's own line, "model.py:12"; "" if there is none.
    """

    scope: str = ""
    line: str = ""

    def __str__(self):
        return " in ".join(filter(None, (f"at {self.line}" if self.line else "", self.scope))) or "at an unknown line"


@dataclasses.dataclass(eq=False)
class Known:
    """A value that depends on the variables alone.

    Attributes:
      value: the array.
      leaf: path of the leaf that it was computed from, the longest if of several; "" for a constant of the program.
      random: whether it was drawn at random.
      compact: the array with 1 for each axis along which it was only repeated, if it was.
    """

    value: Any
    leaf: str = ""
    random: bool = False
    compact: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return np.shape(self.value)

    @property
    def dtype(self):
        """Of the array."""
        return jnp.result_type(self.value)


@dataclasses.dataclass(eq=False)
class Value:
    """A value that depends on the network's input, for one example: `shape` begins with the batch's 1.

    Attributes:
      shape, dtype: its own.
      made: the operation that gives it; None for the network's input.
      role: what it is for spikes: "linear", or "site", the output of an activation; or, on the way to an activation,
        "pooled", behind a maximum, or "pending", behind something else that is not linear.
      site: what was found there, if it is one.
      causes: the operations for which it is pooled or pending.
      same_as: the value that it is equal to, if an activation was taken twice.
    """

    shape: tuple[int, ...]
    dtype: Any
    made: "Made | None" = None
    role: str = "linear"
    site: Any = None
    causes: tuple = ()
    same_as: "Value | None" = None


@dataclasses.dataclass(eq=False)
class Made:
    """An operation of the program: `name` of `inputs` is `output`.

    Attributes:
      options: as `operations.Operation` takes them.
      place: where it was written.
      index: in the order of the program.
    """

    name: str
    inputs: list
    output: Value
    options: dict
    place: Place
    index: int

    @property
    def values(self) -> list[Value]:
        """Those inputs that depend on the network's input."""
        return [v for v in self.inputs if isinstance(v, Value)]

    @property
    def depends(self) -> list[bool]:
        """Which inputs they are."""
        return [isinstance(v, Value) for v in self.inputs]

"""Activations are recognised by what they compute, not by how they are written.

Wherever elementwise operations end, they are evaluated on numbers. If the result is `max(x, low)`, `clip(x, low, high)`
or QCFS of the linear value at their beginning, this is an activation, whether it was written `relu`, `where(x > 0, x,
0)`, `x * (x > 0)` or `(x + |x|) / 2`. Nothing is compiled for this.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from tppjax.graph.operations import ELEMENTWISE
from tppjax.graph.values import Equation, Known, Value

LARGE = 1e6  # largest input to try; less if the data type can't represent it
DEEP = 60  # largest number of values between the input and the output of an activation


class Activation(NamedTuple):
    """The function that some operations compute: `low + clip(x - low, 0, bound)`, in `levels` steps if there are any.

    Attributes:
      low: smallest value; 0 for ReLU.
      bound: height above `low` at which it saturates, of a shape that broadcasts to `x`; None if it does not.
      levels: number of levels of QCFS above 0; 0 if it is not quantised.
      leaf: path of the leaf that holds the bound; "" if none does.
    """

    low: float = 0.0
    bound: np.ndarray | None = None
    levels: int = 0
    leaf: str = ""

    @property
    def kind(self) -> str:
        """Its name: "relu", "clip" or "qcfs"."""
        return "qcfs" if self.levels else "relu" if self.bound is None else "clip"


def between(output: Value, start: Value | None = None) -> tuple[list[Equation], set[Value]]:
    """The elementwise operations that lead to `output`, in order, and the values at their beginning.

    They go back to `start` if they reach it, else to values that are not elementwise.
    """
    operations: dict[int, Equation] = {}
    begin: set[Value] = set()
    todo, seen = [output], set()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value is start or value.equation is None or value.equation.name not in ELEMENTWISE or len(seen) > DEEP:
            begin.add(value)
            continue
        operations[value.equation.index] = value.equation
        todo += value.equation.values
    return [operations[index] for index in sorted(operations)], begin


def recognise(equations: list[Equation], start: Value, output: Value) -> Activation | None:
    """The activation that the operations compute of `start`; None if it is not one."""
    if output.shape != start.shape or not all(jnp.issubdtype(v.dtype, jnp.floating) for v in (start, output)):
        return None
    rows, shape = _rows({v for equation in equations for v in equation.inputs if isinstance(v, Known)}, start.shape)
    fn = _function(equations, start, output, rows)
    n, rng, dtype = int(np.prod(shape)), np.random.default_rng(0), start.dtype
    large = min(LARGE, float(jnp.finfo(dtype).max) / 4)
    spread = np.concatenate([[0.0, -large, large], rng.choice([-1, 1, 1], 60) * 10 ** rng.uniform(-6, 3, 60)])
    spread = spread.astype(_precise(dtype))
    x = np.broadcast_to(spread, (n, spread.size))
    y, x = fn(x), x.astype(np.float32)
    if not np.all(np.isfinite(y)):
        return None
    low, top = y[:, 1:2], y[:, 2:3]
    half = jnp.finfo(dtype).bits < 32
    tolerance: dict[str, Any] = {"rtol": 1e-2 if half else 1e-5, "atol": 1e-6 if half else 1e-8}
    if np.ptp(low) or not np.all(top > low) or low[0, 0] < -large / 2:  # the last, since the identity has no lower end
        return None
    floor = float(low[0, 0])
    if np.allclose(top, large, **tolerance):
        return Activation(floor) if np.allclose(y, np.maximum(x, low), **tolerance) else None
    bound, leaf = _exact(top - low, rows, shape)
    near = (low + (top - low) * rng.uniform(-0.2, 1.2, 30)).astype(spread.dtype)  # where a clip differs from steps
    near_it = np.abs(fn(near) - np.clip(near, low, top)) <= (top - low) * tolerance["rtol"]
    if np.all(near_it) and np.allclose(y, np.clip(x, low, top), **tolerance):
        return Activation(floor, bound, leaf=leaf)
    levels = _levels(fn, top, dtype, rng) if floor == 0 else 0
    return Activation(0.0, bound, levels, leaf) if levels else None


def _function(equations: list[Equation], start: Value, output: Value, rows: dict[Known, np.ndarray]) -> Callable:
    """The operations as a function of `x` `[rows, N]`, of which each row has its own constants."""

    def fn(x: np.ndarray) -> np.ndarray:
        env: dict[Value | Known, np.ndarray] = {start: x, **rows}
        with np.errstate(all="ignore"):
            for equation in equations:
                inputs = [np.broadcast_to(env[v], x.shape) for v in equation.inputs]
                dtype = _precise(equation.output.dtype)
                env[equation.output] = np.asarray(ELEMENTWISE[equation.name](*inputs)).astype(dtype)
            return np.asarray(env[output], np.float32)

    return fn


def _precise(dtype: Any) -> Any:
    """Float64 for float32, in which differences of large numbers lose what is small."""
    return np.float64 if dtype == jnp.float32 else dtype


def _levels(fn: Callable, top: np.ndarray, dtype: Any, rng: np.random.Generator) -> int:
    """The number of levels, if `fn` is `top / L * clip(floor(x L / top + 1/2), 0, L)`; 0 if it is not."""
    x = (top * rng.uniform(-0.2, 1.2, (len(top), 1000))).astype(dtype)
    share = fn(x) / top
    above = share[share > 1e-4]
    levels = round(1 / float(above.min())) if above.size else 0
    if not 1 <= levels <= 4096:
        return 0
    u = x.astype(np.float32) / top * levels + 0.5
    near_a_jump = np.abs(u - np.round(u)) < 1e-2
    expected = np.clip(np.floor(u), 0, levels) / levels
    return levels if np.all(near_a_jump | (np.abs(share - expected) < 1e-3 / levels)) else 0


def _rows(known: set[Known], shape: tuple[int, ...]) -> tuple[dict[Known, np.ndarray], tuple[int, ...]]:
    """Each constant as `[rows, 1]`, a row for each neuron; axes along which all constants are constant are left out."""
    arrays = {v: np.asarray(v.value) for v in known}
    full = [a for a in arrays.values() if a.ndim]
    kept = [any(np.any(a != np.take(a, [0], axis)) for a in full) for axis in range(len(shape))]
    short = tuple(n if keep else 1 for n, keep in zip(shape, kept, strict=True))
    first = tuple(slice(None) if keep else slice(0, 1) for keep in kept)
    rows = {v: np.broadcast_to(a[first] if a.ndim else a, short).reshape(-1, 1) for v, a in arrays.items()}
    return rows, short


def _exact(bound: np.ndarray, rows: dict[Known, np.ndarray], shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """The exact value of the bound, with its leaf, if it is among the constants; otherwise the computed value."""
    for known, a in sorted(rows.items(), key=lambda pair: not pair[0].leaf):
        if jnp.issubdtype(a.dtype, jnp.floating) and np.allclose(np.asarray(a, np.float32), bound, rtol=1e-5):
            return np.asarray(a, np.float32).reshape(shape), known.leaf
    return np.asarray(bound, np.float32).reshape(shape), ""

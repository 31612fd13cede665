"""Activations are recognised by what they compute, not by how they are written.

Wherever elementwise operations end, they are run on numbers: if what comes out is `max(x, low)`, `clip(x, low, high)`
or QCFS of the linear value that went in, this is an activation, whether it was written `relu`, `where(x > 0, x, 0)`,
`x * (x > 0)` or `(x + |x|) / 2`. Nothing is compiled for this.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tppjax.graph.operations import ELEMENTWISE
from tppjax.graph.values import Known, Made, Value

LARGE = 1e6  # or what the data type has room for
DEEP = 60  # values that elementwise operations may lie between an activation's input and its output


class Activation(NamedTuple):
    """What some operations compute: `low + clip(x - low, 0, bound)`, in `levels` steps if there are any.

    Attributes:
      low: least value; 0 for ReLU.
      bound: how far above `low` it saturates, of a shape that broadcasts to `x`; None if it does not.
      levels: of QCFS, above 0; 0 if it is not quantised.
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


def between(output: Value, start: Value | None = None) -> tuple[list[Made], set[Value]]:
    """The elementwise operations that lead to `output`, in order, and the values that they begin with.

    They go back to `start`, if that is met, and else to what is not elementwise.
    """
    found, begin, todo, seen = {}, set(), [output], set()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        if value is start or value.made is None or value.made.name not in ELEMENTWISE or len(seen) > DEEP:
            begin.add(value)
            continue
        found[value.made.index] = value.made
        todo += value.made.values
    return [found[index] for index in sorted(found)], begin


def recognise(made: list[Made], start: Value, output: Value) -> Activation | None:
    """What the operations compute of `start`, if it is an activation."""
    if output.shape != start.shape or not all(jnp.issubdtype(v.dtype, jnp.floating) for v in (start, output)):
        return None
    rows, shape = _rows({v for one in made for v in one.inputs if isinstance(v, Known)}, start.shape)

    def fn(x):
        """The operations on `x` `[rows, N]`; each row has its own constants."""
        env = {start: x, **rows}
        with np.errstate(all="ignore"):
            for one in made:
                inputs = [np.broadcast_to(env[v], x.shape) for v in one.inputs]
                env[one.output] = np.asarray(ELEMENTWISE[one.name](*inputs)).astype(one.output.dtype)
        return np.asarray(env[output], np.float32)

    n, rng, dtype = int(np.prod(shape)), np.random.default_rng(0), start.dtype
    large = min(LARGE, float(jnp.finfo(dtype).max) / 4)
    spread = np.concatenate([[0.0, -large, large], rng.choice([-1, 1, 1], 60) * 10 ** rng.uniform(-3, 3, 60)])
    x = np.broadcast_to(spread.astype(dtype), (n, spread.size))
    y, x = fn(x), x.astype(np.float32)
    if not np.all(np.isfinite(y)):
        return None
    low, top = y[:, 1:2], y[:, 2:3]
    tolerance = {"rtol": 1e-2 if jnp.finfo(dtype).bits < 32 else 1e-5, "atol": 1e-6}
    if np.ptp(low) or not np.all(top > low) or low[0, 0] < -large / 2:  # the last, as the identity has no lower end
        return None
    floor = float(low[0, 0])
    if np.allclose(top, large, **tolerance):
        return Activation(floor) if np.allclose(y, np.maximum(x, low), **tolerance) else None
    bound, leaf = _exact(top - low, rows, shape)
    if np.allclose(y, np.clip(x, low, top), **tolerance):
        return Activation(floor, bound, leaf=leaf)
    levels = _levels(fn, top, dtype, rng) if floor == 0 else 0
    return Activation(0.0, bound, levels, leaf) if levels else None


def _levels(fn, top, dtype, rng) -> int:
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


def _rows(known: set[Known], shape) -> tuple[dict[Known, np.ndarray], tuple[int, ...]]:
    """Each constant as `[rows, 1]`, a row for each neuron; axes along which none of them changes are left out."""
    arrays = {v: np.asarray(v.value) for v in known}
    full = [a for a in arrays.values() if a.ndim]
    kept = [any(np.any(a != np.take(a, [0], axis)) for a in full) for axis in range(len(shape))]
    short = tuple(n if keep else 1 for n, keep in zip(shape, kept, strict=True))
    first = tuple(slice(None) if keep else slice(0, 1) for keep in kept)
    rows = {v: np.broadcast_to(a[first] if a.ndim else a, short).reshape(-1, 1) for v, a in arrays.items()}
    return rows, short


def _exact(bound: np.ndarray, rows: dict[Known, np.ndarray], shape) -> tuple[np.ndarray, str]:
    """The bound as it stands among the constants, with its leaf, since that is exact; as computed, if it does not."""
    for known, a in sorted(rows.items(), key=lambda pair: not pair[0].leaf):
        if jnp.issubdtype(a.dtype, jnp.floating) and np.allclose(np.float32(a), bound, rtol=1e-5):
            return np.float32(a).reshape(shape), known.leaf
    return np.float32(bound).reshape(shape), ""

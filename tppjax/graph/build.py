"""From a function to its graph: tracing, recognising the activations, checking the rest, and writing the graph."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from tppjax.errors import InputError, refusing
from tppjax.graph import linear
from tppjax.graph.channels import channel_axis
from tppjax.graph.graph import Graph, Op, Site
from tppjax.graph.linear import Spot
from tppjax.graph.operations import BROADCAST
from tppjax.graph.trace import Program, flatten
from tppjax.graph.values import Equation, Known, Place, Value
from tppjax.types import Weights

QUICK = {"xla_backend_optimization_level": 0}  # quick compilation, since the program runs once


def trace(fn: Callable, variables: Any, example: Any) -> tuple[Graph, Weights]:
    """The graph of `fn(variables, x)` and its weights.

    The function is traced for one example, and the graph is mapped over the examples of a batch. A batch of three
    checks that the function itself treats each example separately.

    Args:
      fn: function of variables and a batch `[B, ...]` that returns any tree of arrays `[B, ...]`; in evaluation mode.
      variables: any tree of arrays.
      example: one input `[1, ...]`, or a batch of them; only its shape and type matter.

    Returns:
      The graph, and `{name: array}`, its weights by the paths of the leaves that they come from.

    Raises:
      InputError: if the function between two activations is not linear, with all places in one message; if there is no
        activation; if it draws at random; if a weight is not finite; or if an output has no batch axis or depends on
        other examples of the batch.
    """
    one = jax.ShapeDtypeStruct((1, *jnp.shape(example)[1:]), jnp.result_type(example))
    graph, weights = unchecked(fn, variables, one)
    x = np.random.default_rng(0).normal(size=(3, *one.shape[1:])).astype(one.dtype)
    with refusing("the network takes one example, but not a batch of three"):
        expected = jax.jit(fn, compiler_options=QUICK)(variables, x)
    traced = jax.jit(graph.apply, compiler_options=QUICK)(weights, x)
    differ = max(map(difference, jax.tree.leaves(expected), jax.tree.leaves(traced)))
    if differ > (3e-2 if _half(graph, weights) else 1e-4):
        raise InputError(
            f"a batch gives other results than its examples one by one (by {differ:.2g}): the network mixes examples, "
            "as batch norm does in training mode, or was written for one batch size"
        )
    return graph, weights


def difference(expected: ArrayLike, found: ArrayLike) -> float:
    """The largest difference of two arrays, relative to the largest finite number of the first.

    It is infinite if their shapes differ, or if a number that is not finite in one of them is another in the other.
    """
    a, b = np.asarray(expected, np.float32), np.asarray(found, np.float32)
    finite = np.isfinite(a)
    if a.shape != b.shape or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return np.inf
    largest = np.abs(a[finite]).max(initial=1e-6)
    return float(np.nan_to_num(np.abs(a[finite] - b[finite]), nan=np.inf).max(initial=0) / largest)


def _half(graph: Graph, weights: Weights) -> bool:
    """Whether the network computes in half precision anywhere."""
    casts = [op for op in graph.items if isinstance(op, Op) and op.name == "convert_element_type"]
    types = [graph.dtype, *map(jnp.result_type, weights.values()), *(dict(op.options)["new_dtype"] for op in casts)]
    return any(jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32 for dtype in types)


def unchecked(fn: Callable, variables: Any, one: jax.ShapeDtypeStruct) -> tuple[Graph, Weights]:
    """`trace` for one input `[1, ...]`, without the batch of three, for callers with another check of the graph."""
    program = flatten(fn, variables, one)
    refused = linear.mark(program)
    outputs = [v for v in program.outputs if isinstance(v, Value)]
    if not outputs:
        raise InputError("the output of the network does not depend on its input")
    needed = _needed(outputs)
    linear.check(needed, refused)
    for shape in (v.shape for v in program.outputs):
        if shape[:1] != (1,):
            raise InputError(
                f"for one input [1, ...], the network returns an array of shape {shape}, whose first axis is not the "
                "batch: keep it there, with squeeze(-1) or flatten(1) in place of squeeze(), say"
            )
    graph, weights = _written(program, needed)
    _check_finite(weights)
    return graph, weights


def _check_finite(weights: Weights) -> None:
    """Raises InputError if a weight is not finite; constants of the program, such as the fill of a pad, may be so."""
    for name, weight in weights.items():
        floats = jnp.issubdtype(jnp.result_type(weight), jnp.floating)
        if floats and not name.startswith("constant") and not np.all(np.isfinite(np.asarray(weight, np.float32))):
            raise InputError(f"{name}, or a value that the network computes from it alone, is not finite")


def _needed(outputs: list[Value]) -> list[Value]:
    """All values that the outputs need, in the order of the program."""
    needed: set[Value] = set()
    todo = list(outputs)
    while todo:
        value = todo.pop()
        if value not in needed:
            needed.add(value)
            if value.same_as:
                todo.append(value.same_as)
                continue
            todo += [value.site.input] if value.site else value.equation.values if value.equation else []
    return sorted(needed, key=lambda value: value.equation.index if value.equation else -1)


def _written(program: Program, needed: list[Value]) -> tuple[Graph, Weights]:
    writer = _Writer(program.input)
    for value in needed:
        if value.same_as:
            writer.same(value, value.same_as)
        elif value.site:
            writer.site(value.site)
        elif value.equation:
            writer.items.append(writer.op(value.equation))
    shape, dtype = program.input.shape[1:], program.input.dtype
    outputs = [writer.name(v) for v in program.outputs]
    last = dict.fromkeys(layer for v in program.outputs if isinstance(v, Value) for layer in writer.layers[v])
    return Graph(shape, dtype, writer.items, outputs, program.tree, last), writer.weights


class _Writer:
    """Assigns numbers to values, and names to weights and sites."""

    def __init__(self, x: Value) -> None:
        self.items: list[Op | Site] = []
        self.weights: Weights = {}
        self.names: dict = {x: 0}  # the numbers of values, the names of weights
        self.layers: dict[Value, tuple[str, ...]] = {x: ()}  # between a value and the sites before it
        self.axes: dict[Value, int | None] = {x: None}
        self.values = 1

    def name(self, v: Value | Known, compact: bool = False) -> Any:
        """The number of a value, or the name of a weight; `compact` if the weight may have length 1 along axes."""
        if isinstance(v, Known):
            return self.weight(v, compact and v.compact is not None)
        if v not in self.names:
            self.names[v] = self.new()
        return self.names[v]

    def new(self) -> int:
        """The number of another value."""
        self.values += 1
        return self.values - 1

    def weight(self, v: Known, compact: bool = False) -> str:
        """The name of a weight, which is added to the weights."""
        if (v, compact) not in self.names:
            name = free_name(v.leaf.replace(".", "/") or "constant", self.weights)
            self.names[v, compact], self.weights[name] = name, _of_numpy(v.compact if compact else v.value)
        return self.names[v, compact]

    def same(self, value: Value, other: Value) -> None:
        """Makes one value a synonym of another."""
        self.names[value] = self.names[other]
        self.layers[value], self.axes[value] = self.layers[other], self.axes[other]

    def op(self, equation: Equation) -> Op:
        """The operation of the graph."""
        layers = [layer for v in equation.values for layer in self.layers[v]] + [linear.layer_of(equation)]
        self.layers[equation.output] = tuple(dict.fromkeys(filter(None, layers)))
        self.axes[equation.output] = channel_axis(equation, self.axes)
        inputs = tuple(self.name(v, compact=equation.name in BROADCAST) for v in equation.inputs)
        return Op(equation.name, inputs, self.name(equation.output), tuple(equation.options.items()), equation.place)

    def site(self, spot: Spot) -> None:
        """Adds a site; if its smallest value is not 0, its comparison and its output are shifted by that value."""
        assert spot.output.equation is not None
        activation, place = spot.activation, spot.output.equation.place
        before = [self.op(equation) for equation in spot.before]
        compared, output = self.name(spot.compared), self.name(spot.output)
        sent, axis, low = output, self.axes[spot.compared], ""
        if activation.low:
            low = self.weight(Known(np.full((1,) * len(spot.compared.shape), activation.low, spot.compared.dtype)))
            shifted, sent = self.new(), self.new()
            before.append(Op("sub", (compared, low), shifted, place=place))
            compared = shifted
        layers, input_axis = self.layers[spot.input], self.axes[spot.input]
        whole = spot.input.shape[:1] == spot.compared.shape[:1] == (1,)
        bound = activation.bound
        if bound is not None and bound.ndim and not whole:
            bound = bound[None]
        name = layers[-1] if layers else place.scope or ("max_pool" if before else "input")
        site = Site(
            name=free_name(name, [item.name for item in self.items if isinstance(item, Site)], "#"),
            kind=activation.kind,
            input=self.name(spot.input),
            before=tuple(before),
            compared=compared,
            output=sent,
            bound="" if bound is None else self.weight(Known(bound, activation.leaf)),
            levels=activation.levels,
            shape=tuple(spot.compared.shape[1:]),
            axis=None if not axis else axis - 1,
            input_shape=tuple(spot.input.shape[1:]),
            input_axis=None if not input_axis else input_axis - 1,
            layers=layers,
            place=place,
        )
        self.items += [site] if whole else self.reshaped(site, spot)
        if activation.low:
            self.items.append(Op("add", (sent, low), output, place=place))
        self.layers[spot.output], self.axes[spot.output] = (), axis

    def reshaped(self, site: Site, spot: Spot) -> list[Op | Site]:
        """The site of values with another first axis than 1, such as time or the patches of an image, as `[1, ...]`."""
        source, sent, compared = self.new(), self.new(), self.new()
        before: list[Op] = []
        if site.before:
            first = _reshape(source, site.input, spot.input.shape, site.place)
            last = _reshape(site.compared, compared, (1, *spot.compared.shape), site.place)
            before = [first, *site.before, last]
        inside = site._replace(
            input=source,
            before=tuple(before),
            compared=compared if before else source,
            output=sent,
            shape=tuple(spot.compared.shape),
            axis=self.axes[spot.compared],
            input_shape=tuple(spot.input.shape),
            input_axis=self.axes[spot.input],
        )
        before_it = _reshape(site.input, source, (1, *spot.input.shape), site.place)
        return [before_it, inside, _reshape(sent, site.output, spot.output.shape, site.place)]


def _reshape(value: int, output: int, shape: tuple[int, ...], place: Place) -> Op:
    return Op("reshape", (value,), output, (("new_sizes", tuple(shape)),), place)


def free_name(name: str, taken: Iterable[str], mark: str = "~") -> str:
    """`name`, numbered if it is taken."""
    numbered = (f"{name}{mark}{i}" for i in range(2, len(list(taken)) + 3))
    return next(free for free in (name, *numbered) if free not in taken)


def _of_numpy(value: Any) -> Any:
    """The value, but as NumPy's if it is a constant in an array class of JAX's own, which can't be pickled."""
    return np.asarray(value) if type(value).__name__ == "TypedNdArray" else value

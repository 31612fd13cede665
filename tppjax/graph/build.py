"""From a function to its graph: traced, its activations recognised, the rest checked, and written down."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.errors import InputError
from tppjax.graph import linear
from tppjax.graph.channels import channel_axis
from tppjax.graph.graph import Graph, Op, Site, check_same
from tppjax.graph.linear import Spot
from tppjax.graph.operations import BROADCAST
from tppjax.graph.trace import Program, flatten
from tppjax.graph.values import Known, Made, Value

QUICK = {"xla_backend_optimization_level": 0}  # to compile: it runs once


def trace(fn: Callable, variables, example) -> tuple[Graph, dict]:
    """The graph of `fn(variables, x)` and its weights.

    The function is traced for one example and mapped over those of a batch; a batch of three shows whether this is what
    it does by itself.

    Args:
      fn: from variables and a batch `[B, ...]` to any tree of arrays `[B, ...]`; in evaluation mode.
      variables: any tree of arrays.
      example: one input `[1, ...]`, or a batch of them; only its shape and type matter.

    Returns:
      The graph, and `{name: array}`, its weights by the paths of the leaves that they come from.

    Raises:
      InputError: if something between two activations is not linear, all places in one message; if there is no
        activation; if it draws at random; if a weight is not finite; or if it does not treat each example by itself.
    """
    one = jax.ShapeDtypeStruct((1, *jnp.shape(example)[1:]), jnp.result_type(example))
    graph, weights = unchecked(fn, variables, one)
    x = np.random.default_rng(0).normal(size=(3, *one.shape[1:])).astype(one.dtype)
    wanted, got = (jax.jit(f, compiler_options=QUICK)(v, x) for f, v in ((fn, variables), (graph.apply, weights)))
    check_same(wanted, got)
    return graph, weights


def unchecked(fn: Callable, variables, one: jax.ShapeDtypeStruct) -> tuple[Graph, dict]:
    """`trace` for one input `[1, ...]`, without the batch of three, for who compares the graph with another source."""
    program = flatten(fn, variables, one)
    refused = linear.mark(program)
    outputs = [v for v in program.outputs if isinstance(v, Value)]
    if not outputs:
        raise InputError("what the network returns does not depend on its input")
    needed = _needed(outputs)
    linear.check(needed, refused)
    graph, weights = _written(program, needed)
    _check_finite(weights)
    return graph, weights


def _check_finite(weights: dict) -> None:
    """Raises InputError if a weight is not finite; constants of the program, such as the fill of a pad, may be."""
    for name, weight in weights.items():
        floats = jnp.issubdtype(jnp.result_type(weight), jnp.floating)
        if floats and not name.startswith("constant") and not np.all(np.isfinite(np.asarray(weight, np.float32))):
            raise InputError(f"{name}, or what the network computes from it alone, has a number that is not finite")


def _needed(outputs: list[Value]) -> list[Value]:
    """All values that the outputs need, in the order of the program."""
    needed, todo = set(), list(outputs)
    while todo:
        value = todo.pop()
        if value not in needed:
            needed.add(value)
            if value.same_as:
                todo.append(value.same_as)
                continue
            todo += [value.site.input] if value.site else value.made.values if value.made else []
    return sorted(needed, key=lambda value: value.made.index if value.made else -1)


def _written(program: Program, needed: list[Value]) -> tuple[Graph, dict]:
    writer = _Writer(program.input)
    for value in needed:
        if value.same_as:
            writer.same(value, value.same_as)
        elif value.site:
            writer.site(value.site)
        elif value.made:
            writer.items.append(writer.op(value.made))
    shape, dtype = program.input.shape[1:], program.input.dtype
    outputs = [writer.name(v) for v in program.outputs]
    last = dict.fromkeys(layer for v in program.outputs if isinstance(v, Value) for layer in writer.layers[v])
    return Graph(shape, dtype, writer.items, outputs, program.tree, last), writer.weights


class _Writer:
    """Gives numbers to values, and names to weights and sites."""

    def __init__(self, x: Value):
        self.items: list[Op | Site] = []
        self.weights: dict = {}
        self.names: dict = {x: 0}  # of values, numbers
        self.layers: dict[Value, tuple[str, ...]] = {x: ()}  # between a value and the sites before it
        self.axes: dict[Value, int | None] = {x: None}
        self.values = 1

    def name(self, v: Value | Known, compact: bool = False) -> int | str:
        """The number of a value, the name of a weight; `compact`, where it may have 1 for an axis."""
        key = (v, compact and v.compact is not None) if isinstance(v, Known) else v
        if key not in self.names and isinstance(v, Known):
            self.names[key] = free_name(v.leaf.replace(".", "/") or "constant", self.weights)
            self.weights[self.names[key]] = v.compact if key[1] else v.value
        elif key not in self.names:
            self.names[key] = self.values
            self.values += 1
        return self.names[key]

    def same(self, value: Value, other: Value) -> None:
        """One value is another one."""
        for table in (self.names, self.layers, self.axes):
            table[value] = table[other]

    def op(self, made: Made) -> Op:
        """An operation."""
        layers = [layer for v in made.values for layer in self.layers[v]] + [linear.layer_of(made)]
        self.layers[made.output] = tuple(dict.fromkeys(filter(None, layers)))
        self.axes[made.output] = channel_axis(made, self.axes)
        inputs = tuple(self.name(v, compact=made.name in BROADCAST) for v in made.inputs)
        return Op(made.name, inputs, self.name(made.output), tuple(made.options.items()), made.place)

    def site(self, spot: Spot) -> None:
        """A site; where its least value is not 0, what it compares and what it sends are shifted by that."""
        activation, place = spot.activation, spot.output.made.place
        before = [self.op(made) for made in spot.before]
        compared, output = self.name(spot.compared), self.name(spot.output)
        sent, axis = output, self.axes[spot.compared]
        if activation.low:
            low = self.name(Known(np.asarray(activation.low, spot.compared.dtype)))
            shifted, sent = self.values, self.values + 1
            self.values += 2
            before.append(Op("sub", (compared, low), shifted, place=place))
            compared = shifted
        layers = self.layers[spot.input]
        name = layers[-1] if layers else place.scope or ("max_pool" if before else "input")
        site = Site(
            name=free_name(name, [item.name for item in self.items if isinstance(item, Site)], "#"),
            kind=activation.kind,
            input=self.name(spot.input),
            before=tuple(before),
            compared=compared,
            output=sent,
            bound="" if activation.bound is None else self.name(Known(activation.bound, activation.leaf)),
            levels=activation.levels,
            shape=tuple(spot.compared.shape[1:]),
            axis=None if not axis else axis - 1,
            input_shape=tuple(spot.input.shape[1:]),
            input_axis=None if not self.axes[spot.input] else self.axes[spot.input] - 1,
            layers=layers,
            place=place,
        )
        self.items.append(site)
        if activation.low:
            self.items.append(Op("add", (sent, low), output, place=place))
        self.layers[spot.output], self.axes[spot.output] = (), axis


def free_name(name: str, taken: Iterable[str], mark: str = "~") -> str:
    """`name`, numbered if it is taken."""
    numbered = (f"{name}{mark}{i}" for i in range(2, len(list(taken)) + 3))
    return next(free for free in (name, *numbered) if free not in taken)

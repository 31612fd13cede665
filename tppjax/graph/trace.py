"""A function of JAX as a flat list of operations, from its jaxpr.

Calls are inlined, loops are unrolled, and values that depend on the variables alone are computed once; the operations
that depend on the input remain. `activations` then recognises the activations among them, and `linear` checks that all
others are linear.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.tree_util import keystr, tree_leaves_with_path

from tppjax.errors import InputError, refusing
from tppjax.graph import layout
from tppjax.graph.moves import REWRITTEN, along_an_axis, source_indices, stack
from tppjax.graph.operations import ALL, NOWHERE, SAME, plain
from tppjax.graph.values import Equation, Known, Place, Value, place_of
from tppjax.models import convolution

UNROLLED = 20_000  # largest number of operations: networks have no loops with more
RANDOM = {
    *("random_bits", "random_seed", "random_wrap", "random_fold_in"),
    *("threefry2x32", "rng_bit_generator", "rng_uniform"),
}
CALLS = {
    *("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"),
    *("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"),
}
MOVES = {"gather", "dynamic_slice", "dynamic_update_slice", "scatter", "scatter-add", "scatter_add"}


class Program(NamedTuple):
    """The result of `flatten`: the equations, the input, and the outputs with the structure of their tree."""

    equations: list[Equation]
    input: Value
    outputs: "list[Value | Known]"
    tree: Any


def flatten(fn: Callable, variables: Any, example: Any) -> Program:
    """The operations of `fn(variables, x)` that depend on `x`, which has the shape and type of one example, `[1, ...]`.

    Raises:
      InputError: if it can't be run on the example, draws at random, or branches or loops depending on its input.
    """
    leaves = tree_leaves_with_path(variables)
    known = [Known(leaf, keystr(path, simple=True, separator="/")) for path, leaf in leaves]
    x = Value(example.shape, example.dtype)
    like = jax.ShapeDtypeStruct(example.shape, example.dtype)
    with convolution.whole(), refusing(f"the network can't be traced with {like.dtype} {like.shape}"):
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(variables, like)
    flattener = _Flattener()
    outputs = flattener.call(closed, [*known, x], Place())
    return Program(flattener.equations, x, outputs, jax.tree.structure(shape))


class _Flattener:
    def __init__(self) -> None:
        self.equations: list[Equation] = []
        self.once: dict = {}  # the values computed so far, so that equal operations of equal inputs are one value

    def call(self, closed: Any, inputs: Iterable, outer: Place) -> list:
        """The outputs of a jaxpr on these inputs; its equations are added to `equations`."""
        jaxpr, consts = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(Known, consts), *inputs], strict=True))

        def read(v: Any) -> Value | Known:
            return Known(v.val) if isinstance(v, core.Literal) else env[v]

        for eqn in jaxpr.eqns:
            env.update(zip(eqn.outvars, self.equation(eqn, [read(v) for v in eqn.invars], outer), strict=True))
        return [read(v) for v in jaxpr.outvars]

    def equation(self, eqn: Any, inputs: list, outer: Place) -> list:
        """The outputs of an equation."""
        name, params, place = eqn.primitive.name, eqn.params, place_of(eqn, outer)
        if name in CALLS:
            return self.call(
                next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr") if k in params), inputs, place
            )
        if all(isinstance(v, Known) for v in inputs):
            return _computed(eqn, inputs)
        if name == "cond" and isinstance(inputs[0], Known) and not inputs[0].random:
            return self.call(params["branches"][int(inputs[0].value)], inputs[1:], place)
        if name == "scan":
            return self.scan(params, inputs, place)
        random = [v for v in inputs if isinstance(v, Known) and v.random]
        if random or name in RANDOM:
            raise InputError(f"the network draws at random {place}: switch dropout off, by evaluation mode")
        if name in ("cond", "while"):
            verb = "branches" if name == "cond" else "loops"
            raise InputError(f"the network {verb} by its input {place}: spiking networks do the same for every input")
        if name in SAME:
            return inputs
        if name in REWRITTEN:
            return self.rewritten(REWRITTEN[name], params, inputs, place)
        if name in MOVES and (moved := self.moved(eqn, inputs, place)):
            return [moved]
        name = "add" if name == "add_any" else name
        if len(eqn.outvars) > 1:
            return [self.add(f"{name} ({i})", inputs, v.aval, place, {}) for i, v in enumerate(eqn.outvars)]
        if name == "reshape" and params["dimensions"] is not None:
            inputs = [self.transposed(inputs[0], params["dimensions"], place)]
        options = {option: plain(params[option]) for option in ALL[name].options} if name in ALL else {}
        return [self.add(name, inputs, eqn.outvars[0].aval, place, options)]

    def add(self, name: str, inputs: list, like: Any, place: Place, options: dict[str, Any]) -> Value:
        """The output of an operation, in the shape and type of `like`; the operation is added unless it exists."""
        if len(self.equations) > UNROLLED:
            raise InputError(f"the network has more than {UNROLLED} operations {place}: is there a loop in it?")
        if name == "transpose":
            return self.transposed(inputs[0], options["permutation"], place)
        if name == "conv_general_dilated" and isinstance(inputs[1], Known) and (to := layout.channels_last(options)):
            *before, behind, numbers = to
            inputs = [self.transposed(*each, place) for each in zip(inputs, before, strict=True)]
            return self.moved_behind(name, inputs, like, place, options | {"dimension_numbers": numbers}, behind)
        permutation, *others = {_permutation(v) for v in inputs if isinstance(v, Value)}
        if permutation and not others and (moved := layout.moved(name, options, permutation)):
            inverse, options, behind = moved
            inputs = [self.transposed(v, inverse, place) for v in inputs]
            return self.moved_behind(name, inputs, like, place, options, behind)
        return self.added(name, inputs, like, place, options)

    def moved_behind(
        self, name: str, inputs: list, like: Any, place: Place, options: dict[str, Any], permutation: tuple[int, ...]
    ) -> Value:
        """The output of an operation, transposed to the shape of `like`."""
        shape = tuple(like.shape[a] for a in np.argsort(permutation))
        output = self.added(name, inputs, jax.ShapeDtypeStruct(shape, like.dtype), place, options)
        return self.transposed(output, permutation, place)

    def transposed(self, v: Any, permutation: Sequence[int], place: Place) -> Any:
        """`v` with its axes permuted, if it has any; two transpositions in a row become one."""
        permutation = tuple(map(int, permutation))
        if not v.shape or permutation == tuple(range(len(permutation))):
            return v
        if isinstance(v, Known):
            key = "transposed", id(v), permutation
            if key not in self.once:
                arrays = (a if a is None else jnp.transpose(a, permutation) for a in (v.value, v.compact))
                self.once[key] = v, Known(next(arrays), v.leaf, v.random, next(arrays))
            return self.once[key][1]
        if (first := _permutation(v)) is not None:
            return self.transposed(v.equation.inputs[0], [first[a] for a in permutation], place)
        like = jax.ShapeDtypeStruct(tuple(v.shape[a] for a in permutation), v.dtype)
        return self.added("transpose", [v], like, place, {"permutation": permutation})

    def added(self, name: str, inputs: list, like: Any, place: Place, options: dict[str, Any]) -> Value:
        """The output of an operation, without any transposition."""
        key = (name, tuple(map(_identity, inputs)), repr(options), like.shape, like.dtype)
        if key not in self.once:
            value = Value(like.shape, like.dtype)
            value.equation = Equation(name, inputs, value, options, place, len(self.equations))
            self.equations.append(value.equation)
            self.once[key] = value
        return self.once[key]

    def moved(self, eqn: Any, inputs: list, place: Place) -> Any:
        """An operation that only moves pixels, as the sum of a "take" of each input; None if it is not of that kind."""
        kind = eqn.primitive.name
        data = {"g": [0], "d": [0, 1], "s": [0, 2]}[kind[0]] if kind != "dynamic_slice" else [0]
        if any(isinstance(v, Value) for i, v in enumerate(inputs) if i not in data):
            return None
        parts = []
        for i in data:
            indices = source_indices(eqn, [v.shape if j in data else v.value for j, v in enumerate(inputs)], i)
            if indices is None:
                return None
            parts.append(self.take(inputs[i], indices, place))
        parts = [v for v in parts if isinstance(v, Value) or np.any(v.value)]
        return parts[0] if len(parts) == 1 else self.add("add", parts, parts[0], place, {})

    def take(self, v: Value | Known, indices: np.ndarray, place: Place) -> Value | Known:
        """The pixels of `v`, flattened, at `indices`; 0 for the index -1."""
        if isinstance(v, Known):
            taken = np.where(indices < 0, 0, np.ravel(v.value)[indices]).astype(v.dtype)
            return dataclasses.replace(v, value=taken, compact=None)
        shape = indices.shape
        axis, indices = along_an_axis(indices, v.shape)
        indices = np.where(indices < 0, NOWHERE, indices).astype(np.int32)
        return self.add("take", [v, Known(indices)], jax.ShapeDtypeStruct(shape, v.dtype), place, {"axis": axis})

    def rewritten(self, fn: Callable, params: dict[str, Any], inputs: list, place: Place) -> list:
        """The outputs of `fn(*inputs, **params)`, as the operations of which `fn` consists."""
        free = [v for v in inputs if isinstance(v, Value)]

        def of_free(*arrays: jax.Array) -> Any:
            remaining = iter(arrays)
            return fn(*(next(remaining) if isinstance(v, Value) else v.value for v in inputs), **params)

        closed = jax.make_jaxpr(of_free)(*(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in free))
        return self.call(closed, free, place)

    def scan(self, params: dict[str, Any], inputs: list, place: Place) -> list:
        """The outputs of a scan, unrolled."""
        body = params["jaxpr"]
        if "ft_in" in params:  # since jax 0.12
            n, c = (len(part) for part in params["ft_in"].unpack()[:2])
        else:
            n, c = params["num_consts"], params["num_carry"]
        consts, carry, xs, ys = inputs[:n], inputs[n : n + c], inputs[n + c :], []
        for i in range(params["length"])[:: -1 if params["reverse"] else 1]:
            now = [self.row(x, i, place) for x in xs]
            outputs = self.call(body, [*consts, *carry, *now], place)
            carry, ys = outputs[:c], [*ys, outputs[c:]]
        ys = ys[::-1] if params["reverse"] else ys
        return [*carry, *(self.stack(y, place) for y in zip(*ys, strict=True))]

    def row(self, x: Value | Known, i: int, place: Place) -> Value | Known:
        """One step of an input of a scan."""
        if isinstance(x, Known):
            return dataclasses.replace(x, value=x.value[i], compact=None)
        return self.rewritten(lambda x: jax.lax.squeeze(jax.lax.slice_in_dim(x, i, i + 1), (0,)), {}, [x], place)[0]

    def stack(self, rows: Sequence[Value | Known], place: Place) -> Value | Known:
        """All steps of an output of a scan."""
        known = [row for row in rows if isinstance(row, Known)]
        if len(known) == len(rows):
            return dataclasses.replace(known[0], value=jnp.stack([row.value for row in known]), compact=None)
        return self.rewritten(lambda *rows: stack(*rows, axis=0), {}, list(rows), place)[0]


def _permutation(v: Value) -> tuple[int, ...] | None:
    """The permutation of a value that is a transposition; None for other values."""
    return v.equation.options["permutation"] if v.equation and v.equation.name == "transpose" else None


def _identity(v: Value | Known) -> Any:
    """A key that identifies an input; small constants are identified by their value."""
    if isinstance(v, Known) and np.size(v.value) == 1:
        return v.dtype.name, v.shape, np.asarray(v.value).tobytes(), v.leaf
    return id(v)


def _computed(eqn: Any, inputs: list[Known]) -> list[Known]:
    """The outputs of an equation whose inputs are known."""
    with jax.ensure_compile_time_eval():
        values = eqn.primitive.bind(*(v.value for v in inputs), **eqn.params)
    values = values if eqn.primitive.multiple_results else [values]
    leaf = max((v.leaf for v in inputs), key=len, default="")
    random = eqn.primitive.name in RANDOM or any(v.random for v in inputs)
    compact = None
    if eqn.primitive.name == "broadcast_in_dim":
        shape = np.ones(len(eqn.params["shape"]), int)
        shape[list(eqn.params["broadcast_dimensions"])] = inputs[0].shape
        compact = jnp.reshape(inputs[0].value, shape)
    return [Known(value, leaf, random, compact) for value in values]

"""Any `torch.nn.Module` as a JAX function, by `torch.export` and a table of operations.

`torch.export` runs the module once on tensors without numbers and records its ATen operations, to which PyTorch reduces
all others; `operations.TABLE` translates 173 of them to JAX. With these, networks of every family that torchvision has
for classification and segmentation give PyTorch's outputs to 6e-5 of the largest, most to 1e-5 (random weights), and so
do LSTM and GRU, step by step. Detection networks are refused, since their operations depend on the image. PyTorch is
imported only when a module is converted, and is not needed afterwards.
"""

import contextlib
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from convert.torch.export import Node, operation, placed, scope, traced, unwrapped
from convert.torch.files import shown
from tppjax.errors import InputError
from tppjax.types import Array, Weights

if TYPE_CHECKING:
    import torch

OPTIONS = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking"}  # the result's dtype is known
RANDOM = re.compile(r"dropout|rand|bernoulli|normal|multinomial")


@dataclass(frozen=True)
class Value:
    """The result of an earlier step, or an input, among the arguments of an operation."""

    name: str


def to_jax(
    module: "torch.nn.Module", example: "torch.Tensor | Array | list"
) -> tuple[Callable[..., Any], dict[str, jax.Array]]:
    """A module in eval mode as a pure function of one example; `jax.vmap` maps it over more.

    Args:
      module: a `torch.nn.Module`, which is not changed, training flags included. DataParallel and torch.compile are
        taken off.
      example: one input, [1, ...] (NumPy, JAX or PyTorch).

    Returns:
      `fn(params, x)`, and params. `fn` takes x [1, ...] in PyTorch's axis order, and returns the module's own tree of
      outputs, with dictionaries for mappings and data classes that JAX doesn't know. The operations of a line are in
      the scope that `scope` names. `params` has the parameters and buffers that `fn` reads, by their key in
      `state_dict`: shared ones once, in their own data type, as copies.

    Raises:
      InputError: if `torch.export` fails, or operations are not in `TABLE`, which are listed with line, module and
        remedy.
    """
    module = unwrapped(module)
    example = placed(example, module)
    program = traced(module, example)
    state = dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])
    first = {id(tensor): key for key, tensor in reversed(state.items())}  # the first key of a shared tensor
    keys, constants, input_name = _inputs(program)
    keys = {name: first[id(state[key])] for name, key in keys.items()}
    outputs, steps, dtype = _outputs(program), _steps(program), _dtype(example.dtype)
    params = {key: as_array(state[key]) for key in dict.fromkeys(keys.values())}

    def fn(params: Weights, x: Array) -> Any:
        values = constants | {name: params[key] for name, key in keys.items()} | {input_name: jnp.asarray(x, dtype)}
        for step in steps:
            step(values)
        return outputs(values)

    return fn, params


# Reading the program


def _inputs(program: "torch.export.ExportedProgram") -> tuple[dict[str, str], dict[str, Any], str]:
    """The inputs in use: keys of the state by name of input, constants by name of input, and the name of x."""
    from torch.export.graph_signature import InputKind

    used = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    signature: Any = program.graph_signature
    tensors: Any = program.constants
    specs = [spec for spec in signature.input_specs if spec.arg.name in used]
    keys = {spec.arg.name: spec.target for spec in specs if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)}
    constants = {spec.arg.name: spec.target for spec in specs if spec.kind == InputKind.CONSTANT_TENSOR}
    constants = {name: np.asarray(as_array(tensors[key])) for name, key in constants.items()}
    return keys, constants, signature.user_inputs[0]


def _outputs(program: "torch.export.ExportedProgram") -> Callable[[dict[str, Any]], Any]:
    """The module's own tree of outputs, as a function of the results by name."""
    from torch.export.graph_signature import OutputKind

    specs = program.graph_signature.output_specs
    if changed := [str(spec.target) for spec in specs if spec.kind == OutputKind.BUFFER_MUTATION]:
        raise InputError(
            f"the network changes its buffers in eval mode ({shown(changed)}), which a pure function can't: let it do "
            "so in training mode only"
        )
    results: Any
    (results,) = program.graph.output_node().args
    results = [_plain(r) for r, spec in zip(results, specs, strict=True) if spec.kind == OutputKind.USER_OUTPUT]
    tree: Any = program.call_spec.out_spec
    return lambda values: known_to_jax(tree.unflatten(_filled(results, values)))


def known_to_jax(tree: Any) -> Any:
    """The tree with dictionaries for mappings and data classes, and plain tuples for PyTorch's own."""
    if isinstance(tree, Mapping):
        return {key: known_to_jax(value) for key, value in tree.items()}
    if is_dataclass(tree):
        return {field.name: known_to_jax(getattr(tree, field.name)) for field in fields(tree)}
    if isinstance(tree, list | tuple):
        parts = map(known_to_jax, tree)
        return type(tree)(*parts) if hasattr(tree, "_fields") else [*parts] if isinstance(tree, list) else (*parts,)
    return tree


def _steps(program: "torch.export.ExportedProgram") -> list[Callable[[dict], None]]:
    """The operations whose results are used, in their order; each adds its result to the values by name.

    Raises:
      InputError: if some are not in the table.
    """
    nodes = [node for node in program.graph.nodes if node.op == "call_function" and node.users]
    if missing := [node for node in nodes if not operation(node.target) or _is_place_of_maximum(node)]:
        raise InputError(_refusal(missing))
    return [_step(node) for node in nodes]


def _step(node: Node) -> Callable[[dict], None]:
    """One operation, as a function that adds its result to the values; its line is a scope unless it is a size."""
    value, in_jax, name, args = node.meta.get("val"), operation(node.target), node.name, tuple(map(_plain, node.args))
    assert in_jax is not None  # by `_steps`
    dtype = _dtype(value.dtype) if hasattr(value, "dtype") else None
    kwargs = {key: _plain(arg) for key, arg in node.kwargs.items() if key not in OPTIONS}
    in_scope = scope(node) if dtype or isinstance(value, list | tuple) else ""

    def run(values: dict[str, Any]) -> None:
        with jax.named_scope(in_scope) if in_scope else contextlib.nullcontext():
            result = in_jax(*_filled(args, values), **_filled(kwargs, values))
            values[name] = result if dtype is None else jnp.asarray(result, dtype)

    return run


def _is_place_of_maximum(node: Node) -> bool:
    return node.target is operator.getitem and node.args[1] > 0 and "max_pool" in str(node.args[0].target)


def _refusal(missing: list[Node]) -> str:
    """The message with every missing operation, its lines, their modules, and the remedy."""
    places: dict[tuple[str, str], list[str]] = {}
    for node in missing:
        path, _, line = scope(node).rpartition("@")
        source = node.args[0] if node.target is operator.getitem else node
        name = source.target.name() if hasattr(source.target, "name") else source.target.__name__
        places.setdefault((name, line), []).append(path.replace("/", ".") or "the network itself")
    random = any(RANDOM.search(name) for name, _ in places)
    listed = [f"{name} at {line} in {shown(dict.fromkeys(paths))}" for (name, line), paths in places.items()]
    remedy = "random operations must be off (dropout: F.dropout(x, p, self.training)); " if random else ""
    names = sorted({name.removeprefix("aten::").split(".")[0] for name, _ in places})
    return (
        f"no translation to JAX: {shown(listed, '; ')}. {remedy}Write it with other operations, or add to "
        f"convert.torch.TABLE a JAX function of the same arguments for {shown(names)}"
    )


def _plain(args: Any) -> Any:
    """The arguments with a `Value` for each earlier result, and nothing of PyTorch."""
    if isinstance(args, list | tuple):
        return [_plain(arg) for arg in args] if isinstance(args, list) else tuple(map(_plain, args))
    return Value(args.name) if hasattr(args, "users") else args


def _filled(args: Any, values: dict[str, Any]) -> Any:
    """The arguments with the result in place of each `Value`."""
    if isinstance(args, list | tuple):
        return type(args)(_filled(arg, values) for arg in args)
    if isinstance(args, dict):
        return {key: _filled(arg, values) for key, arg in args.items()}
    return values[args.name] if isinstance(args, Value) else args


def _dtype(dtype: "torch.dtype") -> np.dtype:
    """The data type of JAX for one of PyTorch."""
    return jax.dtypes.canonicalize_dtype(str(dtype).removeprefix("torch."))


def as_array(tensor: "torch.Tensor") -> jax.Array:
    """A copy of the tensor, which later training of the module does not change."""
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # a type that NumPy lacks
        return jnp.array(tensor.view(torch.int16).numpy().view(jnp.bfloat16))
    return jnp.array(tensor.numpy())

"""Export of a module by `torch.export`, and the line of the user's code from which each operation comes."""

import contextlib
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import jax.numpy as jnp
import numpy as np

from convert.torch.operations import TABLE
from tppjax.errors import InputError, brief
from tppjax.types import Array

if TYPE_CHECKING:
    import torch

OTHERS = "torch", "torchvision", "timm"  # packages whose lines are shown only if no line is the user's
DECORATORS = "beartype", "jaxtyping"  # packages that check types at each call; their lines are never shown
Node = Any  # of a program of `torch.export`: `torch.fx.Node`


def unwrapped(module: Any) -> "torch.nn.Module":
    """The module without DataParallel and torch.compile around it.

    Raises:
      InputError: if it is not a `torch.nn.Module`, or one without numbers to read.
    """
    import torch

    while isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        module = module.module
    module = getattr(module, "_orig_mod", module)
    if not isinstance(module, torch.nn.Module):
        kind = "a class: make an instance" if isinstance(module, type) else f"a {type(module).__name__}"
        raise InputError(f"the network must be a torch.nn.Module, with its weights loaded; got {kind}")
    if isinstance(module, torch.jit.ScriptModule):
        problem = "is compiled by torch.jit: give the torch.nn.Module that it was compiled from"
    elif any(map(torch.nn.parameter.is_lazy, (*module.parameters(), *module.buffers()))):
        problem = "has lazy layers, whose weights have no shape yet: run it once on the example first"
    elif any(weight.is_meta for weight in module.parameters()):
        problem = "has weights without numbers, on the device meta: make it on another device, and load its weights"
    else:
        return module
    raise InputError(f"{type(module).__name__} {problem}")


def placed(example: "torch.Tensor | Array | list", module: "torch.nn.Module") -> "torch.Tensor":
    """The example on the device of the module, in the data type of its weights."""
    import torch

    if not isinstance(example, torch.Tensor):
        array = np.array(example)  # PyTorch lacks some of NumPy's half types
        if array.dtype.kind in "OSU":
            raise InputError(f"the example must be an array of numbers, [1, ...]; got a {type(example).__name__}")
        example = torch.as_tensor(array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array)
    if example.ndim == 0 or example.shape[0] != 1:
        raise InputError(f"the example must be one input, [1, ...]; got {tuple(example.shape)}: give x[:1]")
    weights = (w for w in (*module.parameters(), *module.buffers()) if w.is_floating_point())
    weight = next(weights, example)
    return example.detach().to(weight.device, weight.dtype if example.is_floating_point() else None)


@contextlib.contextmanager
def evaluating(module: "torch.nn.Module") -> Iterator[None]:
    """Eval mode without gradients; afterwards, attributes and buffers are as before, such as a mask kept for later.

    It sets only the flags, since `eval` may be overridden. What a module keeps in lists is not restored.
    """
    import torch

    flags = {part: part.training for part in module.modules()}
    parts = [vars(part) for part in flags]
    changeable = [d for part in parts for d in (part, *(v for v in part.values() if type(v) in (dict, OrderedDict)))]
    kept = [dict(d) for d in changeable]
    known = (buffer for buffer in module.buffers() if not torch.nn.parameter.is_lazy(buffer))  # those with a shape
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in known]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns about itself
        try:
            for part in flags:
                part.training = False
            yield
        finally:
            for d, old in zip(changeable, kept, strict=True):
                for key in d.keys() - old.keys():
                    del d[key]
                d.update(old)
            for part, flag in flags.items():
                part.training = flag
            for buffer, version, old in buffers:
                if buffer._version != version:
                    buffer.copy_(old)


def traced(module: "torch.nn.Module", example: "torch.Tensor") -> "torch.export.ExportedProgram":
    """The program that `torch.export` makes of the module for one example."""
    try:
        return _exported(module, example)
    except Exception as e:  # from the user's own code, or anything that torch.export raises
        raise InputError(
            f"torch.export can't trace {type(module).__name__} in eval mode{_raised_at(e)}: {brief(e)}. If what it "
            "computes depends on numbers of its input (if, while, .item()), use torch.where, or convert the parts "
            "before and after that; else see that it runs on the example as it is"
        ) from e


def _exported(module: "torch.nn.Module", example: "torch.Tensor") -> "torch.export.ExportedProgram":
    """The program, in operations of the table and of core ATen."""
    import torch

    with evaluating(module), _every_frame(), silent():
        program = torch.export.export(module, (example,), strict=False)
        rules: Any = torch.export.default_decompositions()  # less those of operations in the table
        for target in [target for target in rules if operation(target)]:
            rules.pop(target)
        return program.run_decompositions(rules)


@contextlib.contextmanager
def _every_frame() -> Iterator[None]:
    """Lines of all functions; without this, `torch.export` leaves out the helpers that `forward` calls."""
    from torch.fx.proxy import TracerBase

    def from_forward(self: TracerBase, stack: traceback.StackSummary) -> traceback.StackSummary:
        first = next((i for i, frame in enumerate(stack) if frame.name == "forward"), len(stack))
        return traceback.StackSummary.from_list(stack[first:])

    with mock.patch.object(TracerBase, "_filter_traceback_frames", from_forward, create=True):
        yield


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Hides the output of PyTorch, which logs and prints the whole program where it fails."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(level)


def _raised_at(e: Exception) -> str:
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(e.__traceback__)]
    line = line_of([frame for frame in frames if frame[0] != __file__])
    return f" at {line}" if line else ""


def operation(target: Any) -> Callable | None:
    """The operation of the table for an overload, or for all of its overloads; Python's own functions stay."""
    if getattr(target, "__module__", None) in ("_operator", "math"):
        return target
    name = str(target).removeprefix("aten.") if hasattr(target, "overloadpacket") else target.__name__
    return TABLE.get(name) or TABLE.get(name.rpartition(".")[0] or name)


def scope(node: Node) -> str:
    """The position of an operation as the name of a scope: `layer4/1/conv1@models/resnet.py:92`.

    Before the @ is the module's path with slashes, "" for the network itself. After it is the innermost line of the
    user's code: outside of torch, torchvision and timm or, if there is none, outside of torch. The file is relative to
    the working directory; elsewhere only its name is shown.
    """
    modules = list(node.meta.get("nn_module_stack", {}).values())
    path = modules[-1][0] if modules else ""
    frames = re.findall(r'File "(.+?)", line (\d+)', node.meta.get("stack_trace") or "")
    return f"{path.replace('.', '/')}@{line_of(frames) or '?'}"


def line_of(frames: Sequence[tuple[str, int | str | None]]) -> str:
    """The innermost line of the user's code as `file:line`, else that of a layer of PyTorch, or "".

    Args:
      frames: pairs of file and line, from the outermost to the innermost.
    """
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in (*OTHERS, *DECORATORS)}
    folders = {name: f"{Path(file).parent}{os.sep}" for name, file in files.items() if file}
    hidden = [folders.pop(name) for name in DECORATORS if name in folders]
    layers = os.path.join(folders["torch"], "nn", "")
    for ignored in (folders.values(), [folders["torch"]], []):
        for file, line in reversed(frames):
            if not file.startswith(("<", *hidden, *ignored)) and (ignored or file.startswith(layers)):
                path = Path(file)
                near = path.is_relative_to(Path.cwd()) and "site-packages" not in path.parts
                return f"{path.relative_to(Path.cwd()) if near else path.name}:{line}"
    return ""

"""What `torch.export` writes down of a module, and where in the user's code each operation comes from."""

import contextlib
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax.numpy as jnp
import numpy as np

from convert.torch.operations import TABLE
from tppjax.errors import InputError, brief

SHOWN = 8  # places in an error
OTHERS = "torch", "torchvision", "timm"  # packages whose lines are shown only if no line is the user's


def unwrapped(module):
    """The module without DataParallel and torch.compile around it.

    Raises:
      InputError: if it is no `torch.nn.Module`.
    """
    import torch

    while isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        module = module.module
    module = getattr(module, "_orig_mod", module)
    if not isinstance(module, torch.nn.Module):
        said = "a class: make an instance" if isinstance(module, type) else f"a {type(module).__name__}"
        raise InputError(f"the network must be a torch.nn.Module, with its weights loaded; got {said}")
    return module


def placed(example, module):
    """The example where the module is, in the data type of its weights."""
    import torch

    if not isinstance(example, torch.Tensor):
        example = np.array(example)  # NumPy's half types are not all PyTorch's
        example = torch.as_tensor(
            example.astype(np.float32) if jnp.issubdtype(example.dtype, jnp.floating) else example
        )
    if example.ndim == 0 or example.shape[0] != 1:
        raise InputError(f"the example must be one input, [1, ...]; got {tuple(example.shape)}: give x[:1]")
    weights = (w for w in (*module.parameters(), *module.buffers()) if w.is_floating_point())
    weight = next(weights, example)
    return example.detach().to(weight.device, weight.dtype if example.is_floating_point() else None)


@contextlib.contextmanager
def evaluating(module):
    """Eval mode by the flags alone, since `eval` may be overridden to do more, and no gradients; restores the flags."""
    import torch

    flags = {part: part.training for part in module.modules()}
    try:
        for part in flags:
            part.training = False
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's about itself
            yield
    finally:
        for part, flag in flags.items():
            part.training = flag


def traced(module, example):
    """What `torch.export` makes of the module for one example."""
    try:
        return _exported(module, example)
    except Exception as e:  # the user's own code, or whatever torch.export raises
        raise InputError(
            f"torch.export can't trace {type(module).__name__} in eval mode{_raised_at(e)}: {brief(e)}. If what it "
            "computes depends on numbers of its input (if, while, .item()), use torch.where, or convert the parts "
            "before and after that; else see that it runs on the example as it is"
        ) from e


def _exported(module, example):
    """The program, in operations of the table and of core ATen."""
    import torch

    with evaluating(module), _every_frame(), _silent():
        program = torch.export.export(module, (example,), strict=False)
        rules = torch.export.default_decompositions()  # without those of operations that the table has
        for target in [target for target in rules if operation(target)]:
            rules.pop(target)
        return program.run_decompositions(rules)


@contextlib.contextmanager
def _every_frame():
    """Lines of all functions, where `torch.export` would leave out the helpers that `forward` calls."""
    from torch.fx.proxy import TracerBase

    def from_forward(self, stack):
        first = next((i for i, frame in enumerate(stack) if frame.name == "forward"), len(stack))
        return traceback.StackSummary.from_list(stack[first:])

    with mock.patch.object(TracerBase, "_filter_traceback_frames", from_forward, create=True):
        yield


@contextlib.contextmanager
def _silent():
    """Without what PyTorch logs and prints, which is the whole program where it can't go on."""
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


def operation(target) -> Callable | None:
    """That of the table, for an overload or for all of them; Python's own functions, of sizes, stay."""
    if getattr(target, "__module__", None) in ("_operator", "math"):
        return target
    name = str(target).removeprefix("aten.") if hasattr(target, "overloadpacket") else target.__name__
    return TABLE.get(name) or TABLE.get(name.rpartition(".")[0] or name)


def scope(node) -> str:
    """Where an operation is, as the name of a scope: `layer4/1/conv1@models/resnet.py:92`.

    Before the @ is the module's path, with slashes, "" for the network itself; behind it the user's innermost line:
    outside of torch, torchvision and timm or, if there is none, outside of torch. The file is relative to the working
    directory, or only its name if it is elsewhere.
    """
    modules = list(node.meta.get("nn_module_stack", {}).values())
    path = modules[-1][0] if modules else ""
    frames = re.findall(r'File "(.+?)", line (\d+)', node.meta.get("stack_trace") or "")
    return f"{path.replace('.', '/')}@{line_of(frames) or '?'}"


def line_of(frames) -> str:
    """The user's innermost, as `file:line`, of pairs from the outermost on; else of a layer of PyTorch's, or ""."""
    folders = {name: f"{Path(sys.modules[name].__file__).parent}{os.sep}" for name in OTHERS if name in sys.modules}
    layers = os.path.join(folders["torch"], "nn", "")
    for ignored in (folders.values(), [folders["torch"]], []):
        for file, line in reversed(frames):
            if not file.startswith(("<", *ignored)) and (ignored or file.startswith(layers)):
                path = Path(file)
                near = path.is_relative_to(Path.cwd()) and "site-packages" not in path.parts
                return f"{path.relative_to(Path.cwd()) if near else path.name}:{line}"
    return ""


def shown(items, separator=", ") -> str:
    """The first of many."""
    items = list(items)
    more = [f"{len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return separator.join(items[:SHOWN] + more)

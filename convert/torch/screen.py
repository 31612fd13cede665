"""A quick check of a module's operations before its export, which takes longer.

The module runs once on a tensor without numbers, which takes about a second. Operations that no spiking neuron can
replace, such as layer norm, are refused with all their lines if the output depends on them. All else is left to the
trace.
"""

import inspect
import itertools
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convert.torch.export import evaluating, line_of, silent
from convert.torch.files import shown
from tppjax.errors import InputError
from tppjax.graph.linear import INTRODUCTION, REMEDY

if TYPE_CHECKING:
    import torch

# By the name of ATen's operation, or its beginning. None of them is ever a part of a ReLU, a clip or QCFS.
KNOWN = {
    "gelu": "GELU",
    "silu": "SiLU",
    "hardswish": "hard swish",
    "mish": "Mish",
    "sigmoid": "a sigmoid",
    "log_sigmoid": "a sigmoid",
    "tanh": "tanh",
    "elu": "ELU",
    "softplus": "softplus",
    "_softmax": "softmax",
    "_log_softmax": "softmax",
    "_safe_softmax": "softmax",
    "_scaled_dot_product": "attention",
    "_native_multi_head_attention": "attention",
    "_transformer_encoder_layer": "attention",
    "native_layer_norm": "layer norm",
    "native_group_norm": "group norm",
    "_fused_rms_norm": "RMS norm",
    "mkldnn_rnn_layer": "a recurrent layer",
    "_thnn_fused": "a recurrent layer",
}
PRODUCT = "a product of two values that both depend on the input, such as a gate or attention"
PRODUCTS = ("bmm", "mm", "mul", "div")
CONSTANT = ("ones_like", "zeros_like", "full_like", "empty_like", "new_ones", "new_zeros", "new_full", "new_empty")


def screen(module: "torch.nn.Module", example: "torch.Tensor") -> None:
    """Raises InputError if the output depends on an operation of `KNOWN`, or a product, of values from the input.

    Args:
      module: a `torch.nn.Module`.
      example: one input, a tensor `[1, ...]`.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._pytree import tree_leaves

    recorder = _recorder(module)
    try:
        with evaluating(module), silent(), FakeTensorMode(allow_non_fake_inputs=True) as fake, recorder:
            x = fake.from_tensor(example)
            recorder.begin(x)
            outputs = tree_leaves(module(x))
    except Exception:  # of code that needs numbers; the message comes from torch.export
        return
    reached = _reached(recorder.sources, outputs)
    if uses := [use for at, use in recorder.uses.items() if at in reached]:
        raise InputError(_sentence(uses))


def _recorder(module: "torch.nn.Module") -> Any:
    """A mode that records the `sources` of each tensor that depends on the input, and the `uses` of `KNOWN`.

    A use is the description of an operation with its line and module.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    names = {id(part): name for name, part in module.named_modules()}

    class Recorder(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.sources: dict[int, set[int]] = {}
            self.kept: list[torch.Tensor] = []
            self.uses: dict[int, tuple[str, str, str]] = {}

        def begin(self, x: torch.Tensor) -> None:
            self.sources[id(x)] = set()
            self.kept.append(x)

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict | None = None) -> Any:
            outputs = func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__.removesuffix("_")
            inputs = [a for a in tree_leaves((args, kwargs)) if id(a) in self.sources and name not in CONSTANT]
            for y in tree_leaves(outputs) if inputs else ():
                if isinstance(y, torch.Tensor):
                    self.kept.append(y)  # so that its id is not used again
                    self.sources[id(y)] = self.sources.get(id(y), set()) | set(map(id, inputs))
                    if description := _description(name, inputs, args):
                        self.uses.setdefault(id(y), (description, *_place(names)))
            return outputs

    return Recorder()


def _reached(sources: dict[int, set[int]], outputs: list) -> set[int]:
    """The ids of the tensors on which the outputs depend."""
    todo, reached = [id(y) for y in outputs], set()
    while todo:
        at = todo.pop()
        if at not in reached:
            reached.add(at)
            todo += sources.get(at, ())
    return reached


def _description(name: str, inputs: "list[torch.Tensor]", args: Sequence[Any]) -> str:
    """The operation in words, if it is in `KNOWN` or a product of values that depend on the input; else ""."""
    if name == "leaky_relu":  # with a slope of 0 it is a ReLU
        return "" if args[1:] == (0,) else "leaky ReLU"
    if name in PRODUCTS and len(inputs) == 2:  # with one shape it may be part of a ReLU: x * (x > 0)
        both = all(x.is_floating_point() for x in inputs)
        return PRODUCT if both and ("mm" in name or inputs[0].shape != inputs[1].shape) else ""
    return next((words for key, words in KNOWN.items() if name == key or (key[0] == "_" and name.startswith(key))), "")


def _place(names: dict[int, str]) -> tuple[str, str]:
    """The line of the user's code, and the module that runs."""
    outside = inspect.unwrap(screen).__code__
    inside = itertools.takewhile(lambda at: at[0].f_code is not outside, traceback.walk_stack(None))
    frames = [(frame, line) for frame, line in inside if frame.f_code.co_filename != __file__]
    modules = (names.get(id(frame.f_locals.get("self"))) for frame, _ in frames)
    line = line_of([(frame.f_code.co_filename, number) for frame, number in reversed(frames)])
    return line, next((name for name in modules if name is not None), "")


def _sentence(uses: list[tuple[str, str, str]]) -> str:
    modules: dict[tuple[str, str], list[str]] = {}
    for description, line, name in uses:
        modules.setdefault((description, line), []).append(name or "the network itself")
    lines = [f"{what} at {line} in {shown(dict.fromkeys(names))}" for (what, line), names in modules.items()]
    return f"{INTRODUCTION}\n  " + "\n  ".join(lines) + f"\n{REMEDY}"

"""A quick look at what a module computes, so that it need not be exported only to be refused.

The module runs once on a tensor without numbers, which takes about a second. What no spiking neuron can stand for, such
as layer norm, is refused with all its places if the output depends on it. Whatever else is wrong, the trace finds.
"""

import itertools
import traceback

from convert.torch.export import evaluating, line_of, shown
from tppjax.errors import InputError
from tppjax.graph.linear import INTRODUCTION, REMEDY

# By the name of ATen's operation, or how it begins. None of them is ever a part of a ReLU, a clip or QCFS.
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


def screen(module, example) -> None:
    """Raises InputError if the output depends on one of `KNOWN`, or on a product, of something that the input gave.

    Args:
      module: a `torch.nn.Module`.
      example: one input, a tensor `[1, ...]`.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._pytree import tree_leaves

    recorder = _recorder(module)
    try:
        with evaluating(module), FakeTensorMode(allow_non_fake_inputs=True) as fake, recorder:
            x = fake.from_tensor(example)
            recorder.begin(x)
            outputs = tree_leaves(module(x))
    except Exception:  # of whatever runs on numbers only; torch.export will say what
        return
    if found := recorder.reaching(outputs):
        raise InputError(_sentence(found))


def _recorder(module):
    """A mode that notes, for each tensor that depends on the input, what it was computed from."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    names = {id(part): name for name, part in module.named_modules()}

    class Recorder(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.sources, self.kept, self.places = {}, [], {}

        def begin(self, x):
            self.sources[id(x)] = set()
            self.kept.append(x)

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            outputs = func(*args, **(kwargs or {}))
            name = func.overloadpacket.__name__.removesuffix("_")
            inputs = [a for a in tree_leaves((args, kwargs)) if id(a) in self.sources and name not in CONSTANT]
            for y in tree_leaves(outputs) if inputs else ():
                if isinstance(y, torch.Tensor):
                    self.kept.append(y)  # so that its id stays its own
                    self.sources[id(y)] = self.sources.get(id(y), set()) | set(map(id, inputs))
                    if what := _what(name, inputs):
                        self.places.setdefault(id(y), (what, *_place(names)))
            return outputs

        def reaching(self, outputs) -> list[tuple[str, str, str]]:
            """What leads to the outputs of all that was noted: what it is, its line and its module."""
            todo, seen = [id(y) for y in outputs], set()
            while todo:
                at = todo.pop()
                if at not in seen:
                    seen.add(at)
                    todo += self.sources.get(at, ())
            return [place for at, place in self.places.items() if at in seen]

    return Recorder()


def _what(name: str, inputs: list) -> str:
    """What the operation is, if it is in `KNOWN`, or a product of values that depend on the input, `inputs`."""
    if name in PRODUCTS and len(inputs) == 2:  # of one shape, it may be written for a ReLU: x * (x > 0)
        both = all(x.is_floating_point() for x in inputs)
        return PRODUCT if both and ("mm" in name or inputs[0].shape != inputs[1].shape) else ""
    return next((what for key, what in KNOWN.items() if name == key or (key[0] == "_" and name.startswith(key))), "")


def _place(names: dict[int, str]) -> tuple[str, str]:
    """The user's line, and the module that runs."""
    inside = itertools.takewhile(lambda at: at[0].f_code is not screen.__code__, traceback.walk_stack(None))
    frames = [(frame, line) for frame, line in inside if frame.f_code.co_filename != __file__]
    modules = (names.get(id(frame.f_locals.get("self"))) for frame, _ in frames)
    line = line_of([(frame.f_code.co_filename, number) for frame, number in reversed(frames)])
    return line, next((name for name in modules if name is not None), "")


def _sentence(found: list[tuple[str, str, str]]) -> str:
    places = {}
    for what, line, name in found:
        places.setdefault((what, line), []).append(name or "the network itself")
    lines = [f"{what} at {line} in {shown(dict.fromkeys(paths))}" for (what, line), paths in places.items()]
    return f"{INTRODUCTION}\n  " + "\n  ".join(lines) + f"\n{REMEDY}"

"""The neurons, one file each, and the table by which options name them."""

import ast
import dataclasses
import importlib
from typing import Any

import numpy as np

from tppjax.errors import InputError, refusing
from tppjax.neurons.base import MAX_STEPS, Delayed, Neuron, OnePhase, TwoPhase, check_steps, in_thresholds, simulate
from tppjax.neurons.baseline import Baseline
from tppjax.neurons.burst import Burst
from tppjax.neurons.check import check_neuron
from tppjax.neurons.graded import Graded
from tppjax.neurons.rounded import Rounded
from tppjax.neurons.shuffle import Ordered, Shuffle
from tppjax.neurons.snm import SNM
from tppjax.neurons.srp import SRP
from tppjax.neurons.tpp import TPP
from tppjax.neurons.unbiased import Unbiased

NEURONS = {
    neuron.name: neuron for neuron in (Baseline, Shuffle, TPP, Rounded, Unbiased, Graded, Ordered, SNM, Burst, SRP)
}

__all__ = [
    "MAX_STEPS", "NEURONS", "SNM", "SRP", "TPP", "Baseline", "Burst", "Delayed", "Graded", "Neuron", "OnePhase",
    "Ordered", "Rounded", "Shuffle", "TwoPhase", "Unbiased", "check_neuron", "check_steps", "in_thresholds", "parse",
    "simulate",
]  # fmt: skip


def parse(mode: str | Neuron, own: dict[str, type[Neuron]] | None = None) -> Neuron:
    """The neuron that a mode names.

    Args:
      mode: a `Neuron`, or a string: a name of `NEURONS`, or `package.module:Name` for a neuron of your own, followed by
        the fields that differ from the defaults, as in `"burst(gamma=2)"`.
      own: neurons of your own by `package.module:Name`; with it, no other module is imported.

    Raises:
      InputError: if it is none of these; lists the known names.
    """
    if isinstance(mode, Neuron):
        fields = {f.name: getattr(mode, f.name) for f in dataclasses.fields(mode) if f.init}
        as_python = {name: _as_python(value) for name, value in fields.items()}
        return mode if repr(as_python) == repr(fields) else dataclasses.replace(mode, **as_python)
    if not isinstance(mode, str):
        hint = f"; give {mode.__name__}(), not the class" if isinstance(mode, type) else ""
        raise InputError(f"a mode is the name of a neuron, or a tppjax.neurons.Neuron; got {mode!r}{hint}")
    name, bracket, rest = mode.partition("(")
    if own is not None and ":" in name and name not in own:
        given = f"; given: {', '.join(own)}" if own else ""
        raise InputError(f"{name} is a neuron of your own, which is not in the file: pass neurons=[its class]{given}")
    kind = (_imported(name) if own is None else own[name]) if ":" in name else NEURONS.get(name)
    if kind is None:
        raise InputError(
            f"unknown mode {mode!r}; known: {', '.join(NEURONS)}, and package.module:Name for a neuron of your own"
        )
    with refusing(f"mode {mode!r} can't be made", kinds=(SyntaxError, TypeError, ValueError)):
        call = ast.parse(f"_({rest}" if bracket else "_()", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("fields are given by name, as in burst(gamma=2)")
        return kind(**{option.arg or "": ast.literal_eval(option.value) for option in call.keywords})


def _as_python(value: Any) -> Any:
    """NumPy's numbers and arrays, lists and ranges, as numbers and tuples, which have a plain text and a hash."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(map(_as_python, value)) if type(value) in (list, tuple, range) else value


def _imported(path: str) -> type[Neuron]:
    module, _, name = path.partition(":")
    remedy = "give the path of a module that python can import, a colon and a class"
    with refusing(f"no neuron {path}", remedy, (ImportError, AttributeError, ValueError)):
        kind = getattr(importlib.import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, Neuron)):
        raise InputError(f"{path} is not a neuron, a subclass of tppjax.neurons.TwoPhase, OnePhase or Delayed")
    return kind

"""The description of a saved network, which is the content of `ann.json`, and the checks when it is read."""

import dataclasses
import hashlib
import json
import reprlib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from tppjax import files, models
from tppjax.activations import ACTIVATIONS
from tppjax.checks import check_leaf
from tppjax.data import Preprocessing
from tppjax.errors import InputError, refusing

REMEDY = "train or import the network again, or copy its folder again from where it is whole"
ENTRIES = {"model", "preprocessing", "history", "sha256"}


def describe(model: nn.Module, preprocessing: Preprocessing | None, history: tuple[str, ...]) -> dict:
    """The entries of `ann.json` except its digest, as JSON represents them.

    Raises:
      InputError: if the model is not one that `models.create` makes, or a value is not a plain number or name.
    """
    names = {cls: name for name, cls in ACTIVATIONS.items()}
    if getattr(model, "name", None) not in models.MODELS or type(getattr(model, "act", None)) not in names:
        raise InputError(f"only models from models.create can be saved; got {model}")
    if preprocessing is None:
        raise InputError("a network without preprocessing can't be saved: give it one, tppjax.data.Preprocessing(...)")
    fields = _fields(model)
    act = fields.pop("act")
    described = {
        "model": {"name": model.name, "options": fields, "act": {"name": names[type(act)], **_fields(act)}},
        "preprocessing": dataclasses.asdict(preprocessing),
        "history": history,
    }
    with refusing("the network can't be saved, since its description is more than plain numbers"):
        return json.loads(json.dumps(described, allow_nan=False))


def read(file: Path) -> tuple[nn.Module, Preprocessing, tuple[str, ...], dict]:
    """The model, its preprocessing and its history from `ann.json`, and all entries of the file.

    Raises:
      InputError: if it is damaged, or an entry is missing, unknown, of another type or out of range.
    """
    content = files.read_json(file, REMEDY)
    try:
        if unknown := content.keys() - ENTRIES:
            raise InputError(f"unknown entries {', '.join(sorted(unknown))}")
        described = content["model"]
        act = dict(described["act"])
        kind, family = ACTIVATIONS[act.pop("name")], models.MODELS[described["name"]].func
        options = _typed(family, described["options"])
        model = models.create(described["name"], act=kind(**_typed(kind, act)), **options)
        preprocessing = preprocessing_of(content["preprocessing"])
        history = content.get("history", [])
        if not _fits(history, tuple[str, ...]):
            raise InputError(f"history is {reprlib.repr(history)}")
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as e:
        problem = f"no {e}" if isinstance(e, KeyError) else str(e)
        raise InputError(f"{file} does not describe a network of this library ({problem}): {REMEDY}") from e
    return model, preprocessing, tuple(history), content


def preprocessing_of(described: dict) -> Preprocessing:
    """The preprocessing that an object of JSON describes; InputError if it does not describe one."""
    return Preprocessing(**_typed(Preprocessing, described))


def digest(described: dict, variables: Path) -> str:
    """SHA-256, in hexadecimal digits, of the entries of `ann.json` except the digest, and of the variables' files."""
    described = {name: value for name, value in described.items() if name != "sha256"}
    sha256 = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for file in sorted(path for path in variables.rglob("*") if path.is_file()):
        with file.open("rb") as f:
            sha256.update(file.relative_to(variables).as_posix().encode() + hashlib.file_digest(f, "sha256").digest())
    return sha256.hexdigest()


def check_variables(variables: Any, required: dict[str, Any]) -> None:
    """Raises InputError, naming the leaf, unless the variables are those of the model, with numbers that it can use.

    Args:
      variables: variables of the network.
      required: `{path: array or its shape and dtype}` of every leaf that the model creates.
    """
    leaves: dict[str, Any] = traverse_util.flatten_dict(variables, sep="/") if isinstance(variables, Mapping) else {}
    missing, unknown = required.keys() - leaves.keys(), leaves.keys() - required.keys()
    for problem, paths in (("lacking", sorted(missing)), ("unknown", sorted(unknown))):
        if paths:
            raise InputError(f"{paths[0]} is {problem}" + (f", and {len(paths) - 1} more" if paths[1:] else ""))
    for path, leaf in leaves.items():
        leaf, expected = np.asarray(leaf), required[path]
        if (leaf.shape, leaf.dtype) != (expected.shape, expected.dtype):
            raise InputError(f"{path} is {leaf.dtype} {leaf.shape}, not {expected.dtype} {expected.shape}")
        check_leaf(path, leaf)


def _fields(module: nn.Module) -> dict[str, Any]:
    return {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}


def _typed(cls: type, values: dict) -> dict:
    """`values` for the fields of `cls`, lists as tuples; InputError if one is not of the declared type."""
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if name not in hints or not _fits(value, hints[name]):
            raise InputError(f"{cls.__name__} has no {name}={reprlib.repr(value)}")
    return {name: _tuples(value) for name, value in values.items()}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is of the declared type; lists stand for tuples."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is tuple:
        length = isinstance(value, list) and (inner[-1] is Ellipsis or len(value) == len(inner))
        return length and all(_fits(v, inner[0]) for v in value)
    return type(value) is hint or (hint is float and type(value) is int)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value

"""The user's own module: made by their function, with the weights of a file."""

import contextlib
import importlib
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from convert.torch.export import unwrapped
from convert.torch.files import common, is_counter, mismatches, shown
from tppjax.errors import InputError, refusing

if TYPE_CHECKING:
    import torch


def make(spec: str, arguments: str | None = None) -> "torch.nn.Module":
    """The module that a function returns.

    Args:
      spec: the function, written as `pkg.models:make`.
      arguments: its keyword arguments, as JSON.

    Raises:
      InputError: if there is no such function, or its result is not a `torch.nn.Module`.
    """
    import torch

    path, _, name = spec.partition(":")
    if not path or not name:
        raise InputError(f"--module is pkg.models:make, where make() gives the network; got {spec}")
    try:
        function: Any = importlib.import_module(path)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{path}.".startswith(f"{e.name}."):
            raise  # of an import in the user's own file
        raise InputError(f"--module {spec}: there is no module {e.name} here; run the command in its folder") from e
    for part in name.split("."):
        if not hasattr(function, part):
            raise InputError(f"--module {spec}: {path} has no {name}")
        function = getattr(function, part)
    if not callable(function) or isinstance(function, torch.nn.Module):
        kind = type(function).__name__
        raise InputError(f"--module {spec}: {name} is a {kind}; name a function that makes the network")
    keywords = _keywords(arguments)
    try:
        with contextlib.suppress(ValueError):  # of what has no signature
            inspect.signature(function).bind(**keywords)
    except TypeError as e:
        raise InputError(f"--module {spec}: {name} does not take these --module_args: {e}") from e
    return unwrapped(function(**keywords))


def _keywords(arguments: str | None) -> dict[str, Any]:
    with refusing(f"--module_args is JSON, such as '{{\"depth\": 20}}'; got {arguments}"):
        keywords = json.loads(arguments or "{}")
    if not isinstance(keywords, dict):
        raise InputError(f"--module_args is an object, such as '{{\"depth\": 20}}'; got {arguments}")
    return keywords


def load(module: "torch.nn.Module", state: Mapping[str, np.ndarray]) -> list[str]:
    """Loads the weights, whose keys may all have the prefix of a wrapper.

    Args:
      module: a `torch.nn.Module`.
      state: arrays by key.

    Returns:
      The keys of the state that do not belong to the module: those without the prefix.

    Raises:
      InputError: if keys are missing, unknown, misshapen or of whole numbers, which are listed, or several prefixes
        fit.
    """
    import torch

    own = _tensors(module)
    prefix = _prefix([key for key in own if not is_counter(key)], state)
    weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    weights = {key: value for key, value in weights.items() if key in own or not is_counter(key)}
    _check(own, weights)
    found = {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}
    module.load_state_dict(found, strict=False)
    loaded = ((key, tensor.cpu()) for key, tensor in _tensors(module).items() if key in found)
    if kept := [key for key, a in loaded if not torch.allclose(a, found[key].to(a.dtype), 0, 0, equal_nan=True)]:
        raise InputError(
            f"{type(module).__name__} does not take weights into {shown(kept)}: its own state_dict or "
            "load_state_dict changes them; let --module's function load them, without --weights"
        )
    return [key for key in state if not key.startswith(prefix) and not is_counter(key)]


def _prefix(own: list[str], state: Mapping[str, Any]) -> str:
    """The prefix of all of the module's keys, such as `model.`; "" if there is none."""
    if not own or set(own) <= state.keys():
        return ""
    prefixes = dict.fromkeys(key.removesuffix(own[0]) for key in state if key.endswith(f".{own[0]}"))
    fitting = [prefix for prefix in prefixes if all(prefix + key in state for key in own)]
    if len(fitting) > 1:
        raise InputError(
            f"the file has the network's weights several times, under {shown(fitting)}: say which with --entry "
            f"{fitting[-1].removesuffix('.')}"
        )
    return (fitting or [common(state)])[0]


def _tensors(module: "torch.nn.Module") -> "dict[str, torch.Tensor]":
    """The entries of `state_dict` that are tensors."""
    import torch

    return {key: value for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def _check(own: "Mapping[str, torch.Tensor]", weights: Mapping[str, np.ndarray]) -> None:
    stored = {own[key].data_ptr() for key in weights.keys() & own.keys()}  # a shared weight needs one of its keys
    optional = [key for key, tensor in own.items() if is_counter(key) or tensor.data_ptr() in stored]
    whole = [key for key, tensor in own.items() if not tensor.is_floating_point()]
    if problems := mismatches({key: tuple(tensor.shape) for key, tensor in own.items()}, weights, optional, whole):
        raise InputError(f"the weights are not those of the network that --module makes: {problems}")

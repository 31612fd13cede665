"""The user's own module: made by their function, with the weights of a file in it."""

import importlib
import json
from collections.abc import Mapping

import numpy as np

from convert.torch.export import shown, unwrapped
from tppjax.errors import InputError, brief

COUNTERS = ("num_batches_tracked", "n_averaged")  # of batch norm and of AveragedModel; nothing reads them in eval mode


def make(spec: str, arguments: str | None = None):
    """The module that `pkg.models:make` gives, with keyword arguments written as JSON.

    Raises:
      InputError: if there is no such function, or what it gives is no `torch.nn.Module`.
    """
    path, _, name = spec.partition(":")
    if not path or not name:
        raise InputError(f"--module is pkg.models:make, where make() gives the network; got {spec}")
    try:
        found = importlib.import_module(path)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{path}.".startswith(f"{e.name}."):
            raise  # something that the user's own file imports
        raise InputError(f"--module {spec}: there is no module {e.name} here; run the command in its folder") from e
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"--module {spec}: {path} has no {name}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"--module {spec}: {name} is a {type(found).__name__}; name a function that makes the network")
    return unwrapped(found(**_keywords(arguments)))


def _keywords(arguments: str | None) -> dict:
    try:
        keywords = json.loads(arguments or "{}")
    except ValueError as e:
        raise InputError(f"--module_args is JSON, such as '{{\"depth\": 20}}'; got {arguments} ({brief(e)})") from e
    if not isinstance(keywords, dict):
        raise InputError(f"--module_args is an object, such as '{{\"depth\": 20}}'; got {arguments}")
    return keywords


def load(module, state: Mapping[str, np.ndarray]) -> list[str]:
    """Loads the weights, from under whatever prefix wrappers put before every key.

    Args:
      module: a `torch.nn.Module`.
      state: arrays by key.

    Returns:
      Keys of the state that are not the module's: those outside of the prefix.

    Raises:
      InputError: if keys are missing, unknown or misshapen (lists them), or several prefixes fit.
    """
    import torch

    own = module.state_dict()
    prefix = _prefix([key for key in own if not _is_counter(key)], state)
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    found = {key: value for key, value in found.items() if key in own or not _is_counter(key)}
    _check(own, found)
    with torch.no_grad():
        for key, value in found.items():
            own[key].copy_(torch.from_numpy(np.array(value)))
    return [key for key in state if not key.startswith(prefix) and not _is_counter(key)]


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] in COUNTERS


def _prefix(own: list[str], state: Mapping) -> str:
    """What stands before each of the module's keys, `model.` or the like; "" if nothing does, or nothing fits."""
    if not own or set(own) <= state.keys():
        return ""
    prefixes = dict.fromkeys(key.removesuffix(own[0]) for key in state if key.endswith(f".{own[0]}"))
    fitting = [prefix for prefix in prefixes if all(prefix + key in state for key in own)]
    if len(fitting) > 1:
        raise InputError(
            f"the file has the network's weights several times, under {shown(fitting)}: say which with --entry "
            f"{fitting[-1].removesuffix('.')}"
        )
    return (fitting or [_common(state)])[0]


def _common(state: Mapping) -> str:
    """The first word of every key, if they share one, for a message about what is behind it."""
    first = {key.partition(".")[0] for key in state}
    return f"{first.pop()}." if len(first) == 1 and all("." in key for key in state) else ""


def _check(own: Mapping, found: Mapping) -> None:
    places = {own[key].data_ptr() for key in found.keys() & own.keys()}  # a shared weight needs one of its keys
    missing = [key for key in own if key not in found and not _is_counter(key) and own[key].data_ptr() not in places]
    misshapen = [
        f"{key} is {np.shape(value)}, not {tuple(own[key].shape)}"
        for key, value in found.items()
        if key in own and np.shape(value) != tuple(own[key].shape)
    ]
    unknown = [key for key in found if key not in own]
    lists = {"missing": missing, "unknown": unknown, "misshapen": misshapen}
    if any(lists.values()):
        said = "; ".join(f"{what}: {shown(keys)}" for what, keys in lists.items() if keys)
        raise InputError(f"the weights are not those of the network that --module makes: {said}")

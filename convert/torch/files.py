"""Weights from files, as NumPy arrays by PyTorch's keys. PyTorch's own files need PyTorch; code in files is not run."""

import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from tppjax.errors import InputError, refusing

SHOWN = 8  # items listed in an error
ANEW = "where you trust it, load it there and save model.state_dict() anew"

# The first bytes of files of other kinds, and the message for each.
OTHERS = {
    b"version https://git-lfs": "is the pointer of a Git LFS file, not the file: run git lfs pull in its repository",
    b"\x89HDF": "is an HDF5 file, as Keras writes them, not one of PyTorch's",
    b"\x1f\x8b": "is compressed: unpack it with gunzip or tar, and give what it holds",
    b"{": "is text (JSON); if it is the index of weights in several files, load them all in PyTorch and save one",
    b"<": "is a web page, not weights: the address leads to a page about the file; download the file itself",
}

# Classes of settings that training scripts save beside the weights. None is created: `Setting` replaces each.
SETTINGS = (
    *("argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta"),
    *("numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"{module}.{system}Path" for module in ("pathlib", "pathlib._local") for system in ("Posix", "Windows")),
)


class Setting:
    """A placeholder for a setting beside the weights."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Setting":
        """A placeholder, which keeps none of the arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def read(path: str | Path, entry: str | None = None) -> dict[str, np.ndarray]:
    """The weights in `path`, by PyTorch's keys; all floating-point numbers as float32.

    Args:
      path: a safetensors file, an npz with PyTorch's keys, or a file that `torch.save` wrote from a state dict or from
        a dict with one, whose other entries, such as the epoch and the optimiser's state, are ignored.
      entry: selects one of several state dicts, such as "state_dict_ema", or "outer/inner" inside of another entry. In
        a single state dict, it selects the weights whose keys begin with it, such as "ema_model".

    Raises:
      FileNotFoundError: if there is no such file.
      InputError: if the file is damaged, of another kind, or holds code or anything but weights; if it holds several
        sets of weights and `entry` selects none; or if PyTorch is missing.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path.absolute()}")
    if not path.is_file():
        raise InputError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}: give a file of weights")
    with path.open("rb") as f:
        start = f.read(512)
    if start[:4] == b"PK\x03\x04":
        return _arrays(path, _archive(path), entry)
    if start[:1] == b"\x80":
        return _arrays(path, _unpickled(path), entry)
    if start[8:9] == b"{":
        return _arrays(path, _read(path, safetensors.numpy.load_file), entry)
    if not start:
        raise InputError(f"{path} is empty: copy or download it again")
    other = next((message for first, message in OTHERS.items() if start.lstrip().startswith(first)), None)
    raise InputError(f"{path} {other or 'is neither a safetensors file nor one that torch.save wrote'}")


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """The result of a library's function for the file; the function may raise errors of any type."""
    with refusing(f"{path} can't be read", "if it is damaged or cut short, download it again"):
        return reader(path)


def _members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        if changed := archive.testzip():  # torch.load doesn't check
            raise ValueError(f"the checksum of {changed} is another, or torch.save was told to leave it out")
        return archive.namelist()


def _archive(path: Path) -> Any:
    """The content of a zip; torch.save, torch.jit.save and numpy.savez write such files."""
    names = _read(path, _members)
    if any(name.split("/")[1:2] == ["code"] or name.endswith("/constants.pkl") for name in names):
        raise InputError(f"{path} is a TorchScript archive, which holds code, and is refused: {ANEW} (torch.jit.load)")
    if any(name.endswith("data.pkl") for name in names):
        return _unpickled(path)
    if names and all(name.endswith(".npy") for name in names):
        return _read(path, _npz)
    raise InputError(f"{path} is a zip with {', '.join(names[:3])}, not one that torch.save or numpy.savez wrote")


def _npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _unpickled(path: Path) -> Any:
    try:
        import torch
    except ImportError as e:
        raise InputError(
            f"{path} is a pickle of PyTorch's, which only PyTorch reads: pip install 'tppjax[torch]', or save the "
            "weights as safetensors where PyTorch is"
        ) from e
    try:
        with torch.serialization.safe_globals([(Setting, name) for name in SETTINGS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        if refused := re.search(r"GLOBAL (\S+)", str(e)):
            raise InputError(
                f"{path} holds a {refused[1]}, which is code and not only weights, and is refused: {ANEW}"
            ) from e
        # PyTorch's first line may advise running the code, so it is left out.
        match = re.search(r"WeightsUnpickler error: (.+)|^(?!Weights only)(.+)", str(e))
        reason = (match[1] or match[2]) if match else type(e).__name__
        raise InputError(f"{path} can't be read as PyTorch's ({reason}); if it is damaged, download it again") from e


def _arrays(path: Path, content: Any, entry: str | None) -> dict[str, np.ndarray]:
    """The set of weights called `entry`, or the only one."""
    sets = _sets(content)
    names = ", ".join(sets) if len(sets) <= 8 else f"{', '.join(list(sets)[:8])} and {len(sets) - 8} more"
    if not sets:
        keys = f" of {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) and content else ""
        raise InputError(f"{path} holds no state dict, but this: {type(content).__name__}{keys}; {ANEW}")
    if entry is None and len(sets) > 1:
        raise InputError(f"{path} holds several sets of weights: {names}; say which with --entry")
    weights = sets.get(entry) if entry else next(iter(sets.values()))
    if entry and weights is None and len(sets) == 1:
        weights = _beginning_with(f"{entry}.", next(iter(sets.values())))
    if entry == "" or not weights:
        raise InputError(f"{path} holds no --entry {entry}; it has {names or 'one set of weights, which has no name'}")
    if not isinstance(weights, Mapping):
        raise InputError(f"{path} holds weights without names in {entry or names}, which can't be told apart: {ANEW}")
    if others := [str(key) for key, value in weights.items() if not hasattr(value, "shape")]:
        raise InputError(f"{path} holds other things than weights: {', '.join(others[:8])}")
    return {str(key): _numpy(path, key, value) for key, value in weights.items()}


def _beginning_with(prefix: str, weights: Mapping | list) -> dict:
    """The weights whose keys have the prefix, by their keys without it."""
    keys = [key for key in weights if str(key).startswith(prefix)] if isinstance(weights, Mapping) else []
    return {key.removeprefix(prefix): weights[key] for key in keys}


def _sets(content: Any, name: str = "") -> dict[str, Mapping | list]:
    """The dicts and lists of weights, by the keys that lead to them; without those of optimisers."""
    if isinstance(content, list):
        return {name: content} if content and all(map(_is_weight, content)) else {}
    if not isinstance(content, Mapping) or "param_groups" in content or name.count("/") > 3:
        return {}
    sets: dict[str, Mapping | list] = {}
    for key, value in content.items():
        sets |= _sets(value, f"{name}/{key}" if name else str(key))
    own = [str(key) for key, value in content.items() if _is_weight(value)]
    if not sets:
        return {name: content} if own else {}
    if not any("." in key or key.endswith(("weight", "bias")) for key in own):
        return sets  # beside, say, the mean of the images
    return {name or "(top level)": {key: value for key, value in content.items() if hasattr(value, "shape")}} | sets


def _is_weight(value: Any) -> bool:
    if not getattr(value, "shape", ()):
        return False
    return jnp.issubdtype(value.dtype, jnp.floating) if isinstance(value, np.ndarray) else value.is_floating_point()


def _numpy(path: Path, key: object, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value.astype(np.float32) if jnp.issubdtype(value.dtype, jnp.floating) else value
    try:
        value = value.detach()
        return (value.float() if value.is_floating_point() else value).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as e:
        raise InputError(f"{path}: {key} is no plain array (sparse, quantised or without data): {ANEW}") from e


def is_counter(key: str) -> bool:
    """Whether a key is that of a counter, of batch norm or of AveragedModel, which nothing reads in eval mode."""
    return key.rpartition(".")[2] in ("num_batches_tracked", "n_averaged")


def common(keys: Collection[str]) -> str:
    """The first word of all keys with its dot; "" if they differ in it."""
    first = {key.partition(".")[0] for key in keys}
    return f"{first.pop()}." if len(first) == 1 and all("." in key for key in keys) else ""


def mismatches(
    expected: Mapping[str, tuple[int, ...]],
    state: Mapping[str, np.ndarray],
    optional: Collection[str] = (),
    whole: Collection[str] = (),
) -> str:
    """What is wrong with the arrays of a file, as text; "" if nothing is.

    Args:
      expected: shape of each array, by key.
      state: the arrays of the file, by key.
      optional: keys that may be missing.
      whole: keys whose arrays hold whole numbers.
    """
    both, floats = [key for key in expected if key in state], jnp.floating
    lists = {
        "not of floating-point numbers": [
            f"{k} ({state[k].dtype})" for k in both if k not in whole and not jnp.issubdtype(state[k].dtype, floats)
        ],
        "missing": [key for key in expected if key not in state and key not in optional],
        "unknown": [key for key in state if key not in expected],
        "misshapen": [
            f"{key} is {np.shape(state[key])}, not {expected[key]}"
            for key in both
            if np.shape(state[key]) != expected[key]
        ],
    }
    return "; ".join(f"{problem}: {shown(sorted(keys))}" for problem, keys in lists.items() if keys)


def shown(items: Iterable[str], separator: str = ", ") -> str:
    """The first items as text, and the number of the others."""
    items = list(items)
    more = [f"{len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return separator.join(items[:SHOWN] + more)

"""Weights out of PyTorch's files, as NumPy arrays; safetensors without PyTorch, pickles with it, and never run."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from tppjax.errors import InputError

# Under one of these keys training scripts put the weights, beside the epoch, the optimiser's state and the like.
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The weights in `path`, by PyTorch's keys.

    Args:
      path: a safetensors file, or what `torch.save` wrote of a state dict or of a dict that holds one under one of
        `WRAPPERS`, whose other entries are left.

    Raises:
      FileNotFoundError: if there is no such file.
      InputError: if it is damaged, holds code or anything but weights, is neither kind, or PyTorch is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path.absolute()}")
    with path.open("rb") as f:
        start = f.read(9)
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return _arrays(path, _unpickled(path))
    if start[8:9] == b"{":
        return _safetensors(path)
    raise InputError(f"{path} is neither a safetensors file nor one that torch.save wrote")


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError) as e:
        raise InputError(f"{path} is not a whole safetensors file of float32, float64 or float16: {e}") from e


def _unpickled(path: Path):
    try:
        import torch
    except ImportError as e:
        raise InputError(
            f"{path} is a pickle of PyTorch's, which only PyTorch reads: pip install 'tppjax[torch]', or save the "
            "weights as safetensors where PyTorch is"
        ) from e
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise InputError(
            f"{path} is damaged, or holds code and not only weights, and is refused: where you trust it, save "
            "model.state_dict() from it anew"
        ) from e
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as e:
        raise InputError(f"{path} is damaged: {e}") from e


def _arrays(path: Path, content) -> dict[str, np.ndarray]:
    """The weights inside of what was pickled."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} holds no state dict, neither by itself nor under one of {', '.join(WRAPPERS)}")
    if others := [str(key) for key, value in content.items() if not hasattr(value, "numpy")]:
        raise InputError(f"{path} holds other things than weights: {', '.join(others[:8])}")
    return {str(key): _numpy(value) for key, value in content.items()}


def _numpy(tensor) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

"""PyTorch's arrays as our parameter trees, in our axis order; every key is used, or named in an error."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from convert.torch.layouts import State, threshold_name
from tppjax.checks import check_leaf
from tppjax.errors import InputError
from tppjax.models.vgg import VGG

Path = tuple[str, ...]  # of a leaf in our tree
Shape = tuple[int, ...]

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
SHOWN = 8  # keys of each kind in an error


def variables(model: nn.Module, names: dict[str, str], state: State, input_shape: Sequence[int]) -> dict[str, Any]:
    """The variables of `model`, each leaf from its key.

    Args:
      model: the model, with the activation to which the thresholds belong.
      names: `{our module: PyTorch's module}`.
      state: arrays by PyTorch's key.
      input_shape: shape of one image.

    Raises:
      InputError: if keys are missing, unknown, misshapen or of whole numbers, which are listed; or if a number is not
        finite, a variance negative, or a threshold not positive.
    """
    tree: Any = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *input_shape), jnp.float32))
    flat: Any = traverse_util.flatten_dict(tree)
    shapes: dict[Path, Shape] = {path: leaf.shape for path, leaf in flat.items()}
    defaults = _defaults(model, shapes, names, state)
    keys = {path: _key(path, names, state) for path in shapes if path not in defaults}
    _check_keys(keys, shapes, state)
    leaves = {path: _leaf(path, state[key], shapes[path], model, input_shape) for path, key in keys.items()} | defaults
    for path, leaf in leaves.items():
        check_leaf("/".join(path), leaf, keys.get(path, "bound"))
    return traverse_util.unflatten_dict(leaves)


def _defaults(model: Any, shapes: dict[Path, Shape], names: dict[str, str], state: State) -> dict[Path, np.ndarray]:
    """Leaves that need no key: the bound of a clipped ReLU, and biases if no convolution of the file has one."""
    convs = [names[_module(path)] for path in shapes if path[-1] == "kernel" and len(shapes[path]) == 4]
    unbiased = not any(f"{conv}.bias" in state for conv in convs)
    leaves: dict[Path, np.ndarray] = {}
    for path, shape in shapes.items():
        if path[-1] == "theta" and threshold_name(state) is None:
            leaves[path] = np.asarray(model.act.bound, np.float32)
        elif path[-1] == "bias" and unbiased and names[_module(path)] in convs:
            leaves[path] = np.zeros(shape, np.float32)
    return leaves


def _module(path: Path) -> str:
    return "/".join(path[1:-1])


def _key(path: Path, names: dict[str, str], state: State) -> str:
    leaf = threshold_name(state) if path[-1] == "theta" else LEAVES[path[-1]]
    return f"{names[_module(path)]}.{leaf}"


def _check_keys(keys: dict[Path, str], shapes: dict[Path, Shape], state: State) -> None:
    expected = {key: _torch_shape(path, shapes[path]) for path, key in keys.items()}
    lists = {
        "not of floating-point numbers": [
            f"{key} ({state[key].dtype})"
            for key in sorted(expected.keys() & state.keys())
            if not jnp.issubdtype(state[key].dtype, jnp.floating)
        ],
        "missing": sorted(expected.keys() - state.keys()),
        "unknown": sorted(state.keys() - expected.keys()),
        "misshapen": [
            f"{key} is {state[key].shape}, not {shape}"
            for key, shape in sorted(expected.items())
            if key in state and (state[key].shape or (1,)) != shape
        ],
    }
    if any(lists.values()):
        raise InputError("; ".join(f"{problem}: {_shown(entries)}" for problem, entries in lists.items() if entries))


def _shown(items: list[str]) -> str:
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def _torch_shape(path: Path, shape: Shape) -> Shape:
    if path[-1] == "theta":
        return (1,)
    return (shape[-1], shape[-2], *shape[:-2]) if path[-1] == "kernel" else shape


def _leaf(path: Path, array: np.ndarray, shape: Shape, model: nn.Module, input_shape: Sequence[int]) -> np.ndarray:
    """The array in our axis order; the layer after a flatten takes its inputs as [H, W, C], not [C, H, W]."""
    array = np.asarray(array, np.float32)
    if path[-1] == "kernel":
        if isinstance(model, VGG) and _module(path) == ("dense1" if model.hidden else "head"):
            height, width = (side // 2 ** len(model.stages) for side in input_shape[:2])
            array = array.reshape(-1, model.stages[-1][-1], height, width)
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
    return np.ascontiguousarray(array).reshape(shape)

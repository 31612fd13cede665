"""`import_state_dict`: networks of well-known repositories, from their weights alone, as an `Ann`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from convert.torch.files import mismatches
from convert.torch.images import preprocessing
from convert.torch.layouts import LAYOUTS, Numbers, Size, State, plain, recognise, threshold_name
from convert.torch.options import options
from tppjax import models
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.ann import Ann
from tppjax.checks import check_leaf
from tppjax.errors import InputError, refusing
from tppjax.models.vgg import VGG

Path = tuple[str, ...]  # of a leaf in our tree
Shape = tuple[int, ...]

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def import_state_dict(
    state: Mapping[str, Any],
    arch: str,
    layout: str | None = None,
    act: nn.Module | None = None,
    *,
    pool: str | None = None,
    dataset: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    size: Size | None = None,
) -> Ann:
    """The network whose weights `state` holds under PyTorch's keys.

    Args:
      state: arrays by key, in PyTorch's axis order.
      arch: one of `models.MODELS` of a kind that the layout has. Widths, number of classes and batch norm are those of
        the file.
      layout: one of `layouts.LAYOUTS`; by default the one that the keys identify.
      act: `QCFS(L=...)` or `ClippedReLU()` if the file has thresholds; `ReLU()`, the default, or
        `ClippedReLU(bound=...)` if it has none.
      pool: "avg", "max", or "none" for no pool behind a stem of 3x3; by default the pool of the layout, unless the keys
        determine another.
      dataset: name of the data set; by default one of the layout's data sets with as many classes.
      mean: mean of each channel, with pixels in [0, 1]; by default the layout's.
      std: standard deviation of each channel, with pixels in [0, 1]; by default the layout's.
      size: side of the images in pixels, or height and width; by default the data set's.

    Returns:
      The network; one with ReLU has no thresholds yet.

    Raises:
      InputError: if keys are missing, unknown or misshapen, which are listed; if a number is out of range; if neither
        the file nor an argument determines a setting; or if an argument has no effect.
    """
    weights = plain({key: np.atleast_1d(value) for key, value in state.items()})
    if empty := [key for key, value in weights.items() if value.size == 0]:
        raise InputError(f"the file has empty arrays: {', '.join(empty[:8])}")
    layout = recognise(weights, pool) if layout is None else layout
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    known = LAYOUTS[layout]
    if arch not in models.MODELS or models.MODELS[arch].func not in known.modules:
        kinds = [kind.__name__ for kind in known.modules]
        raise InputError(f"layout {layout} has {' and '.join(kinds)}; got {arch}: give another --arch or --layout")
    found = options(arch, known, weights, pool)
    model: Any = models.create(arch, act=_activation(act, threshold_name(weights)), **found)
    names = known.names(model, weights)
    channels = _channels(names, weights)
    statistics = known.statistics if channels == 3 else {}
    images = preprocessing(statistics, channels, model.num_classes, dataset, mean, std, size)
    if images.dataset == "imagenet2012":
        images = replace(images, interpolation=known.interpolation)
    with refusing(f"the file does not fit {arch} of layout {layout}", kinds=InputError):
        tree = _variables(model, names, weights, images.input_shape)
    if known.bgr:  # our images have red first
        stem = tree["params"]["conv_stem"]
        stem["kernel"] = stem["kernel"][:, :, ::-1].copy()
    return Ann(tree, model, images)


def _channels(names: dict[str, str], state: State) -> int:
    """The number of input channels, from the first convolution; 3 if it is missing in the file."""
    stem = next(names[name] for name in ("conv_stem1", "conv_stem", "conv1_1") if name in names)
    weight = state.get(f"{stem}.weight")
    return weight.shape[1] if weight is not None and weight.ndim == 4 else 3


def _activation(act: nn.Module | None, learned: str | None) -> nn.Module:
    if learned and not isinstance(act, QCFS | ClippedReLU):
        raise InputError(
            f"the file has learned thresholds (.{learned}): give act=QCFS(L=...), whose number of levels is not in it, "
            f"or ClippedReLU(); got {act}"
        )
    if not learned and isinstance(act, QCFS):
        raise InputError("the file has no thresholds for qcfs: import it with relu, then calibrate or fine-tune it")
    return ReLU() if act is None else act


def _variables(model: nn.Module, names: dict[str, str], state: State, input_shape: Sequence[int]) -> dict[str, Any]:
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
    if problems := mismatches({key: _torch_shape(path, shapes[path]) for path, key in keys.items()}, state):
        raise InputError(problems)
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

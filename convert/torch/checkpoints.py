"""`import_state_dict`: networks of well-known repositories, from their weights alone, as an `Ann`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn
import numpy as np

from convert.torch.images import preprocessing
from convert.torch.layouts import LAYOUTS, Layout, Numbers, Size, State, plain, recognise, threshold_name
from convert.torch.options import options
from convert.torch.variables import variables
from tppjax import models
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.ann import Ann
from tppjax.errors import InputError


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
    weights = plain({key: np.asarray(value) for key, value in state.items()})
    if empty := [key for key, value in weights.items() if value.size == 0]:
        raise InputError(f"the file has empty arrays: {', '.join(empty[:8])}")
    layout = recognise(weights, pool) if layout is None else layout
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    known = LAYOUTS[layout]
    if arch not in models.MODELS or models.MODELS[arch].func not in known.modules:
        kinds = [kind.__name__ for kind in known.modules]
        raise InputError(f"layout {layout} has {' and '.join(kinds)}; got {arch}: give another --arch or --layout")
    model = _model(arch, known, weights, act, pool)
    names = known.names(model, weights)
    channels = _channels(names, weights)
    statistics = known.statistics if channels == 3 else {}
    images = preprocessing(statistics, channels, model.num_classes, dataset, mean, std, size)
    if images.dataset == "imagenet2012":
        images = replace(images, interpolation=known.interpolation)
    try:
        tree = variables(model, names, weights, images.input_shape)
    except InputError as e:
        raise InputError(f"the file does not fit {arch} of layout {layout}: {e}") from e
    if known.bgr:  # our images have red first
        stem = tree["params"]["conv_stem"]
        stem["kernel"] = stem["kernel"][:, :, ::-1].copy()
    return Ann(tree, model, images)


def _model(arch: str, layout: Layout, state: State, act: nn.Module | None, pool: str | None) -> Any:
    """The module of the network in a file."""
    known = options(arch, layout, state, pool)
    return models.create(arch, act=_activation(act, threshold_name(state)), **known)


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

"""`import_state_dict`: networks of well-known repositories, from their weights alone, as an `Ann`."""

from dataclasses import replace

import flax.linen as nn
import numpy as np

from convert.torch.images import preprocessing
from convert.torch.layouts import LAYOUTS, State, plain, recognise, threshold_name
from convert.torch.options import options
from convert.torch.variables import variables
from tppjax import models
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.ann import Ann
from tppjax.errors import InputError


def import_state_dict(
    state: State,
    arch: str,
    layout: str | None = None,
    act: nn.Module | None = None,
    *,
    pool: str | None = None,
    dataset: str | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    size: int | None = None,
) -> Ann:
    """The network whose weights `state` holds under PyTorch's keys.

    Args:
      state: arrays by key, in PyTorch's axis order.
      arch: one of `models.MODELS` of a kind that the layout has. Widths, number of classes and batch norm are the
        file's.
      layout: one of `layouts.LAYOUTS`; by default the one that the keys tell.
      act: `QCFS(L=...)` or `ClippedReLU()` if the file has thresholds; `ReLU()`, the default, or
        `ClippedReLU(bound=...)` if it has none.
      pool: "avg", "max", or "none" for no pool behind a stem of 3x3; by default what the keys and the layout tell.
      dataset: name of the data set; by default the one of the layout's with as many classes.
      mean: of each channel, with pixels in [0, 1]; by default the layout's.
      std: likewise.
      size: side of the images in pixels; by default the data set's.

    Returns:
      The network; one with ReLU has no thresholds yet.

    Raises:
      InputError: if keys are missing, unknown or misshapen (lists them), a number is out of its range, or something is
        neither told by the file nor by an argument, or an argument has no effect.
    """
    state = plain({key: np.asarray(value) for key, value in state.items()})
    if empty := [key for key, value in state.items() if value.size == 0]:
        raise InputError(f"the file has empty arrays: {', '.join(empty[:8])}")
    layout = recognise(state, pool) if layout is None else layout
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    known = LAYOUTS[layout]
    if arch not in models.MODELS or models.MODELS[arch].func not in known.modules:
        kinds = [kind.__name__ for kind in known.modules]
        raise InputError(f"layout {layout} has {' and '.join(kinds)}; got {arch}: give another --arch or --layout")
    told = options(arch, known, state, pool)
    model = models.create(arch, act=_activation(act, threshold_name(state)), **told)
    names = known.names(model, state)
    stem = next(names[name] for name in ("conv_stem1", "conv_stem", "conv1_1") if name in names)
    channels = weight.shape[1] if np.ndim(weight := state.get(f"{stem}.weight")) == 4 else 3
    statistics = known.statistics if channels == 3 else {}
    images = preprocessing(statistics, channels, model.num_classes, dataset, mean, std, size)
    if images.dataset == "imagenet2012":
        images = replace(images, interpolation=known.interpolation)
    try:
        found = variables(model, names, state, images.input_shape)
    except InputError as e:
        raise InputError(f"the file does not fit {arch} of layout {layout}: {e}") from e
    if known.bgr:  # our images have red first
        stem = found["params"]["conv_stem"]
        stem["kernel"] = stem["kernel"][:, :, ::-1].copy()
    return Ann(found, model, images)


def _activation(act: nn.Module | None, learned: str | None) -> nn.Module:
    if learned and not isinstance(act, QCFS | ClippedReLU):
        raise InputError(
            f"the file has learned thresholds (.{learned}): give act=QCFS(L=...), whose number of levels is not in it, "
            f"or ClippedReLU(); got {act}"
        )
    if not learned and isinstance(act, QCFS):
        raise InputError("the file has no thresholds for qcfs: import it with relu, then calibrate or fine-tune it")
    return ReLU() if act is None else act

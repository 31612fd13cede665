"""What a file of PyTorch's tells of its network besides the weights: options of `models.create`."""

import numpy as np

from convert.torch_layouts import Layout, State, threshold_name
from tppjax import models
from tppjax.activations import ReLU
from tppjax.models.regnet import RegNet
from tppjax.models.resnet import ResNet
from tppjax.models.vgg import VGG


def options(arch: str, layout: Layout, state: State) -> dict:
    """Options of `models.create(arch, ...)`, `num_classes` among them.

    What the keys can't tell is the layout's; a module that the file lacks keeps its usual width, and is reported with
    all else that is missing when the weights are read.
    """
    norm = any(key.endswith(".running_mean") for key in state)
    family = models.MODELS[arch].func
    draft = {"norm": norm, **DRAFTS[family](layout, state, norm)}
    model = models.create(arch, 1, ReLU(), **draft)
    names = layout.names(model, state)
    return draft | WIDTHS[family](model, layout, names, state) | {"num_classes": _rows(state, names["head"], 1)}


def _vgg_draft(layout, state, norm):
    # The only network that QCFS's new repository trains with max-pooling is the one without batch norm.
    pool = "max" if not norm and threshold_name(state) == "thresh" else layout.pool
    return {"pool": pool, "hidden": layout.hidden}


def _resnet_draft(layout, state, norm):
    return {"pool": layout.pool, "stem": "deep" if "conv1.3.weight" in state else "cifar"}


def _vgg_widths(model, layout, names, state):
    stages = enumerate(model.stages, 1)
    convs = (
        tuple(_rows(state, names[f"conv{i}_{j}"], width) for j, width in enumerate(stage, 1)) for i, stage in stages
    )
    hidden = (_rows(state, names[f"dense{i}"], width) for i, width in enumerate(model.hidden, 1))
    return {"stages": tuple(convs), "hidden": tuple(hidden)}


def _resnet_widths(model, layout, names, state):
    stem = state.get(f"{names['conv_stem']}.weight", np.empty((model.channels, 3, 3, 3)))
    channels = stem.shape[0]
    width = {"width": channels // model.channels} if channels % model.channels == 0 else {"channels": channels}
    projections = any(".shortcut." in key or ".downsample." in key for key in state)
    return {
        **width,
        "stem": "imagenet" if stem.shape[-1] == 7 else model.stem,
        "shortcut": "projection" if projections else layout.shortcut,
    }


def _regnet_widths(model, layout, names, state):
    widths = (_rows(state, names[f"stage{i}_block1/conv3"], width) for i, width in enumerate(model.widths, 1))
    grouped = state.get(f"{names['stage1_block1/conv2']}.weight", np.empty((1, model.group, 3, 3)))
    return {"widths": tuple(widths), "group": grouped.shape[1], "stem": _rows(state, names["conv_stem"], model.stem)}


def _rows(state: State, module: str, default: int) -> int:
    """Outputs of a module of PyTorch's; the default if it is missing."""
    weight = state.get(f"{module}.weight", np.empty(0))
    return weight.shape[0] if weight.ndim > 1 else default


DRAFTS = {VGG: _vgg_draft, ResNet: _resnet_draft, RegNet: lambda layout, state, norm: {}}
WIDTHS = {VGG: _vgg_widths, ResNet: _resnet_widths, RegNet: _regnet_widths}

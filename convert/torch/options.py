"""Options of `models.create` for the network in a file of PyTorch, from the keys and shapes of its weights."""

from typing import Any

import numpy as np

from convert.torch.layouts import Layout, State, threshold_name
from tppjax import models
from tppjax.activations import ReLU
from tppjax.errors import InputError
from tppjax.models.regnet import RegNet
from tppjax.models.resnet import ResNet
from tppjax.models.vgg import VGG

Options = dict[str, Any]


def options(arch: str, layout: Layout, state: State, pool: str | None) -> Options:
    """Options of `models.create(arch, ...)`, with `num_classes`.

    Where the keys do not determine the pool, it is `pool` or the layout's. A module that is missing in the file keeps
    its usual width, and is reported with all other missing ones when the weights are read.

    Raises:
      InputError: if there is no last layer, the pool can't be determined, or the network does not have such a `pool`.
    """
    norm = any(key.endswith(".running_mean") for key in state)
    family = models.MODELS[arch].func
    draft = {"norm": norm, **DRAFTS[family](layout, state)}
    model = models.create(arch, 1, ReLU(), **draft)
    names = layout.names(model, state)
    head = f"{names['head']}.weight"
    if head not in state or np.ndim(state[head]) != 2:
        similar = [key for key, value in state.items() if np.ndim(value) == 2]
        raise InputError(
            f"the last layer is called {head} in this layout, and the file has none; "
            + (f"similar keys: {', '.join(similar[-3:])}; rename one" if similar else "no key is similar")
            + ", or import the network with its code, --module"
        )
    known = draft | POOLS[family](layout, state, draft, pool) | WIDTHS[family](model, names, state)
    return known | {"num_classes": len(state[head])}


def _vgg_draft(layout: Layout, state: State) -> Options:
    return {"hidden": (4096, 4096) if "classifier.6.weight" in state else layout.hidden}


def _resnet_draft(layout: Layout, state: State) -> Options:
    conv = state.get("conv1.weight", state.get("conv1.0.weight"))
    small = "imagenet" if conv is not None and np.ndim(conv) == 4 and conv.shape[-1] == 7 else "cifar"
    projections = any(".shortcut." in key or ".downsample." in key for key in state)
    shortcut = "projection" if projections else layout.shortcut
    return {"stem": "deep" if "conv1.3.weight" in state else small, "shortcut": shortcut}


def _vgg_pool(layout: Layout, state: State, draft: Options, pool: str | None) -> Options:
    threshold = threshold_name(state)
    if pool is None and threshold is None and "layer1.0.weight" in state:
        raise InputError(
            "VGG-16 has max-pooling in QCFS's Models/VGG.py, and average pooling where its main.py trains it: give "
            "--pool max or --pool avg"
        )
    # QCFS's new repository has one network without batch norm, with max-pooling; the old one replaces all pools.
    return {"pool": pool or ("max" if threshold == "thresh" and not draft["norm"] else layout.pool)}


def _resnet_pool(layout: Layout, state: State, draft: Options, pool: str | None) -> Options:
    if draft["stem"] != "cifar":
        return {"pool": pool or layout.stem_pool}
    if pool not in (None, "none"):
        raise InputError(
            f"--pool {pool} has no place: our ResNets pool behind the stems for ImageNet, and this one's is 3x3; if "
            "it has a pool there, import it with its code, --module; without one leave --pool out or give --pool none"
        )
    if pool is None and layout.stem_pool == "max":
        raise InputError(
            "a ResNet with these keys and a stem of 3x3 has a max-pool behind it in huyvnphan/PyTorch_CIFAR10, and in "
            "other repositories none: if this one has none, give --pool none; else import it with its code, --module"
        )
    return {}


def _regnet_pool(layout: Layout, state: State, draft: Options, pool: str | None) -> Options:
    if pool is not None:
        raise InputError(f"RegNet has no pool: --pool {pool} would have no effect; leave it out")
    return {}


def _vgg_widths(model: VGG, names: dict[str, str], state: State) -> Options:
    stages = enumerate(model.stages, 1)
    convs = (
        tuple(_size(state, names[f"conv{i}_{j}"], width) for j, width in enumerate(stage, 1)) for i, stage in stages
    )
    hidden = (_size(state, names[f"dense{i}"], width) for i, width in enumerate(model.hidden, 1))
    return {"stages": tuple(convs), "hidden": tuple(hidden)}


def _resnet_widths(model: ResNet, names: dict[str, str], state: State) -> Options:
    channels = _size(state, names["conv_stem"], model.channels)
    return {"width": channels // model.channels} if channels % model.channels == 0 else {"channels": channels}


def _regnet_widths(model: RegNet, names: dict[str, str], state: State) -> Options:
    widths = (_size(state, names[f"stage{i}_block1/conv3"], width) for i, width in enumerate(model.widths, 1))
    group = _size(state, names["stage1_block1/conv2"], model.group, axis=1)
    return {"widths": tuple(widths), "group": group, "stem": _size(state, names["conv_stem"], model.stem)}


def _size(state: State, module: str, default: int, axis: int = 0) -> int:
    """The number of outputs of a PyTorch module, or of inputs for axis 1; the default if the module is missing."""
    weight = state.get(f"{module}.weight")
    return weight.shape[axis] if weight is not None and np.ndim(weight) > 1 else default


DRAFTS = {VGG: _vgg_draft, ResNet: _resnet_draft, RegNet: lambda layout, state: {}}
POOLS = {VGG: _vgg_pool, ResNet: _resnet_pool, RegNet: _regnet_pool}
WIDTHS = {VGG: _vgg_widths, ResNet: _resnet_widths, RegNet: _regnet_widths}

"""Layouts: the names that public PyTorch repositories give to the parts of their networks, and their normalisation.

A layout maps the modules of one of our models to PyTorch's, path to path; all else follows from our parameter tree. It
is named after the repository's owner, the method or the library: akamaster (pytorch_resnet_cifar10), kuangliu
(pytorch-cifar), pycls, qcfs (Bu et al., old and new repository), snnc (Li et al.), timm, torchvision. Other
repositories share their keys: bearpaw/pytorch-classification has kuangliu's for VGG-16 and SNNC's for ResNets,
chenyaofo/pytorch-cifar-models torchvision's for VGG-16 and SNNC's for ResNets, huyvnphan/PyTorch_CIFAR10 torchvision's,
weiaicunzai/pytorch-cifar100 torchvision's for VGG-16 and QCFS's for ResNets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import numpy as np

from convert.torch.files import common, is_counter
from tppjax import data
from tppjax.errors import InputError
from tppjax.models.regnet import RegNet
from tppjax.models.resnet import ResNet
from tppjax.models.vgg import VGG

State = Mapping[str, np.ndarray]
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel
Numbers = Sequence[float] | np.ndarray  # one for each channel
Size = int | np.integer | tuple[int | np.integer, ...]  # a side of an image, or height and width
Model = Any  # a module of ours, of the class that the function is for

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR = {name: (data.info(name).mean, data.info(name).std) for name in ("cifar10", "cifar100")}
QCFS_CIFAR100: Statistics = ((129.3 / 255, 124.1 / 255, 112.4 / 255), (68.2 / 255, 65.4 / 255, 70.4 / 255))


@dataclass(frozen=True)
class Layout:
    """The layout of one repository.

    Attributes:
      modules: for each class of our models, the function from a model and the state of a file to
        `{our module: PyTorch's module}`.
      statistics: mean and standard deviation of its authors' normalisation, by data set; red first.
      hidden: widths of the dense layers before the last one of its VGG.
      shortcut: kind of shortcut in its ResNet, for files without weights of shortcuts.
      pool: pooling of its VGG, "avg" or "max".
      stem_pool: pooling behind a stem for ImageNet, "avg" or "max".
      interpolation: interpolation that brings pictures to size.
      bgr: whether its images have blue first and red last.
    """

    modules: dict[type[nn.Module], Callable[[Model, State], dict[str, str]]]
    statistics: dict[str, Statistics]
    hidden: tuple[int, ...] = (4096, 4096)
    shortcut: str = "projection"
    pool: str = "avg"
    stem_pool: str = "avg"
    interpolation: str = "bilinear"
    bgr: bool = False

    def names(self, model: nn.Module, state: State) -> dict[str, str]:
        """`{our module: PyTorch's module}`, perhaps with modules that the model does not have."""
        return self.modules[type(model)](model, state)


def plain(state: State) -> State:
    """The state without the prefixes of wrappers, and without counters."""
    inner = state = {key: value for key, value in state.items() if not is_counter(key)}
    while inner.keys().isdisjoint(MARKS):
        if not (prefix := common(inner)):
            return state
        inner = {key.removeprefix(prefix): value for key, value in inner.items()}
    return inner


def recognise(state: State, pool: str | None = None) -> str:
    """The layout that a key of the file identifies, together with `pool` where layouts of VGG-16 share their keys.

    Raises:
      InputError: if no key does, or several layouts fit.
    """
    for key, layout in MARKS.items():
        if key in state and isinstance(layout, str):
            return layout
        if key in state and isinstance(layout, dict):
            if pool is not None and pool in layout:
                return layout[pool]
            known = ", ".join(f"--pool {pool} if it is {VGG_OF[layout]}" for pool, layout in layout.items())
            raise InputError(f"VGG-16 has the same keys in repositories that pool differently: give {known}")
    if not state:
        raise InputError("the file holds no weights")
    raise InputError(
        f"no known layout has these keys: {', '.join(list(state)[:5])}, ...; if it is one of {', '.join(LAYOUTS)}, say "
        "which with --layout; else import the network with its code, --module"
    )


def threshold_name(state: State) -> str | None:
    """The name of thresholds in the file: "up" in QCFS's old repository, "thresh" in the new one; None without any."""
    return next((name for name in ("up", "thresh") if any(key.endswith(f".{name}") for key in state)), None)


def _blocks(model: ResNet | RegNet, block: Callable[[int, int], str], inside: dict[str, str]) -> dict[str, str]:
    """The modules inside of all blocks; `block(i, j)` is the name of block j of stage i in PyTorch, j from 0."""
    return {
        f"stage{i}_block{j + 1}/{ours}": f"{block(i, j)}.{theirs}"
        for i, blocks in enumerate(model.blocks, 1)
        for j in range(blocks)
        for ours, theirs in inside.items()
    }


def _akamaster(model: ResNet, state: State) -> dict[str, str]:
    outside = {"conv_stem": "conv1", "norm_stem": "bn1", "head": "linear"}
    return outside | _blocks(model, "layer{}.{}".format, _block("shortcut"))


def _torchvision_resnet(model: ResNet, state: State) -> dict[str, str]:
    """Also SNNC's, whose stem for ImageNet has three convolutions in `conv1`."""
    deep = {"conv_stem1": "conv1.0", "norm_stem1": "conv1.1", "conv_stem2": "conv1.3", "norm_stem2": "conv1.4"}
    stem = deep | {"conv_stem": "conv1.6"} if model.stem == "deep" else {"conv_stem": "conv1"}
    outside = stem | {"norm_stem": "bn1", "head": "fc"}
    return outside | _blocks(model, "layer{}.{}".format, _block("downsample"))


def _block(shortcut: str) -> dict[str, str]:
    convs = {"conv1": "conv1", "norm1": "bn1", "conv2": "conv2", "norm2": "bn2"}
    return convs | {"conv_shortcut": f"{shortcut}.0", "norm_shortcut": f"{shortcut}.1"}


def _qcfs_resnet(model: ResNet, state: State) -> dict[str, str]:
    outside = {"conv_stem": "conv1.0", "norm_stem": "conv1.1", "act_stem": "conv1.2", "head": "fc"}
    branch = {ours: f"residual_function.{i}" for i, ours in enumerate(("conv1", "norm1", "act1", "conv2", "norm2"))}
    shortcut = {"conv_shortcut": "shortcut.0", "norm_shortcut": "shortcut.1"}
    last = {"act2": "relu" if threshold_name(state) == "up" else "act"}
    return outside | _blocks(model, lambda i, j: f"conv{i + 1}_x.{j}", branch | shortcut | last)


def _regnet(model: RegNet, inside: dict[str, str]) -> dict[str, str]:
    ends = {"conv_stem": "stem.conv", "norm_stem": "stem.bn", "head": "head.fc"}
    return ends | _blocks(model, lambda i, j: f"s{i}.b{j + 1}", inside)


def _timm(model: RegNet, state: State) -> dict[str, str]:
    parts = {"1": "conv1", "2": "conv2", "3": "conv3", "_shortcut": "downsample"}
    convs = {f"conv{ours}": f"{theirs}.conv" for ours, theirs in parts.items()}
    norms = {f"norm{ours}": f"{theirs}.bn" for ours, theirs in parts.items()}
    return _regnet(model, convs | norms)


def _pycls(model: RegNet, state: State) -> dict[str, str]:
    branch = {"conv1": "f.a", "norm1": "f.a_bn", "conv2": "f.b", "norm2": "f.b_bn", "conv3": "f.c", "norm3": "f.c_bn"}
    return _regnet(model, branch | {"conv_shortcut": "proj", "norm_shortcut": "bn"})


def _sequence(model: VGG, step: int, pool: int) -> dict[str, int]:
    """The index of each module in one sequence with `step` modules per convolution and `pool` at a stage's end."""
    indices, at = {}, 0
    for i, channels in enumerate(model.stages, 1):
        for j, _ in enumerate(channels, 1):
            norm = {f"norm{i}_{j}": at + 1} if model.norm else {}
            indices |= {f"conv{i}_{j}": at, **norm, f"act{i}_{j}": at + 1 + model.norm}
            at += step
        at += pool
    return indices


def _classifier(model: VGG, first: int) -> dict[str, str]:
    """Dense layers at every third index, each followed by its activation and dropout."""
    names = {}
    for i, _ in enumerate(model.hidden):
        at = first + 3 * i
        names |= {f"dense{i + 1}": f"classifier.{at}", f"act_dense{i + 1}": f"classifier.{at + 1}"}
    return names | {"head": f"classifier.{first + 3 * len(model.hidden)}"}


def _torchvision_vgg(model: VGG, state: State) -> dict[str, str]:
    indices = _sequence(model, step=2 + model.norm, pool=1)
    return {ours: f"features.{index}" for ours, index in indices.items()} | _classifier(model, 0)


def _snnc_vgg(model: VGG, state: State) -> dict[str, str]:
    """Without batch norm, dropout takes its place; the network for ImageNet is torchvision's except for the pool."""
    if model.hidden:
        return _torchvision_vgg(model, state)
    indices = _sequence(model, step=3, pool=1)
    return {ours: f"features.{index}" for ours, index in indices.items()} | {"head": "classifier"}


def _qcfs_vgg(model: VGG, state: State) -> dict[str, str]:
    """A sequence for each stage, in which dropout follows the activation."""
    names = {}
    for i, channels in enumerate(model.stages, 1):
        indices = _sequence(model.clone(stages=(channels,)), step=3 + model.norm, pool=1)
        names |= {ours.replace("1_", f"{i}_", 1): f"layer{i}.{index}" for ours, index in indices.items()}
    return names | _classifier(model, 1)


LAYOUTS = {
    "akamaster": Layout({ResNet: _akamaster}, {"cifar10": IMAGENET, "cifar100": IMAGENET}, shortcut="pad"),
    "kuangliu": Layout({ResNet: _akamaster, VGG: _snnc_vgg}, {"cifar10": CIFAR["cifar10"]}, hidden=(), pool="max"),
    "pycls": Layout({RegNet: _pycls}, {"imagenet2012": IMAGENET}, bgr=True),
    "qcfs": Layout(
        {ResNet: _qcfs_resnet, VGG: _qcfs_vgg},
        {"cifar10": CIFAR["cifar10"], "cifar100": QCFS_CIFAR100, "imagenet2012": IMAGENET},
    ),
    "snnc": Layout({ResNet: _torchvision_resnet, VGG: _snnc_vgg}, {**CIFAR, "imagenet2012": IMAGENET}, hidden=()),
    "timm": Layout({RegNet: _timm}, {"imagenet2012": IMAGENET}, interpolation="bicubic"),
    "torchvision": Layout(
        {ResNet: _torchvision_resnet, VGG: _torchvision_vgg}, {"imagenet2012": IMAGENET}, pool="max", stem_pool="max"
    ),
}
VGG_OF = {
    "kuangliu": "kuangliu/pytorch-cifar's or bearpaw/pytorch-classification's",
    "snnc": "SNNC's (Li et al.)",
    "torchvision": "torchvision's, chenyaofo/pytorch-cifar-models's or huyvnphan/PyTorch_CIFAR10's",
}

# From a key of the file to its layout, or to a layout for each pool; the first key in the file decides.
MARKS: dict[str, str | dict[str, str]] = {
    "conv2_x.0.residual_function.0.weight": "qcfs",
    "layer1.0.weight": "qcfs",
    "s1.b1.conv1.conv.weight": "timm",
    "s1.b1.f.a.weight": "pycls",
    "layer4.0.shortcut.0.weight": "kuangliu",
    "linear.weight": "akamaster",
    "classifier.weight": {"avg": "snnc", "max": "kuangliu"},
    "classifier.6.weight": {"avg": "snnc", "max": "torchvision"},
    "conv1.3.weight": "snnc",
    "layer4.0.conv1.weight": "torchvision",
    "layer1.0.conv1.weight": "snnc",
}

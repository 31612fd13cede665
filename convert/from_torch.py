"""`python -m convert.from_torch`: networks trained with PyTorch by well-known repositories, as an `Ann`.

python -m convert.from_torch resnet20.th --arch resnet20 --out nets/resnet20
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import flax.linen as nn
import jax
import numpy as np
import tyro

from convert import torch_files, torch_variables
from convert.torch_layouts import LAYOUTS, Layout, State, plain, recognise, threshold_name
from convert.torch_options import options
from tppjax import ann, cli, data, models
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.ann import Ann
from tppjax.data import Preprocessing
from tppjax.errors import InputError

# Pixels a side and number of classes of the data sets that the layouts know.
SIZES = {"cifar10": (32, 10), "cifar100": (32, 100), "imagenet2012": (224, 1000)}
LARGEST = 2**14  # pixels a side


@dataclass(frozen=True)
class FromTorch:
    """Import a network trained with PyTorch.

    Layouts, with the networks of their authors and how images are normalised unless you say otherwise:

    - akamaster (pytorch_resnet_cifar10): resnet20 to resnet56; ImageNet's mean and std on CIFAR;
    - kuangliu (pytorch-cifar): resnet18, resnet34, vgg16; CIFAR-10's own mean and std;
    - qcfs (Bu et al., old and new repository; learned thresholds): vgg16, resnet18, 20, 34; CIFAR's own mean and std;
    - snnc (Li et al.): vgg16, resnet20, resnet32, resnet34 with a deep stem; CIFAR's own mean and std. The ResNets of
      chenyaofo (pytorch-cifar-models) and bearpaw (pytorch-classification) have the same names;
    - torchvision: vgg16 (with and without batch norm), resnet18, resnet34; ImageNet's mean and std;
    - timm (regnetx_040), pycls (RegNetX-4.0GF): regnetx_4gf; ImageNet's mean and std. pycls's images have blue first:
      its stem is turned round, so that the network takes red first, as all others.

    CIFAR-10's own are (0.4914, 0.4822, 0.4465) and (0.2023, 0.1994, 0.2010), ImageNet's (0.485, 0.456, 0.406) and
    (0.229, 0.224, 0.225).
    """

    weights: tyro.conf.Positional[Path]
    """File of the weights: .safetensors, or .pth, .pt, .th and the like (these need PyTorch: tppjax[torch])."""

    arch: Literal["vgg16", "resnet20", "resnet32", "resnet44", "resnet56", "resnet18", "resnet34", "regnetx_4gf"]
    """Network."""

    out: Path
    """Folder for it; the network goes to OUT/ann, and replaces one that was imported there before."""

    entry: str | None = None
    """Which weights, where the file holds several sets, such as state_dict_ema."""

    layout: Literal["akamaster", "kuangliu", "pycls", "qcfs", "snnc", "timm", "torchvision"] | None = None
    """Whose names the file has [default: what its keys tell]."""

    act: Literal["relu", "clipped_relu", "qcfs"] | None = None
    """Activation it was trained with [default: qcfs if the file has thresholds, else relu]."""

    L: int | None = None
    """Levels of qcfs above 0, which the file doesn't tell; QCFS's authors: 8 for ResNets, 4 or 16 for VGG-16."""

    bound: float | None = None
    """Where clipped_relu saturates, if the file has no thresholds."""

    pool: Literal["avg", "max", "none"] | None = None
    """Pooling of vgg16 and of stems for ImageNet, or none behind a stem of 3x3; asked for where a file can't tell
    [default: the layout's]."""

    dataset: str | None = None
    """Data set: cifar10, cifar100, imagenet2012 or a name of yours [default: by the number of classes]."""

    mean: tuple[float, ...] | None = None
    """Mean of each channel, with pixels in [0, 1] [default: the layout's]."""

    std: tuple[float, ...] | None = None
    """Standard deviation of each channel [default: the layout's]."""

    size: int | None = None
    """Side of the images in pixels [default: the data set's]."""


def main(config: FromTorch) -> Ann:
    """Imports, saves, and says what was taken for granted.

    Raises:
      InputError, FileNotFoundError, FileExistsError: if the file or the options don't fit; says how.
    """
    if (config.out / "config.json").exists():
        raise FileExistsError(
            f"{config.out} holds a training run, whose network this would replace: choose another --out"
        )
    nearest = next(folder for folder in (config.out.absolute(), *config.out.absolute().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise InputError(f"--out {config.out} can't be made, since {nearest} is no folder that can be written to")
    state = torch_files.read(config.weights, config.entry)
    act = _chosen(config, threshold_name(state))
    chosen = {name: getattr(config, name) for name in ("layout", "pool", "dataset", "mean", "std", "size")}
    network = import_state_dict(state, config.arch, act=act, **chosen)
    layout = recognise(plain(state), config.pool) if config.layout is None else config.layout
    source = config.weights.name + (f" ({config.entry})" if config.entry else "")
    network = network.replace(history=(f"imported from {source}: {config.arch} of layout {layout}",))
    ann.save(network, config.out / "ann")
    print(_summary(config, network, layout))
    return network


def _summary(config: FromTorch, network: Ann, layout: str) -> str:
    images, size = network.preprocessing, sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
    act = network.model.act
    pools = hasattr(network.model, "pool") and getattr(network.model, "stem", None) != "cifar"
    open_to_choice = ("layout", *(["pool"] if pools else []), "dataset", "mean", "std", "size")
    assumed = [f"--{name}" for name in open_to_choice if getattr(config, name) is None]
    return (
        f"imported {config.weights}: {config.arch} of layout {layout}, {size:,} parameters, "
        f"{type(act).__name__}{f' with L={act.L}' if isinstance(act, QCFS) else ''}"
        f"{f', {network.model.pool}-pooling' if pools else ''}\n"
        f"images: {images.dataset}, {images.input_shape}, mean {images.mean}, std {images.std}\n"
        + (f"told by the keys and the layout, and yours to change: {', '.join(assumed)}\n" if assumed else "")
        + f"wrote {config.out}"
    )


def _chosen(config: FromTorch, learned: str | None) -> nn.Module:
    """The activation that the options ask for; `learned` is what thresholds are called in the file, None if none."""
    name = config.act or ("qcfs" if learned else "relu")
    if (config.L is None) == (name == "qcfs"):
        raise InputError(
            f"--L, the number of levels, is not in the file: give it for qcfs, and only then; act is {name}"
        )
    if (config.bound is None) == (name == "clipped_relu" and not learned):
        raise InputError(f"give --bound for clipped_relu without thresholds in the file, and only then; act is {name}")
    if name == "qcfs":
        return QCFS(L=config.L)
    return ReLU() if name == "relu" else ClippedReLU(**({} if config.bound is None else {"bound": config.bound}))


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
      layout: one of `torch_layouts.LAYOUTS`; by default the one that the keys tell.
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
    found = options(arch, known, state, pool)
    model = models.create(arch, act=_activation(act, threshold_name(state)), **found)
    names = known.names(model, state)
    stem = next(names[name] for name in ("conv_stem1", "conv_stem", "conv1_1") if name in names)
    channels = weight.shape[1] if np.ndim(weight := state.get(f"{stem}.weight")) == 4 else 3
    preprocessing = _preprocessing(known, model.num_classes, channels, dataset, mean, std, size)
    try:
        variables = torch_variables.variables(model, names, state, preprocessing.input_shape)
    except InputError as e:
        raise InputError(f"the file does not fit {arch} of layout {layout}: {e}") from e
    if known.bgr:  # our images have red first
        stem = variables["params"]["conv_stem"]
        stem["kernel"] = stem["kernel"][:, :, ::-1].copy()
    return Ann(variables, model, preprocessing)


def _activation(act: nn.Module | None, learned: str | None) -> nn.Module:
    if learned and not isinstance(act, QCFS | ClippedReLU):
        raise InputError(
            f"the file has learned thresholds (.{learned}): give act=QCFS(L=...), whose number of levels is not in it, "
            f"or ClippedReLU(); got {act}"
        )
    if not learned and isinstance(act, QCFS):
        raise InputError("the file has no thresholds for qcfs: import it with relu, then calibrate or fine-tune it")
    return ReLU() if act is None else act


def _preprocessing(layout: Layout, classes: int, channels: int, dataset, mean, std, size) -> Preprocessing:
    """What was said of the images, and the rest from the layout's authors and the data set, if these have colours."""
    statistics = layout.statistics if channels == 3 else {}
    fitting = [name for name in statistics if SIZES[name][1] == classes]
    dataset = fitting[0] if dataset is None and fitting else dataset
    defaults = statistics.get(dataset, (None, None))
    mean, std = defaults[0] if mean is None else mean, defaults[1] if std is None else std
    side, expected = SIZES.get(dataset, (None, classes))
    size = side if size is None else size
    each = "one number each" if channels == 1 else f"{channels} numbers each"
    needed = {"dataset": dataset or None, "mean": mean, "std": std, "size": size}
    if lacking := [name for name, value in needed.items() if value is None]:
        raise InputError(
            f"nothing tells how images with {classes} classes and {channels} channel{'s' * (channels != 1)} are "
            f"prepared for this network: give --{' and --'.join(lacking)}; mean and std have {each}"
        )
    if not (isinstance(size, int | np.integer) and 1 <= size <= LARGEST):
        raise InputError(f"--size is a whole number of pixels from 1 to {LARGEST}; got {size}")
    if expected != classes:
        raise InputError(f"the file has {classes} classes, {dataset} {expected}; give another --dataset")
    given = np.shape(mean) == np.shape(std) == (channels,) and np.asarray((mean, std)).dtype.kind in "fi"
    if not given or not all(0 <= m <= 1 and 0 < np.float32(s) < np.inf for m, s in zip(mean, std, strict=True)):
        raise InputError(
            f"--mean and --std need {each}, as many as the network has input channels, for pixels in [0, 1]: the "
            f"mean in [0, 1], std above 0; got {mean} and {std}"
        )
    numbers = tuple(str(c) for c in range(classes))
    names = data.info(dataset).class_names if dataset in ("cifar10", "cifar100") else numbers
    info = Preprocessing(dataset, (size, size, len(mean)), tuple(mean), tuple(std), names)
    if dataset != "imagenet2012":
        return info
    return replace(info, resize=round(size * 8 / 7), interpolation=layout.interpolation)


if __name__ == "__main__":
    cli.run(main, FromTorch)

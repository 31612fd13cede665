"""`python -m convert.from_torch`: a network trained with PyTorch, ready for `convert.evaluate`.

python -m convert.from_torch --module pkg.models:make --weights mine.pth --dataset cifar10 --out nets/mine
python -m convert.from_torch resnet20.th --arch resnet20 --out nets/resnet20
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import tyro

from convert.torch import files, user_module
from convert.torch.checkpoints import import_state_dict
from convert.torch.images import own_statistics, preprocessing, with_classes
from convert.torch.layouts import plain, recognise, threshold_name
from convert.torch.network import from_torch
from tppjax import ann, checkpoint
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.ann import Ann
from tppjax.errors import InputError
from tppjax.network import Network


@dataclass(frozen=True)
class FromTorch:
    """Import a network trained with PyTorch.

    With --module, any network: make() gives a torch.nn.Module, --weights are loaded into it, and it is traced in eval
    mode, as convert.from_torch does. Say what its images are: --dataset, --mean, --std and --size; cifar10, cifar100,
    digits and imagenet2012 have the last three.

    Without code, FILE and --arch. Layouts, with the networks of their authors and how images are normalised unless you
    say otherwise:

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

    file: tyro.conf.Positional[Path | None] = None
    """File of the weights of a known layout: .safetensors, or .pth, .pt, .th and the like (these need PyTorch:
    tppjax[torch])."""

    arch: (
        Literal["vgg16", "resnet20", "resnet32", "resnet44", "resnet56", "resnet18", "resnet34", "regnetx_4gf"] | None
    ) = None
    """Network of a known layout."""

    module: str | None = None
    """Function that makes the network, pkg.models:make; the package lies in this folder, or is installed."""

    module_args: str | None = None
    """Its keyword arguments, as JSON: '{"depth": 20}'."""

    weights: Path | None = None
    """File of the weights for --module, in any of these formats [default: make() has them in place]."""

    out: Path = field(kw_only=True)
    """Folder for it; the network goes to OUT/network, or to OUT/ann if it is of a known layout, and replaces one that
    was imported there before."""

    entry: str | None = None
    """Which weights, where the file holds several sets, such as state_dict_ema, or keys that begin with ema_model."""

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

    size: int | tuple[int, int] | None = None
    """Side of the images in pixels, or height and width [default: the data set's]."""


OF_LAYOUTS = ("arch", "layout", "act", "L", "bound", "pool")


def main(config: FromTorch) -> Ann | Network:
    """Imports, saves, and says what was taken for granted.

    Raises:
      InputError, FileNotFoundError, FileExistsError: if the file or the options don't fit; says how.
    """
    _check(config)
    if (config.out / "config.json").exists():
        raise FileExistsError(
            f"{config.out} holds a training run, whose network this would replace: choose another --out"
        )
    nearest = next(folder for folder in (config.out.absolute(), *config.out.absolute().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise InputError(f"--out {config.out} can't be made, since {nearest} is no folder that can be written to")
    return _of_module(config) if config.module else _of_layout(config)


def _check(config: FromTorch) -> None:
    """Raises InputError if options of the two ways are mixed, or those of one are incomplete."""
    if config.module is None:
        if unused := [f"--{name}" for name in ("module_args", "weights") if getattr(config, name) is not None]:
            raise InputError(f"{', '.join(unused)}: only with --module; a file of a known layout is given as FILE")
        if config.file is None or config.arch is None:
            raise InputError("give --module pkg.models:make and --weights FILE, or, without code, FILE and --arch")
        return
    if config.file is not None:
        raise InputError(f"with --module the weights are given as --weights {config.file}")
    if unused := [f"--{name}" for name in OF_LAYOUTS if getattr(config, name) is not None]:
        raise InputError(f"{', '.join(unused)}: only for files of known layouts; --module says all about the network")
    if config.weights is None and config.entry is not None:
        raise InputError("--entry says which weights of a file are taken: give --weights, too")


def _of_module(config: FromTorch) -> Network:
    """With the user's code: the module is made, filled and traced."""
    statistics = own_statistics(config.dataset)
    known = next(iter(statistics.values()), ((0.0,) * 3,))[0]
    channels = len(known if config.mean is None else config.mean)
    said = (config.dataset, config.mean, config.std, config.size)
    images = preprocessing(statistics, channels, None, *said, channels_first=True)
    module, left, source = user_module.make(config.module, config.module_args), [], config.module
    if config.weights is not None:
        left = user_module.load(module, files.read(config.weights, config.entry))
        source = _source(config.weights, config.entry) + f" by {config.module}"
    network = from_torch(module, None, images)
    network = network.replace(
        preprocessing=with_classes(images, _classes(network)), history=(f"imported from {source}",)
    )
    checkpoint.save(network, config.out / "network")
    found = f"imported {source}: {len(network.sites)} sites, {network.parameters:,} parameters"
    ignored = f"; not the network's, and left out: {', '.join(left)}" if left else ""
    print(found + ignored + "\n" + _told(config, network, ("mean", "std", "size"), f"--dataset {config.dataset}"))
    return network


def _classes(network: Network) -> int:
    """How many the network tells apart."""
    x = jax.ShapeDtypeStruct((1, *network.graph.shape), jnp.float32)
    outputs = jax.eval_shape(network.graph.apply, network.weights, x)
    if getattr(outputs, "ndim", 0) != 2:
        shapes = jax.tree.map(lambda a: a.shape, outputs)
        raise InputError(
            f"this command is for networks that return logits [B, classes]; this one returns {shapes}: in Python, "
            "convert.from_torch(module, example) takes it, and tppjax.checkpoint.save(network, folder) saves it"
        )
    return outputs.shape[-1]


def _source(file: Path, entry: str | None) -> str:
    return file.name + (f" ({entry})" if entry else "")


def _of_layout(config: FromTorch) -> Ann:
    """Without code: a network of ours, from the keys of the file."""
    state = files.read(config.file, config.entry)
    act = _chosen(config, threshold_name(state))
    chosen = {name: getattr(config, name) for name in ("layout", "pool", "dataset", "mean", "std", "size")}
    network = import_state_dict(state, config.arch, act=act, **chosen)
    layout = recognise(plain(state), config.pool) if config.layout is None else config.layout
    history = f"imported from {_source(config.file, config.entry)}: {config.arch} of layout {layout}"
    network = network.replace(history=(history,))
    ann.save(network, config.out / "ann")
    print(_summary(config, network, layout))
    return network


def _summary(config: FromTorch, network: Ann, layout: str) -> str:
    act, parameters = network.model.act, sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
    pools = hasattr(network.model, "pool") and getattr(network.model, "stem", None) != "cifar"
    open_to_choice = ("layout", *(["pool"] if pools else []), "dataset", "mean", "std", "size")
    return (
        f"imported {config.file}: {config.arch} of layout {layout}, {parameters:,} parameters, "
        f"{type(act).__name__}{f' with L={act.L}' if isinstance(act, QCFS) else ''}"
        f"{f', {network.model.pool}-pooling' if pools else ''}\n"
        + _told(config, network, open_to_choice, "the keys and the layout")
    )


def _told(config: FromTorch, network: Ann | Network, open_to_choice: tuple[str, ...], by: str) -> str:
    """What the images are, which options tell so if they were given, and where all is."""
    images, assumed = network.preprocessing, [f"--{name}" for name in open_to_choice if getattr(config, name) is None]
    return (
        f"images: {images.dataset}, {images.input_shape}, mean {images.mean}, std {images.std}\n"
        + (f"told by {by}, and yours to change: {', '.join(assumed)}\n" if assumed else "")
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

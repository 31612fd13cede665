"""`python -m convert.from_torch`: a network trained with PyTorch, ready for `convert.evaluate`.

python -m convert.from_torch --module pkg.models:make --weights mine.pth --dataset cifar10 --out nets/mine
python -m convert.from_torch resnet20.th --arch resnet20 --out nets/resnet20
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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

    With --module, any network can be imported: make() returns a torch.nn.Module, --weights are loaded into it, and it
    is traced in eval mode by convert.from_torch. Describe its images by --dataset, --mean, --std and --size; for
    cifar10, cifar100, digits and imagenet2012 the last three are known.

    Without code, give FILE and --arch. These are the layouts, with the networks of their authors and the normalisation
    of images, which you can change:

    - akamaster (pytorch_resnet_cifar10): resnet20 to resnet56; ImageNet's mean and std on CIFAR;
    - kuangliu (pytorch-cifar): resnet18, resnet34, vgg16; CIFAR-10's own mean and std;
    - qcfs (Bu et al., old and new repository; learned thresholds): vgg16, resnet18, 20, 34; CIFAR's own mean and std;
    - snnc (Li et al.): vgg16, resnet20, resnet32, resnet34 with a deep stem; CIFAR's own mean and std. The ResNets of
      chenyaofo (pytorch-cifar-models) and bearpaw (pytorch-classification) have the same names;
    - torchvision: vgg16 (with and without batch norm), resnet18, resnet34; ImageNet's mean and std;
    - timm (regnetx_040), pycls (RegNetX-4.0GF): regnetx_4gf; ImageNet's mean and std. pycls's images have blue first,
      so its stem is reversed, and the network takes red first like all others.

    CIFAR-10's own are (0.4914, 0.4822, 0.4465) and (0.2023, 0.1994, 0.2010), ImageNet's (0.485, 0.456, 0.406) and
    (0.229, 0.224, 0.225).
    """

    file: tyro.conf.Positional[Path | None] = None
    """File with the weights of a known layout: .safetensors, or .pth, .pt, .th and the like (these need PyTorch:
    tppjax[torch])."""

    arch: (
        Literal["vgg16", "resnet20", "resnet32", "resnet44", "resnet56", "resnet18", "resnet34", "regnetx_4gf"] | None
    ) = None
    """Network of a known layout."""

    module: str | None = None
    """Function that makes the network, pkg.models:make; the package is in this folder, or installed."""

    module_args: str | None = None
    """Keyword arguments of that function, as JSON: '{"depth": 20}'."""

    weights: Path | None = None
    """File with the weights for --module, in any of these formats [default: the weights that make() loads]."""

    out: Path = field(kw_only=True)
    """Folder for the network, which goes to OUT/network, or to OUT/ann if it is of a known layout, and replaces one
    that was imported there before."""

    entry: str | None = None
    """Name of the weights in a file with several sets, such as state_dict_ema, or prefix of their keys, such as
    ema_model."""

    layout: Literal["akamaster", "kuangliu", "pycls", "qcfs", "snnc", "timm", "torchvision"] | None = None
    """Layout of the names in the file [default: the one that its keys identify]."""

    act: Literal["relu", "clipped_relu", "qcfs"] | None = None
    """Activation of the network in training [default: qcfs if the file has thresholds, else relu]."""

    L: int | None = None
    """Levels of qcfs above 0, which are not in the file. QCFS's authors use 8 for ResNets, 4 or 16 for VGG-16."""

    bound: float | None = None
    """Value at which clipped_relu saturates, if the file has no thresholds."""

    pool: Literal["avg", "max", "none"] | None = None
    """Pooling of vgg16 and of stems for ImageNet, or none behind a stem of 3x3; required where the file does not
    determine it [default: the layout's]."""

    dataset: str | None = None
    """Data set: cifar10, cifar100, imagenet2012 or a name of your own [default: by the number of classes]."""

    mean: tuple[float, ...] | None = None
    """Mean of each channel, with pixels in [0, 1] [default: the layout's]."""

    std: tuple[float, ...] | None = None
    """Standard deviation of each channel [default: the layout's]."""

    size: int | tuple[int, int] | None = None
    """Side of the images in pixels, or height and width [default: the data set's]."""


OF_LAYOUTS = ("arch", "layout", "act", "L", "bound", "pool")


def main(config: FromTorch) -> Ann | Network:
    """Imports and saves the network, and prints the settings that were assumed.

    Raises:
      InputError, FileNotFoundError, FileExistsError: if the file or the options don't fit.
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
    """Raises InputError if the options of the two ways are mixed, or those of one are incomplete."""
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
    """Imports with the user's code: makes the module, loads the weights, and traces it."""
    assert config.module is not None  # by `main`
    statistics = own_statistics(config.dataset)
    known_mean = next(iter(statistics.values()), ((0.0,) * 3,))[0]
    channels = len(known_mean if config.mean is None else config.mean)
    options = (config.dataset, config.mean, config.std, config.size)
    images = preprocessing(statistics, channels, None, *options, channels_first=True)
    module, left, source = user_module.make(config.module, config.module_args), [], config.module
    if config.weights is not None:
        left = user_module.load(module, files.read(config.weights, config.entry))
        source = _source(config.weights, config.entry) + f" by {config.module}"
    network = from_torch(module, None, images)
    network = network.replace(
        preprocessing=with_classes(images, _classes(network)), history=(f"imported from {source}",)
    )
    checkpoint.save(network, config.out / "network")
    summary = f"imported {source}: {len(network.sites)} sites, {network.parameters:,} parameters"
    ignored = f"; not the network's, and left out: {', '.join(left)}" if left else ""
    assumed = _assumptions(config, network, ("mean", "std", "size"), f"--dataset {config.dataset}")
    print(f"{summary}{ignored}\n{assumed}")
    return network


def _classes(network: Network) -> int:
    """The number of classes, from the shape of the network's output."""
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
    """Imports without code: makes one of our models, from the keys of the file."""
    assert config.file is not None and config.arch is not None  # noqa: PT018 - by `_check`
    state = files.read(config.file, config.entry)
    act = _activation(config, threshold_name(state))
    options = {name: getattr(config, name) for name in ("layout", "pool", "dataset", "mean", "std", "size")}
    network = import_state_dict(state, config.arch, act=act, **options)
    layout = recognise(plain(state), config.pool) if config.layout is None else config.layout
    history = f"imported from {_source(config.file, config.entry)}: {config.arch} of layout {layout}"
    network = network.replace(history=(history,))
    ann.save(network, config.out / "ann")
    print(_summary(config, network, layout))
    return network


def _summary(config: FromTorch, network: Ann, layout: str) -> str:
    model: Any = network.model
    act, parameters = model.act, sum(leaf.size for leaf in jax.tree.leaves(network.variables["params"]))
    pools = hasattr(model, "pool") and getattr(model, "stem", None) != "cifar"
    options = ("layout", *(["pool"] if pools else []), "dataset", "mean", "std", "size")
    return (
        f"imported {config.file}: {config.arch} of layout {layout}, {parameters:,} parameters, "
        f"{type(act).__name__}{f' with L={act.L}' if isinstance(act, QCFS) else ''}"
        f"{f', {model.pool}-pooling' if pools else ''}\n"
        + _assumptions(config, network, options, "the keys and the layout")
    )


def _assumptions(config: FromTorch, network: Ann | Network, options: tuple[str, ...], source: str) -> str:
    """The preprocessing of the images, those of the options that were left to `source`, and the folder."""
    images, assumed = network.preprocessing, [f"--{name}" for name in options if getattr(config, name) is None]
    assert images is not None  # imported networks have one
    return (
        f"images: {images.dataset}, {images.input_shape}, mean {images.mean}, std {images.std}\n"
        + (f"determined by {source}, and yours to change: {', '.join(assumed)}\n" if assumed else "")
        + f"wrote {config.out}"
    )


def _activation(config: FromTorch, learned: str | None) -> nn.Module:
    """The activation that the options select; `learned` is the name of thresholds in the file, None without any."""
    name = config.act or ("qcfs" if learned else "relu")
    if (config.L is None) == (name == "qcfs"):
        raise InputError(
            f"--L, the number of levels, is not in the file: give it for qcfs, and only then; act is {name}"
        )
    if (config.bound is None) == (name == "clipped_relu" and not learned):
        raise InputError(f"give --bound for clipped_relu without thresholds in the file, and only then; act is {name}")
    if config.L is not None:
        return QCFS(L=config.L)
    if name == "relu":
        return ReLU()
    return ClippedReLU() if config.bound is None else ClippedReLU(bound=config.bound)

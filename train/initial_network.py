"""The network before training: with new weights, or one that exists already."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from configs.training import Training
from tppjax import activations, ann, calibration, models
from tppjax.ann import Ann
from tppjax.batching import batches
from tppjax.data import Examples, Preprocessing
from tppjax.errors import InputError
from tppjax.histogram import Histogram
from tppjax.neurons import Rounded
from tppjax.types import Array, Weights
from train.loop import split

OPTIONS = ("shortcut", "width", "hidden", "stem", "pool")  # of networks
CALIBRATION, TOGETHER = 500, 50  # number of images for thresholds, and images per batch


def activation(config: Training) -> nn.Module:
    """The activation module that `config` names."""
    names = {"qcfs": ("L", "theta_init"), "clipped_relu": ("bound",), "relu": ()}[config.act]
    own = {name: value for name in names if (value := getattr(config, name)) is not None}
    return activations.ACTIVATIONS[config.act](**own)


def new(config: Any, classes: int) -> nn.Module:
    """The network that a recipe describes, for so many classes."""
    own = {name: value for name in OPTIONS if (value := getattr(config, name, None)) is not None}
    return models.create(config.arch, classes, activation(config), **own)


def initial_network(config: Training, model: Any, preprocessing: Preprocessing, images: Examples) -> Ann:
    """The network before the first step.

    Args:
      config: the recipe; with `init_from` the weights are those of the network there.
      model: the module to train, including its activation `act`.
      preprocessing: that of the data set; the network in `init_from` keeps its own mean and std.
      images: the training images, for thresholds that neither an option nor the network in `init_from` sets.

    Raises:
      InputError: if the network in `init_from` is another one, or was trained on other data.
      FileNotFoundError: if there is none.
    """
    sample = split(images, config)[0][:CALIBRATION].images
    if config.init_from is not None:
        network = _loaded(config.init_from, config, model, preprocessing)
        return _with_thresholds(network, _thresholds(config, network, sample))
    x = jnp.zeros((1, *preprocessing.input_shape))  # of a recording, its mean over frames
    network = Ann(jax.jit(model.init)(jax.random.key(config.seed), x), model, preprocessing)
    if config.act != "qcfs" or config.theta_init is not None:
        return network
    step = f"thresholds before training: least error of {model.act.L} levels, {len(sample)} images"
    network = network.replace(history=(step,))
    return _with_thresholds(network, _from_data(config, network, sample, train=True))


def _loaded(folder: Path, config: Training, model: Any, preprocessing: Preprocessing) -> Ann:
    """The network in `folder` with the activation of `model`, after a check that it fits."""
    network: Any = ann.load(folder)
    if network.model.clone(act=model.act) != model:
        raise InputError(f"--init_from {folder} holds another network:\n{network.model}\nexpected:\n{model}")
    kept = {name: getattr(network.preprocessing, name) for name in ("mean", "std")}
    if network.preprocessing.class_names == tuple(map(str, range(len(preprocessing.class_names)))):
        kept["class_names"] = network.preprocessing.class_names  # imported, without names
    if dataclasses.replace(preprocessing, **kept) != network.preprocessing:
        raise InputError(f"--init_from {folder} was trained on {network.preprocessing.dataset}, other data")
    step = f"trained on with {config.act} from {folder.name}"
    return network.replace(model=model, history=(*network.history, step))


def _thresholds(config: Training, network: Ann, images: Array) -> Weights:
    """Thresholds by module: none, the option's number, the network's own, or chosen from data."""
    if config.act == "relu":
        return {}
    option = config.theta_init if config.act == "qcfs" else config.bound
    if option is not None:
        return dict.fromkeys(_activations(network, images[:1], train=False), np.asarray(option, np.float32))
    return ann.thresholds(network.variables) or _from_data(config, network, images, train=False)


def _from_data(config: Training, network: Any, images: Array, train: bool) -> Weights:
    """A threshold, one number, for each module of the activation, chosen from the outputs of plain ReLU there.

    For QCFS it minimises the squared error of the L levels, as is usual before quantisation-aware training; for clipped
    ReLU it is a percentile. With `train`, batch norm normalises by each batch, as in the first steps.
    """
    histograms: dict[str, Histogram] = {}
    for batch in batches(images, TOGETHER):
        for site, x in _activations(network, batch, train).items():
            histograms.setdefault(site, Histogram(x.shape[-1])).add(np.asarray(x))
    method, T = ("mse", network.model.act.L) if config.act == "qcfs" else ("percentile", 1)
    return dict(calibration.choose(histograms, method, per="layer", T=T, neuron=Rounded()))


@partial(jax.jit, static_argnames="train")
def _activations(network: Ann, images: jax.Array, train: bool) -> dict[str, jax.Array]:
    """The output of each module of the activation, if it were plain ReLU: `{path: [B, ...]}`."""
    model = network.model.clone(act=activations.ReLU())
    variables = _with_thresholds(network, {}).variables
    _, updated = model.apply(
        variables,
        network.input(images),
        train=train,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, activations.ReLU),
    )
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(updated["intermediates"])
    return {"/".join(path[:-1]): x for path, (x,) in flat.items() if path[-1] == "__call__"}


def _with_thresholds(network: Ann, thetas: Weights) -> Ann:
    """The network with these leaves `theta`, and no others."""
    params: dict[str, Any] = traverse_util.flatten_dict(network.variables["params"], sep="/")
    params = {path: leaf for path, leaf in params.items() if path.rpartition("/")[2] != "theta"}
    params |= {f"{site}/theta": theta for site, theta in thetas.items()}
    return network.replace(variables={**network.variables, "params": traverse_util.unflatten_dict(params, sep="/")})

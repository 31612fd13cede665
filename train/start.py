"""What training begins with: new weights, or a network that is there already."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs.training import Training
from tppjax import activations, ann, thresholds
from tppjax.ann import Ann
from tppjax.data import Images, Preprocessing
from tppjax.errors import InputError
from train.loop import split

CALIBRATION = 500  # images, for thresholds


def activation(config: Training) -> nn.Module:
    """The activation module that `config` names."""
    options = {
        "qcfs": {"L": config.L, "theta_init": config.theta_init},
        "clipped_relu": {"bound": config.bound},
        "relu": {},
    }[config.act]
    return activations.ACTIVATIONS[config.act](**{k: v for k, v in options.items() if v is not None})


def start(config: Training, model: nn.Module, preprocessing: Preprocessing, images: Images) -> Ann:
    """The network before the first step.

    Args:
      config: the recipe; with `init_from` the weights are those of the network there.
      model: the network to train, activation included.
      preprocessing: of the data set; the network in `init_from` keeps its own mean and std.
      images: the training images, for thresholds that are neither asked for nor in the network of `init_from`.

    Raises:
      InputError: if the network in `init_from` is another one, or was trained on other data.
      FileNotFoundError: if there is none.
    """
    if config.init_from is None:
        x = jnp.zeros((1, *preprocessing.input_shape))  # of a recording, what the network sees of it
        network = Ann(jax.jit(model.init)(jax.random.key(config.seed), x), model, preprocessing)
        if config.act != "qcfs" or config.theta_init is not None:
            return network
        return thresholds.begin(network, split(images, config)[0][:CALIBRATION].images)
    network = ann.load(config.init_from)
    if network.model.clone(act=model.act) != model:
        raise InputError(f"--init_from {config.init_from} holds another network:\n{network.model}\nasked for:\n{model}")
    kept = {name: getattr(network.preprocessing, name) for name in ("mean", "std")}
    if network.preprocessing.class_names == tuple(map(str, range(len(preprocessing.class_names)))):
        kept["class_names"] = network.preprocessing.class_names  # imported, without names
    if dataclasses.replace(preprocessing, **kept) != network.preprocessing:
        raise InputError(f"--init_from {config.init_from} was trained on {network.preprocessing.dataset}, other data")
    thetas = _thetas(config, model, network, images)
    begun = network.replace(model=model, variables=thresholds.without_thresholds(network.variables))
    return thresholds.with_thresholds(begun, thetas, f"trained on with {config.act} from {config.init_from.name}")


def _thetas(config: Training, model: nn.Module, network: Ann, images: Images) -> dict:
    """The thresholds to begin with: none; the number that was asked for; the network's; or calibrated ones."""
    if config.act == "relu":
        return {}
    asked = config.theta_init if config.act == "qcfs" else config.bound
    if asked is not None:
        return dict.fromkeys(ann.sites(network.model, network.preprocessing.input_shape), np.float32(asked))
    if found := ann.thresholds(network.variables):
        return found
    how = {"T": model.act.L, "mode": "rounded"} if config.act == "qcfs" else {"method": "percentile"}
    calibrated = thresholds.calibrate(network, images[:CALIBRATION].images, per="layer", **how)
    return ann.thresholds(calibrated.variables)

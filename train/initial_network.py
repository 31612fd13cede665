"""What training begins with: new weights, or a network that is there already."""

import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from configs.training import Training
from tppjax import activations, ann, calibration
from tppjax.ann import Ann
from tppjax.batching import batches
from tppjax.data import Images, Preprocessing
from tppjax.errors import InputError
from tppjax.histogram import Histogram
from tppjax.neurons import Rounded
from train.loop import split

CALIBRATION, TOGETHER = 500, 50  # images for thresholds, and how many of them a batch


def activation(config: Training) -> nn.Module:
    """The activation module that `config` names."""
    options = {
        "qcfs": {"L": config.L, "theta_init": config.theta_init},
        "clipped_relu": {"bound": config.bound},
        "relu": {},
    }[config.act]
    return activations.ACTIVATIONS[config.act](**{k: v for k, v in options.items() if v is not None})


def initial_network(config: Training, model: nn.Module, preprocessing: Preprocessing, images: Images) -> Ann:
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
    chosen = split(images, config)[0][:CALIBRATION].images
    if config.init_from is None:
        x = jnp.zeros((1, *preprocessing.input_shape))  # of a recording, what the network sees of it
        network = Ann(jax.jit(model.init)(jax.random.key(config.seed), x), model, preprocessing)
        if config.act != "qcfs" or config.theta_init is not None:
            return network
        how = f"thresholds before training: least error of {model.act.L} levels, {len(chosen)} images"
        begun = network.replace(history=(how,))
        return _with_thresholds(begun, _from_data(config, begun, chosen, train=True))
    network = ann.load(config.init_from)
    if network.model.clone(act=model.act) != model:
        raise InputError(f"--init_from {config.init_from} holds another network:\n{network.model}\nasked for:\n{model}")
    kept = {name: getattr(network.preprocessing, name) for name in ("mean", "std")}
    if network.preprocessing.class_names == tuple(map(str, range(len(preprocessing.class_names)))):
        kept["class_names"] = network.preprocessing.class_names  # imported, without names
    if dataclasses.replace(preprocessing, **kept) != network.preprocessing:
        raise InputError(f"--init_from {config.init_from} was trained on {network.preprocessing.dataset}, other data")
    history = (*network.history, f"trained on with {config.act} from {config.init_from.name}")
    begun = network.replace(model=model, history=history)
    return _with_thresholds(begun, _thresholds(config, begun, chosen))


def _thresholds(config: Training, network: Ann, images) -> dict[str, np.ndarray]:
    """By module: none; the number that was asked for; the network's own; or from data."""
    if config.act == "relu":
        return {}
    asked = config.theta_init if config.act == "qcfs" else config.bound
    if asked is not None:
        return dict.fromkeys(_activations(network, images[:1], train=False), np.float32(asked))
    return ann.thresholds(network.variables) or _from_data(config, network, images, train=False)


def _from_data(config: Training, network: Ann, images, train: bool) -> dict[str, np.ndarray]:
    """A threshold for each module of the activation, one number: that which suits what plain ReLU gives there.

    For QCFS it makes the squared error of the L levels least, as quantisation-aware training begins; for clipped ReLU
    it is a percentile. Batch norm normalises by each batch, if `train`, as the first steps do.
    """
    found: dict[str, Histogram] = {}
    for batch in batches(images, TOGETHER):
        for site, x in _activations(network, batch, train).items():
            found.setdefault(site, Histogram(x.shape[-1])).add(np.asarray(x))
    how = {"method": "mse", "T": network.model.act.L} if config.act == "qcfs" else {"method": "percentile", "T": 1}
    return calibration.choose(found, per="layer", neuron=Rounded(), **how)


@partial(jax.jit, static_argnames="train")
def _activations(network: Ann, images, train: bool) -> dict[str, jax.Array]:
    """What each module of the activation gives, were it plain ReLU: `{path: [B, ...]}`."""
    model = network.model.clone(act=activations.ReLU())
    variables = _with_thresholds(network, {}).variables
    _, found = model.apply(
        variables,
        network.input(images),
        train=train,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: isinstance(module, activations.ReLU),
    )
    flat = traverse_util.flatten_dict(found["intermediates"])
    return {"/".join(path[:-1]): x for path, (x,) in flat.items() if path[-1] == "__call__"}


def _with_thresholds(network: Ann, thetas: dict) -> Ann:
    """The network with these leaves `theta`, and no others."""
    params = traverse_util.flatten_dict(network.variables["params"], sep="/")
    params = {path: leaf for path, leaf in params.items() if path.rpartition("/")[2] != "theta"}
    params |= {f"{site}/theta": theta for site, theta in thetas.items()}
    return network.replace(variables={**network.variables, "params": traverse_util.unflatten_dict(params, sep="/")})

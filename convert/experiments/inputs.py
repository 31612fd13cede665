"""The images that experiments measure a network on, and the preprocessing that makes them its input."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

import convert
from convert.experiments.options import Experiment
from tppjax import data
from tppjax.ann import Ann
from tppjax.errors import InputError


def with_preprocessing(network: Ann | convert.Network, config: Experiment) -> Ann | convert.Network:
    """The network with a preprocessing: its own, or the one that the options describe."""
    if network.preprocessing is not None:
        if config.mean is not None or config.std is not None:
            raise InputError(
                f"--mean and --std are for networks without preprocessing; that in {config.ann} has its own"
            )
        return network
    if config.dataset is None or config.mean is None or config.std is None:
        raise InputError(
            f"the network in {config.ann} was saved without preprocessing: give --dataset, --mean and --std, or "
            "save it again by network.replace(preprocessing=tppjax.data.Preprocessing(...)).save(FOLDER)"
        )
    assert isinstance(network, convert.Network)  # a saved `Ann` always has a preprocessing
    shape = network.graph.shape
    if len(shape) != 3:
        raise InputError(
            f"the network in {config.ann} takes inputs of shape {shape}, and commands give images [H, W, C]; in Python "
            "convert.to_snn takes any"
        )
    channels_last = (*shape[1:], shape[0])
    if config.dataset == "folder":
        channels_first = shape[2] not in (1, 3) and shape[0] in (1, 3)
        height, width, channels = channels_last if channels_first else shape
        info = data.info("folder", config.data_dir, size=(height, width), channels=channels)
    else:
        info = data.info(config.dataset, config.data_dir)
        channels_first = info.input_shape == channels_last != shape
    info = replace(info, mean=config.mean, std=config.std, channels_first=channels_first)
    return network.replace(preprocessing=info)


def test_images(preprocessing: data.Preprocessing, config: Experiment) -> data.Examples:
    """The test images, once it is certain that the network takes them."""
    name = config.dataset or preprocessing.dataset
    if config.dataset is None and name not in data.NAMES:
        raise InputError(
            f"the network in {config.ann} is for {name}, which is not one of the data sets here ("
            f"{', '.join(data.NAMES)}): give your images as --dataset npz --data_dir FILE.npz, or --dataset folder"
        )
    if name != "folder":  # folders are searched for the network's classes by name
        info = data.info(name, config.data_dir)
        # Data sets of READ_WITH_PREPROCESSING are read in the shape that the network takes.
        shape = preprocessing.input_shape if name in data.READ_WITH_PREPROCESSING else info.input_shape
        if (shape, len(info.class_names)) != (preprocessing.input_shape, len(preprocessing.class_names)):
            raise InputError(
                f"{name} has images of {info.input_shape} and {len(info.class_names)} classes; the network in "
                f"{config.ann} takes images of {preprocessing.input_shape} and has {len(preprocessing.class_names)} "
                "classes"
            )
    return _load(name, "test", preprocessing, config, lambda n: np.arange(n)[: config.limit])


def check_outputs(network: convert.Network, folder: Path) -> None:
    """Raises InputError unless the network takes what its preprocessing gives, and returns a number for each class."""
    preprocessing = network.preprocessing
    assert preprocessing is not None  # by `with_preprocessing`
    if network.graph.shape != preprocessing.network_shape:
        raise InputError(
            f"the network in {folder} takes inputs of shape {network.graph.shape}, and its preprocessing gives "
            f"{preprocessing.network_shape}"
        )
    x = jax.ShapeDtypeStruct((1, *network.graph.shape), network.graph.dtype)
    returned = jax.tree.map(lambda a: a.shape[1:], jax.eval_shape(network.graph.apply, network.weights, x))
    classes = len(preprocessing.class_names)
    if returned != (classes,):
        raise InputError(
            f"the network in {folder} returns {returned} for an image; what is needed is a number for each of "
            f"its {classes} classes"
        )


def training_images(preprocessing: data.Preprocessing, config: Experiment) -> data.Examples:
    """The images on which thresholds and corrections are chosen: drawn at random, the same ones every time."""

    def select(n: int) -> np.ndarray:
        return np.random.default_rng(0).permutation(n)[: config.calibration_images]

    return _load(config.dataset or preprocessing.dataset, "train", preprocessing, config, select)


def _load(
    name: str,
    split: str,
    preprocessing: data.Preprocessing,
    config: Experiment,
    select: Callable[[int], np.ndarray],
) -> data.Examples:
    if config.skip_damaged and name != "cifar10_dvs":
        raise InputError(f"--skip_damaged is an option of cifar10_dvs; the data set is {name}")
    options = {"skip_damaged": True} if config.skip_damaged else {}
    return data.load(name, split, config.data_dir, select, preprocessing, **options)

"""What experiments measure a network on: its images, and what turns them into its input."""

from dataclasses import replace

import jax
import numpy as np

import convert
from convert.experiments.options import Experiment
from tppjax import data
from tppjax.errors import InputError


def with_preprocessing(network, config: Experiment):
    """The `Ann` or `Network` with what turns pixels into its input: its own, or as the options have it."""
    if network.preprocessing is not None:
        if config.mean is not None or config.std is not None:
            raise InputError(
                f"--mean and --std are for networks without preprocessing; that in {config.ann} has its own"
            )
        return network
    if None in (config.dataset, config.mean, config.std):
        raise InputError(
            f"the network in {config.ann} was saved without preprocessing: give --dataset, --mean and --std, or "
            "save it again by network.replace(preprocessing=tppjax.data.Preprocessing(...)).save(FOLDER)"
        )
    shape = network.graph.shape
    if len(shape) != 3:
        raise InputError(
            f"the network in {config.ann} takes inputs of shape {shape}, and commands give images [H, W, C]; in Python "
            "convert.to_snn takes any"
        )
    turned = (*shape[1:], shape[0])
    if config.dataset == "folder":
        first = shape[2] not in (1, 3) and shape[0] in (1, 3)
        height, width, channels = turned if first else shape
        info = data.info("folder", config.data_dir, size=(height, width), channels=channels)
    else:
        info = data.info(config.dataset, config.data_dir)
        first = info.input_shape == turned != shape
    info = replace(info, mean=config.mean, std=config.std, channels_first=first)
    return network.replace(preprocessing=info)


def test_images(preprocessing: data.Preprocessing, config: Experiment) -> data.Images:
    """The test images, after making sure that they are what the network takes."""
    name = config.dataset or preprocessing.dataset
    if config.dataset is None and name not in data.NAMES:
        raise InputError(
            f"the network in {config.ann} is for {name}, which is not one of the data sets here ("
            f"{', '.join(data.NAMES)}): give your images as --dataset npz --data_dir FILE.npz, or --dataset folder"
        )
    if name != "folder":  # which looks for the network's classes by their names
        info = data.info(name, config.data_dir)
        shape = (
            preprocessing.input_shape if name in data.READ_WITH_PREPROCESSING else info.input_shape
        )  # those come as the network takes them
        if (shape, len(info.class_names)) != (preprocessing.input_shape, len(preprocessing.class_names)):
            raise InputError(
                f"{name} has images of {info.input_shape} and {len(info.class_names)} classes; the network in "
                f"{config.ann} takes images of {preprocessing.input_shape} and has {len(preprocessing.class_names)} "
                "classes"
            )
    return _load(name, "test", preprocessing, config, lambda n: np.arange(n)[: config.limit])


def check_outputs(network: convert.Network, config: Experiment) -> None:
    """Raises InputError unless the network takes what its preprocessing gives, and returns a number for each class."""
    preprocessing, x = network.preprocessing, jax.ShapeDtypeStruct((1, *network.graph.shape), network.graph.dtype)
    if network.graph.shape != preprocessing.network_shape:
        raise InputError(
            f"the network in {config.ann} takes inputs of shape {network.graph.shape}, and its preprocessing gives "
            f"{preprocessing.network_shape}"
        )
    returned = jax.tree.map(lambda a: a.shape[1:], jax.eval_shape(network.graph.apply, network.weights, x))
    if returned != (wanted := (len(preprocessing.class_names),)):
        raise InputError(
            f"the network in {config.ann} returns {returned} for an image; accuracy needs a number for each of its "
            f"{wanted[0]} classes"
        )


def training_images(network: convert.Network, config: Experiment) -> data.Images:
    """Those that thresholds and corrections are chosen on: drawn at random, the same ones every time."""

    def select(n: int):
        return np.random.default_rng(0).permutation(n)[: config.calibration_images]

    preprocessing = network.preprocessing
    return _load(config.dataset or preprocessing.dataset, "train", preprocessing, config, select)


def _load(name: str, split: str, preprocessing: data.Preprocessing, config: Experiment, select) -> data.Images:
    if config.skip_damaged and name != "cifar10_dvs":
        raise InputError(f"--skip_damaged is an option of cifar10_dvs; the data set is {name}")
    options = {"skip_damaged": True} if config.skip_damaged else {}
    return data.load(name, split, config.data_dir, select, preprocessing, **options)

"""A network and images to experiment on, and runs of spiking networks over images and seeds."""

import functools
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import numpy as np

import convert
from convert.experiments import inputs
from convert.experiments.conversion import Conversion, check
from convert.experiments.options import Experiment
from tppjax import ann, checkpoint, data, prng, sharding
from tppjax.batching import map_examples
from tppjax.errors import InputError, check_number, check_paths
from tppjax.neurons import parse
from tppjax.types import Array

CONVERSION = ("calibrate", "per", "percentile", "correct", "calibration_images")
COUNTS = {"seeds": 2**16, **dict.fromkeys(("batch_size", "limit", "calibration_images"), 2**31 - 1)}  # at most


@dataclass(frozen=True)
class Setup:
    """A network and images to experiment on.

    Attributes:
      network: the network, with a preprocessing.
      model: the Flax module that it was traced from, if it is known; it identifies rows in the paper's tables.
      images: the test images.
      conversion: makes spiking versions of the network, with the thresholds and corrections of the options.
      settings: all that a result depends on besides its own entries, for `Results`.
    """

    network: convert.Network
    model: nn.Module | None
    images: data.Examples
    conversion: Conversion
    settings: dict

    @functools.cached_property
    def accuracy(self) -> float:
        """The accuracy of the ANN on the images, in percent."""
        return ann.accuracy(self.network, self.images)

    def with_images(self, images: data.Examples) -> "Setup":
        """The same setup with other images to measure on."""
        return replace(self, images=images)

    def __str__(self) -> str:
        return f"{self.settings['model']['name']} on {self.settings['dataset']} ({len(self.images)} test images)"


def set_up(config: Experiment, modes: tuple[str, ...], trained: bool = False) -> Setup:
    """Loads the network and the images of the options, and refuses what can't be converted to these modes.

    Args:
      config: the options.
      modes: the modes that will be measured.
      trained: whether training images are needed even if the options choose nothing on them.

    Raises:
      InputError, FileNotFoundError: if options are out of range, or if data does not fit the network or is missing.
    """
    check_paths(config)
    for name, most in COUNTS.items():
        if (value := getattr(config, name)) is not None:
            check_number(f"--{name}", value, 1, most)
    check_number("--percentile", config.percentile, 0, 100, above=True)
    if config.per != "channel" and not config.calibrate:
        raise InputError("--per is for thresholds that --calibrate chooses; give both or neither")
    stored = inputs.with_preprocessing(checkpoint.stored(config.ann), config)
    preprocessing = stored.preprocessing
    assert preprocessing is not None  # by `with_preprocessing`
    images = inputs.test_images(preprocessing, config)
    network = convert.trace(stored)  # takes seconds for an `Ann`, so missing data is reported before
    inputs.check_outputs(network, config.ann)
    check(network, config, modes)
    training = inputs.training_images(preprocessing, config) if config.calibrate or config.correct or trained else None
    model = getattr(stored, "model", None)
    settings = {
        "dataset": config.dataset or preprocessing.dataset,
        "n": len(images),
        "images": images.digest(),
        "model": {"name": model.name, "act": type(model.act).__name__} if model else _described(network, config),
        "network": ann.fingerprint(stored),  # traced networks differ in the last bit between devices
        "conversion": {name: getattr(config, name) for name in CONVERSION},
        "calibrated_on": None if training is None else data.digest(training.images),
    }
    return Setup(network, model, images, Conversion(network, training, config), settings)


def _described(network: convert.Network, config: Experiment) -> dict[str, str]:
    kinds = sorted({site.kind for site in network.sites.values()})
    return {"name": config.ann.absolute().name, "act": ", ".join(kinds)}


def source(mode: str) -> dict[str, str]:
    """A digest of the file of a user's neuron, which tells its versions apart; empty for neurons of the library."""
    neuron = parse(mode)
    if neuron.built_in:
        return {}
    module = inspect.getmodule(type(neuron))
    try:
        text = inspect.getsource(module) if module else repr(type(neuron))
    except (OSError, TypeError):  # such as a class defined at a prompt
        text = repr(type(neuron))
    return {"source": hashlib.sha256(text.encode()).hexdigest()[:12]}


def over_seeds(
    fn: Callable[..., Any],
    snn: convert.Snn,
    images: data.Examples,
    seeds: int,
    batch_size: int,
    progress: str | None = None,
) -> Any:
    """`fn` on every image with every seed: a tree of NumPy arrays, `[N, seeds, ...]`; one seed if nothing is random.

    Args:
      fn: `fn(snn, pixels [B, ...], labels [B], index [B], key)` returns a tree of arrays with the examples leading;
        `index` is the position of each example in the data set. Each `fn` is compiled once.
      snn: the network; the one for any T if `fn` does not need T.
      images: the images.
      seeds: number of seeds, which are 0, 1, 2, ...
      batch_size: images in each call.
      progress: name of a progress bar, shown on a terminal.
    """
    numbers = np.arange(seeds if snn.random else 1, dtype=np.uint32)
    keys = jax.vmap(lambda seed: jax.random.key(seed, impl=prng.HASH))(numbers)

    def outcome(*arrays: Array) -> Any:
        result = sharding.sweep(fn, keys, snn, *arrays, examples=(1, 2, 3))
        return jax.tree.map(lambda a: np.moveaxis(a, 0, 1), result)

    return map_examples(outcome, images, batch_size, progress)

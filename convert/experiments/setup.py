"""A network and images to experiment on, and runs of spiking networks over images and seeds."""

import functools
import hashlib
import inspect
from dataclasses import dataclass, replace

import flax.linen as nn
import jax
import numpy as np

import convert
from convert.experiments import inputs
from convert.experiments.conversion import Conversion, check
from convert.experiments.options import Experiment
from tppjax import ann, checkpoint, data, prng, sharding
from tppjax.batching import map_examples
from tppjax.errors import InputError, check_number
from tppjax.neurons import parse

CONVERSION = ("calibrate", "per", "percentile", "correct", "calibration_images")
COUNTS = {"seeds": 2**16, **dict.fromkeys(("batch_size", "limit", "calibration_images"), 2**31 - 1)}  # at most


@dataclass(frozen=True)
class Setup:
    """A network and images to experiment on.

    Attributes:
      network: the network.
      model: the Flax module that it was traced from, if that is known; some of the paper's tables are for it.
      images: the test images.
      conversion: makes spiking versions of the network, with the thresholds and corrections that were asked for.
      settings: all that a result depends on besides its own entries, for `Results`.
    """

    network: convert.Network
    model: nn.Module | None
    images: data.Images
    conversion: Conversion
    settings: dict

    @functools.cached_property
    def accuracy(self) -> float:
        """The accuracy of the ANN on the images, in percent."""
        return ann.accuracy(self.network, self.images)

    def with_images(self, images: data.Images) -> "Setup":
        """The same setup with other images to measure on."""
        return replace(self, images=images)

    def __str__(self):
        return f"{self.settings['model']['name']} on {self.settings['dataset']} ({len(self.images)} test images)"


def set_up(config: Experiment, modes: tuple[str, ...], trained: bool = False) -> Setup:
    """Loads what `config` names, and refuses what can't be converted to these modes.

    Args:
      config: the options.
      modes: that will be asked for.
      trained: whether training images are needed, though the options choose nothing on them.

    Raises:
      InputError, FileNotFoundError: on options out of range, data that does not fit the network, or none.
    """
    for name, most in COUNTS.items():
        if (value := getattr(config, name)) is not None:
            check_number(f"--{name}", value, 1, most)
    check_number("--percentile", config.percentile, 0, 100, above=True)
    if config.per != "channel" and not config.calibrate:
        raise InputError("--per is for thresholds that --calibrate chooses; give both or neither")
    stored = inputs.with_preprocessing(checkpoint.stored(config.ann), config)
    images = inputs.test_images(stored.preprocessing, config)
    network = convert.trace(stored)  # an `Ann` takes seconds, so data that is not there is found before
    inputs.check_outputs(network, config)
    check(network, config, modes)
    training = inputs.training_images(network, config) if config.calibrate or config.correct or trained else None
    model = getattr(stored, "model", None)
    settings = {
        "dataset": config.dataset or network.preprocessing.dataset,
        "n": len(images),
        "images": images.digest(),
        "model": {"name": model.name, "act": type(model.act).__name__} if model else _described(network, config),
        "network": ann.fingerprint(stored),  # what is traced differs in the last bit by device
        "conversion": {name: getattr(config, name) for name in CONVERSION},
        "calibrated_on": None if training is None else data.digest(training.images),
    }
    return Setup(network, model, images, Conversion(network, training, config), settings)


def _described(network: convert.Network, config: Experiment) -> dict:
    kinds = sorted({site.kind for site in network.sites.values()})
    return {"name": config.ann.absolute().name, "act": ", ".join(kinds)}


def source(mode: str) -> dict[str, str]:
    """What tells one version of a neuron of one's own from another: a digest of its file; nothing for the library's."""
    neuron = parse(mode)
    if neuron.built_in:
        return {}
    try:
        text = inspect.getsource(inspect.getmodule(type(neuron)))
    except (OSError, TypeError):  # made at a prompt, say
        text = repr(type(neuron))
    return {"source": hashlib.sha256(text.encode()).hexdigest()[:12]}


def over_seeds(fn, snn: convert.Snn, images: data.Images, seeds: int, batch_size: int, progress: str | None = None):
    """`fn` on every image with every seed: a tree of NumPy arrays, `[N, seeds, ...]`; one seed if nothing is random.

    Args:
      fn: `fn(snn, pixels [B, ...], labels [B], index [B], key)` gives a tree of arrays with the examples leading;
        `index` is each example's place in the data set. Compiled once for each `fn`.
      snn: the network, for any T if `fn` can do without.
      images: the images.
      seeds: 0, 1, 2, ...
      batch_size: images a call.
      progress: name of a progress bar, shown on a terminal.
    """
    seeds = np.arange(seeds if snn.random else 1, dtype=np.uint32)
    keys = jax.vmap(lambda seed: jax.random.key(seed, impl=prng.HASH))(seeds)

    def outcome(*arrays):
        result = sharding.sweep(fn, keys, snn, *arrays, examples=(1, 2, 3))
        return jax.tree.map(lambda a: np.moveaxis(a, 0, 1), result)

    return map_examples(outcome, images, batch_size, progress)

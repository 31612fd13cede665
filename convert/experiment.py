"""What experiments on spiking versions of a network have in common: options, images, conversion, runs over seeds."""

import functools
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import flax.linen as nn
import jax
import numpy as np

import convert
from convert import inputs
from convert.checks import check_thresholds, neurons_of
from convert.correction import check_method
from tppjax import ann, calibration, checkpoint, data, prng, sharding
from tppjax.batching import map_examples
from tppjax.errors import InputError, check_number
from tppjax.neurons import check_steps, parse

CONVERSION = ("calibrate", "per", "percentile", "correct", "calibration_images")
COUNTS = {"seeds": 2**16, **dict.fromkeys(("batch_size", "limit", "calibration_images"), 2**31 - 1)}  # at most


@dataclass(frozen=True)
class Experiment:
    """Options: the network, the images, and how it is converted."""

    ann: Path
    """Folder of the trained network: what --out was in training, or where Network.save wrote it."""

    seeds: int = 5
    """Runs of each random mode, with seeds 0, 1, 2, ...; the others need one."""

    limit: int | None = None
    """Use this many test images only, the first ones."""

    out: Path | None = None
    """Folder for the results. What is there already, measured with the same settings, is kept and not computed
    again."""

    overwrite: bool = False
    """Measure everything anew and replace what is in --out."""

    dataset: str | None = None
    """Data set [default: the one that the network was trained on]. Of your own: npz, a file of arrays; or folder, with
    pictures in train/CLASS/ and test/CLASS/."""

    data_dir: Path | None = None
    """Folder of the data set, or the file of npz [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]."""

    mean: tuple[float, ...] | None = None
    """Of each channel, for a network that was saved without preprocessing: pixels in [0, 1] less this, divided by
    --std, are what it takes."""

    std: tuple[float, ...] | None = None
    """Of each channel; see --mean."""

    skip_damaged: bool = False
    """cifar10_dvs: leave out recordings that can't be read, with a count, instead of refusing."""

    batch_size: int | None = None
    """Images a call [default: as many as suit the device's memory]."""

    calibrate: Literal["max", "percentile", "mse"] | None = None
    """Choose thresholds on training images, anew for each mode and T, where the network was not trained with them.
    mse is SNNC's way, with the error of the neuron that is evaluated."""

    per: Literal["channel", "layer"] = "channel"
    """One calibrated threshold for each channel, or for each layer."""

    percentile: float = 99.9
    """Of the activations, for --calibrate percentile, in percent."""

    correct: Literal["bias", "weights", "rates", "potential", "steps"] | None = None
    """Correct what the SNN lacks against the ANN, layer by layer, on training images. bias: each channel's mean input;
    weights: by least squares, in kernels and biases; as others have it, from what a layer sends: rates and potential
    (SNNC, light and advanced), steps (FTBC, for neurons that fire at once)."""

    calibration_images: int = 1000
    """Training images for --calibrate and --correct, drawn at random, the same ones every time."""


@dataclass(frozen=True)
class Subject:
    """What is experimented on.

    Attributes:
      network: the network.
      model: the Flax module that it was traced from, if that is known; of the paper's tables some are for it.
      images: the test images.
      training: training images that thresholds, corrections and the like are chosen on; None if nothing is.
      settings: all that a result depends on besides its own entries, for `Results`.
      snn: the spiking version for a T and a mode, with the thresholds and corrections that were asked for; `like` is
        the mode that they are chosen for, if not that one; `correct` what is corrected, if not what the options say.
    """

    network: convert.Network
    model: nn.Module | None
    images: data.Images
    training: data.Images | None
    settings: dict
    snn: Callable[..., convert.Snn]

    @functools.cached_property
    def accuracy(self) -> float:
        """Of the ANN on the images, in percent."""
        return ann.accuracy(self.network, self.images)

    def with_images(self, images: data.Images | None) -> "Subject":
        """The same, measured on other images, unless they are None."""
        return self if images is None else replace(self, images=images)

    def __str__(self):
        return f"{self.settings['model']['name']} on {self.settings['dataset']} ({len(self.images)} test images)"


def begin(config: Experiment, modes: tuple[str, ...], trained: bool = False) -> Subject:
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
    _check_conversion(network, config, modes)
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
    return Subject(network, model, images, training, settings, _conversion(network, config, training))


def _described(network: convert.Network, config: Experiment) -> dict:
    kinds = sorted({site.kind for site in network.sites.values()})
    return {"name": config.ann.absolute().name, "act": ", ".join(kinds)}


def checked(config):
    """The options, with modes written as `str` of their neurons has them.

    Raises:
      InputError: if --T or --modes has no entry, a T is no number of steps, or a mode no neuron.
    """
    steps = config.T if isinstance(config.T, tuple) else (config.T,)
    modes = getattr(config, "modes", getattr(config, "mode", "tpp"))
    if not steps or not modes:
        raise InputError(f"--modes and --T need at least one entry; got {modes}, {steps}")
    for T in steps:
        check_steps(T, "--T")
    if not hasattr(config, "modes"):
        return replace(config, mode=str(parse(modes))) if hasattr(config, "mode") else config
    return replace(config, modes=tuple(str(parse(mode)) for mode in modes))


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


def _conversion(network: convert.Network, config: Experiment, training: data.Images | None):
    """`Subject.snn`."""
    images = None if training is None else training.images
    observed = functools.cache(lambda: calibration.observe(network, images))  # only if something is measured

    @functools.cache
    def prepared(T: int, like: str, correct: str | None) -> convert.Network:
        ready = network
        if config.calibrate:
            how = {"percentile": config.percentile, "observed": observed()}
            ready = convert.calibrate(ready, images, config.calibrate, config.per, T=T, mode=like, **how)
        if correct:
            how = {"method": correct, "progress": f"correcting {like} T={T}"}
            ready = convert.correct(ready, images, T=T, mode=like, **how)
        return ready

    def snn(T: int, mode, like: str | None = None, correct: str | None = config.correct) -> convert.Snn:
        return convert.to_snn(prepared(T, like or mode, correct), T, mode)

    return snn


def _check_conversion(network: convert.Network, config: Experiment, modes) -> None:
    """Every refusal of the conversion now, and not after the first modes have run for an hour."""
    if config.calibrate:
        calibration.check_untrained(network)
        network = network.replace(thetas=dict.fromkeys(network.sites, np.float32(1)) | network.thetas)
    check_thresholds(network)
    for mode in modes:
        neurons = neurons_of(mode, network)
        if config.correct:
            check_method(config.correct, neurons.values())

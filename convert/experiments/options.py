"""Options that all experiments on spiking versions of a network have in common."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tppjax.errors import InputError
from tppjax.neurons import check_steps, parse


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

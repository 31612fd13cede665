"""Options that all experiments on spiking versions of a network have in common."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from tppjax.errors import InputError
from tppjax.neurons import check_steps, parse


@dataclass(frozen=True)
class Experiment:
    """Options that name the network and the images, and say how the network is converted."""

    ann: Path
    """Folder of the trained network: --out of its training, or the folder that Network.save wrote."""

    seeds: int = 5
    """Runs of each random mode, with seeds 0, 1, 2, ...; other modes run once."""

    limit: int | None = None
    """Use only the first so many test images."""

    out: Path | None = None
    """Folder for the results. Results that it already holds, measured with the same settings, are kept and not
    computed again."""

    overwrite: bool = False
    """Measure everything again and replace the results in --out."""

    dataset: str | None = None
    """Data set [default: the one that the network was trained on]. For your own images: npz, a file of arrays; or
    folder, with pictures in train/CLASS/ and test/CLASS/."""

    data_dir: Path | None = None
    """Folder of the data set, or the file of npz [default: $TFDS_DATA_DIR, else ~/tensorflow_datasets]."""

    mean: tuple[float, ...] | None = None
    """Mean of each channel, for a network that was saved without preprocessing. Its input is (pixel - mean) / std,
    with pixels in [0, 1]."""

    std: tuple[float, ...] | None = None
    """Standard deviation of each channel; see --mean."""

    skip_damaged: bool = False
    """cifar10_dvs: skip and count recordings that can't be read, instead of stopping."""

    batch_size: int | None = None
    """Images in each call [default: as many as suit the device's memory]."""

    calibrate: Literal["max", "percentile", "mse"] | None = None
    """Choose thresholds on training images, again for each mode and T, where the network was not trained with them.
    mse is the method of SNNC, with the error of the neuron that is evaluated."""

    per: Literal["channel", "layer"] = "channel"
    """Calibrate one threshold for each channel, or one for each layer."""

    percentile: float = 99.9
    """Percentile of the activations, in percent, for --calibrate percentile."""

    correct: Literal["bias", "weights", "rates", "potential", "steps"] | None = None
    """Correct the difference between SNN and ANN, layer by layer, on training images. bias: the mean input of each
    channel; weights: kernels and biases, by least squares. Published methods, which look at a layer's output: rates
    and potential (SNNC, light and advanced), steps (FTBC, for neurons that fire in the step of their input)."""

    calibration_images: int = 1000
    """Number of training images for --calibrate and --correct, drawn at random, the same ones every time."""


Config = TypeVar("Config")


def checked(config: Config) -> Config:
    """The options, each T and mode once, with each mode written in its standard form, `str(neuron)`.

    Args:
      config: a dataclass of options with `T`, one number or several, and perhaps `mode` or `modes`.

    Raises:
      InputError: if --T or --modes has no entry, a T is no number of steps, or a mode is no neuron.
    """
    options: Any = config
    steps = options.T if isinstance(options.T, tuple) else (options.T,)
    modes = getattr(options, "modes", getattr(options, "mode", "tpp"))
    if not steps or not modes:
        raise InputError(f"--modes and --T need at least one entry; got {modes}, {steps}")
    for T in steps:
        check_steps(T, "--T")
    changed: dict[str, Any] = {"T": tuple(dict.fromkeys(steps))} if isinstance(options.T, tuple) else {}
    if hasattr(options, "modes"):
        changed["modes"] = tuple(dict.fromkeys(str(parse(mode)) for mode in modes))
    elif hasattr(options, "mode"):
        changed["mode"] = str(parse(modes))
    return replace(options, **changed)

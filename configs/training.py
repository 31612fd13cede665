"""The options that all training commands share. A field left at None takes the recipe's value for the network."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import flax.linen as nn

from tppjax.errors import InputError, check_number, check_paths


@dataclass(frozen=True)
class Training:
    """SGD with momentum and cosine decay to 0; the best epoch is chosen on images held out of the training set."""

    out: Path
    """Folder of the run: config.json, metrics.jsonl, checkpoints/ and the trained network, ann/."""

    act: Literal["qcfs", "clipped_relu", "relu"] = "qcfs"
    """Activation: qcfs (Bu et al., ICLR 2022), clipped_relu (RTS; Deng & Gu, ICLR 2021), relu (SNNC; Li et al., ICML
    2021)."""

    L: int | None = None
    """Number of levels of qcfs above 0 [default: 8, VGG-16 4]. An SNN of mode "rounded" with T = L steps equals the
    ANN."""

    theta_init: float | None = None
    """Value at which qcfs saturates before training; its authors call it lambda and start from 8 [default: at each
    site, the value that suits its pre-activations; for a network from --init_from, its thresholds]."""

    bound: float | None = None
    """Value at which clipped_relu saturates, in activation units [default: 2; for a network from --init_from,
    calibrated]."""

    lr: float | None = None
    """Learning rate of the first step."""

    momentum: float = 0.9
    """Momentum of SGD."""

    weight_decay: float = 5e-4
    """L2 penalty on every trained parameter, including the thresholds of qcfs."""

    epochs: int = 300
    """Passes over the training images."""

    batch_size: int = 128
    """Images per step, over all devices."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type in which convolutions and dense layers multiply; bfloat16 is faster on GPU and TPU. All else stays
    float32."""

    remat: bool = False
    """Keep only the outputs of blocks of layers for the backward pass, and compute the rest again: less memory, more
    time."""

    distributed: bool = False
    """Train on several hosts, each of which runs this command with the same options and a shared folder for --out. They
    find each other automatically on TPU pods and under Slurm; elsewhere set JAX_COORDINATOR_ADDRESS (HOST:PORT of the
    first), JAX_NUM_PROCESSES and JAX_PROCESS_ID."""

    checkpoint_every: int | None = None
    """Steps between checkpoints; more than an epoch's where writing one takes as long as an epoch [default: an
    epoch's]."""

    validation: int = 2500
    """Training images held out to choose the best epoch."""

    limit_train: int | None = None
    """Train on this many images only, drawn at random; for short trials."""

    init_from: Path | None = None
    """Start from the trained or imported network in this folder, which may have another activation; missing thresholds
    are calibrated. Its architecture and normalisation are kept."""

    seed: int = 0
    """Seed of initial weights, order of images, augmentation and held-out images."""

    resume: bool = False
    """Continue the run in --out from its last checkpoint."""

    overwrite: bool = False
    """Move a run that is already in --out to OUT.previous, replacing the run moved there before, and start again."""


LARGE = 2**31 - 1
# The minimum and maximum of every number, and whether it must be larger than the minimum.
NUMBERS = {
    "L": (0, 2**12, True),  # neurons.MAX_STEPS, since as many steps convert it exactly
    **dict.fromkeys(("theta_init", "bound"), (0, 2.0**20, True)),
    "lr": (0, 2.0**10, True),
    "momentum": (0, 0.9999, False),
    "weight_decay": (0, 2.0**10, False),
    "epochs": (0, 10**5, True),
    "seed": (0, 2**32 - 1, False),
    **dict.fromkeys(("batch_size", "validation", "limit_train", "checkpoint_every"), (0, LARGE, True)),
    "width": (0, 64, True),
    "hidden": (0, 2**20, True),
    "frames": (0, 2**10, True),
    **dict.fromkeys(("size", "resize"), (0, 2**12, True)),
    "workers": (0, 2**10, False),
}


def check(config: Training, side: int = LARGE) -> None:
    """Raises InputError, naming the option, if a number is out of range or an option has nothing to act on.

    Args:
      config: the options.
      side: length of the images' side in pixels, which limits augmentation.
    """
    check_paths(config)
    augmentation = dict.fromkeys(("pad", "cutout"), (0, side, False))
    for name, (least, most, above) in (NUMBERS | augmentation).items():
        value = getattr(config, name, None)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None:
                check_number(f"--{name}", number, least, most, above)
    for name, act in (("L", "qcfs"), ("theta_init", "qcfs"), ("bound", "clipped_relu")):
        if getattr(config, name) is not None and config.act != act:
            raise InputError(f"--{name} is an option of --act {act}; got --act {config.act}")


Config = TypeVar("Config", bound=Training)


def with_defaults(config: Config, **defaults: Any) -> Config:
    """`config` with these values in place of None."""
    return replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})


def with_network(
    config: Config, options: tuple[str, ...], network: dict[str, Any], model: nn.Module | None = None
) -> Config:
    """`config` with arch and the network's `options` filled in, from the `model` if there is one, else from `network`.

    Raises:
      InputError: if an option is given that the network does not have, or with another value.
    """
    if model is not None:
        own = {name: getattr(model, name) for name in options if hasattr(model, name)}
        network = {"arch": model.name, **own}
    for name in ("arch", *options):
        value = getattr(config, name)
        if value is not None and value != network.get(name) and (model is not None or name not in network):
            owner = network["arch"] if model is None else f"the network in --init_from {config.init_from}"
            raise InputError(f"{owner} has {name}={network.get(name)}; got --{name} {value}")
    return with_defaults(config, **network)

"""The options every training command shares. A field left at None takes the recipe's value for the network chosen."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tppjax.errors import InputError, check_number


@dataclass(frozen=True)
class Training:
    """SGD with momentum and cosine decay to 0; the best epoch is chosen on images held out of the training set."""

    out: Path
    """Folder of the run: config.json, metrics.jsonl, checkpoints/ and the trained network, ann/."""

    act: Literal["qcfs", "clipped_relu", "relu"] = "qcfs"
    """Activation: qcfs (Bu et al., ICLR 2022), clipped_relu (RTS; Deng & Gu, ICLR 2021), relu (SNNC; Li et al., ICML
    2021)."""

    L: int | None = None
    """Levels of qcfs above 0 [default: 8, VGG-16 4]. An SNN of mode "rounded" with T = L steps equals the ANN."""

    theta_init: float | None = None
    """Where qcfs saturates before training, the lambda of its authors, who begin with 8 [default: at each site, what
    its pre-activations ask for; of a network from --init_from, the thresholds it has]."""

    bound: float | None = None
    """Where clipped_relu saturates, in activation units [default: 2; of a network from --init_from, calibrated]."""

    lr: float | None = None
    """Learning rate of the first step."""

    momentum: float = 0.9
    """Momentum of SGD."""

    weight_decay: float = 5e-4
    """L2 penalty on every trained parameter, thresholds of qcfs included."""

    epochs: int = 300
    """Passes over the training images."""

    batch_size: int = 128
    """Images a step, over all devices."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """What convolutions and dense layers multiply in; bfloat16 is faster on GPU and TPU. All else stays float32."""

    remat: bool = False
    """Keep less for the backward pass, and compute it again: only what blocks of layers give."""

    distributed: bool = False
    """Train on several hosts, each of which runs this command with the same options and a shared folder for --out. They
    find each other by themselves on TPU pods and under Slurm; elsewhere set JAX_COORDINATOR_ADDRESS (HOST:PORT of the
    first), JAX_NUM_PROCESSES and JAX_PROCESS_ID."""

    checkpoint_every: int | None = None
    """Steps between checkpoints [default: those of an epoch]."""

    validation: int = 2500
    """Training images held out to choose the best epoch."""

    limit_train: int | None = None
    """Train on this many images only, drawn at random; for short trials."""

    init_from: Path | None = None
    """Begin with the network in this folder, trained or imported, which may have another activation; thresholds that it
    lacks are calibrated. Its architecture and normalisation are kept."""

    seed: int = 0
    """Of initial weights, order of images, augmentation and held-out images."""

    resume: bool = False
    """Continue the run in --out where its last checkpoint stands."""

    overwrite: bool = False
    """Move a run that is already in --out to OUT.previous, instead of the one moved there before, and start anew."""


LARGE = 2**31 - 1
# Every number: the least and the most that it can be, and whether it must lie above the least.
NUMBERS = {
    "L": (0, 2**12, True),  # counts.MAX_STEPS: as many convert it exactly
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
      side: of the images in pixels, which augmentation can't go beyond.
    """
    augmentation = dict.fromkeys(("pad", "cutout"), (0, side, False))
    for name, (least, most, above) in (NUMBERS | augmentation).items():
        value = getattr(config, name, None)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None:
                check_number(f"--{name}", number, least, most, above)
    for name, act in (("L", "qcfs"), ("theta_init", "qcfs"), ("bound", "clipped_relu")):
        if getattr(config, name) is not None and config.act != act:
            raise InputError(f"--{name} is an option of --act {act}; got --act {config.act}")


def with_defaults(config: Training, **defaults) -> Training:
    """`config` with these values where it has None."""
    return replace(config, **{name: value for name, value in defaults.items() if getattr(config, name) is None})


def with_network(config: Training, options: tuple[str, ...], network: dict, given=None) -> Training:
    """`config` with arch and the network's `options` filled in: as `given` has them, if it is a model, else `network`.

    Raises:
      InputError: if one was asked for that the network does not have, or not so.
    """
    if given is not None:
        own = {name: getattr(given, name) for name in options if hasattr(given, name)}
        network = {"arch": given.name, **own}
    for name in ("arch", *options):
        asked = getattr(config, name)
        if asked is not None and asked != network.get(name) and (given is not None or name not in network):
            whose = network["arch"] if given is None else f"the network in --init_from {config.init_from}"
            raise InputError(f"{whose} has {name}={network.get(name)}; got --{name} {asked}")
    return with_defaults(config, **network)

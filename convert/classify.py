"""`python -m convert.classify FOLDER PICTURE ...`: the classes that a spiking network gives to pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Float

import convert
from convert.execution import keyed_batches
from convert.experiments.inputs import check_outputs
from tppjax import cli, prng
from tppjax.data import Preprocessing, folder
from tppjax.errors import InputError, check_number
from tppjax.types import Array, Key


@dataclass(frozen=True)
class Classify:
    """Print the classes that a network gives to pictures, with its confidence: the softmax of its mean output."""

    network: tyro.conf.Positional[Path]
    """Folder of a spiking network, which Snn.save wrote; or of a network with thresholds, with --T and --mode."""

    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """Files that Pillow reads; each is brought to the size of the network's preprocessing."""

    T: int | None = None
    """Number of time steps, if the network is not spiking yet."""

    mode: str | None = None
    """Neurons, if the network is not spiking yet, written as for convert.evaluate."""

    top: int = 3
    """Number of classes shown for each picture."""

    seed: int = 0
    """Seed of random neurons."""


def main(config: Classify) -> list[Float[np.ndarray, "steps classes"]]:
    """Prints a line for each picture, and returns the probabilities of the classes, `[T or 1, K]` each.

    For neurons that fire in the step of their input, a second line has the best class after each step.

    Raises:
      InputError, FileNotFoundError: if an option is out of range, a picture can't be read, or there is no network.
    """
    check_number("--top", config.top, 1)
    check_number("--seed", config.seed, 0, 2**32 - 1)
    if not config.pictures:
        raise InputError("give at least one picture")
    snn, preprocessing = _network(config)
    images = folder.read(list(config.pictures), preprocessing)
    key, probabilities = jax.random.key(config.seed, impl=prng.HASH), []
    for x, keys in keyed_batches(snn, images, key, snn.batch_size(traced=not _waits(snn))):
        probabilities += list(np.asarray(_probabilities(snn, x, keys)))
    for file, by_step in zip(config.pictures, probabilities, strict=True):
        print(f"{file}: {_line(by_step[-1], preprocessing.class_names, config.top)}")
        if len(by_step) > 1:
            print("  after each step: " + "; ".join(_line(p, preprocessing.class_names, 1) for p in by_step))
    return probabilities


def _network(config: Classify) -> tuple[convert.Snn, Preprocessing]:
    """The spiking network of the options, and its preprocessing."""
    snn = convert.load(config.network)
    if isinstance(snn, convert.Snn):
        if config.T is not None or config.mode is not None:
            raise InputError(f"the network in {config.network} has its T and neurons: leave --T and --mode out")
    elif config.T is None or config.mode is None:
        raise InputError(f"the network in {config.network} is not spiking yet: give --T and --mode")
    else:
        snn = convert.to_snn(snn, config.T, config.mode)
    preprocessing = snn.network.preprocessing
    if preprocessing is None or preprocessing.frames is not None:
        raise InputError(f"the network in {config.network} has no preprocessing for pictures: it was saved without one")
    check_outputs(snn.network, config.network)
    return snn, preprocessing


def _probabilities(snn: convert.Snn, x: Array, key: Key | None) -> jax.Array:
    """`[B, T, K]` after each step if no neuron waits for the input of all T steps, else `[B, 1, K]`."""
    if _waits(snn):
        return jax.nn.softmax(snn.apply(x, key))[:, None]
    logits = jnp.cumsum(snn.trace(x, key).logits, axis=0)
    steps = jnp.arange(1, len(logits) + 1).reshape(-1, 1, 1)
    return jnp.moveaxis(jax.nn.softmax(logits / steps), 0, 1)


def _waits(snn: convert.Snn) -> bool:
    return any(neuron.waits for neuron in snn.in_network.values())


def _line(probabilities: np.ndarray, names: Sequence[str], top: int) -> str:
    best = np.argsort(-probabilities)[:top]
    return ", ".join(f"{names[i]} {100 * probabilities[i]:.1f} %" for i in best)


if __name__ == "__main__":
    cli.run(main, Classify)

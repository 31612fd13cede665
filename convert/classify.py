"""`python -m convert.classify FOLDER PICTURE ...`: what a spiking network says of pictures."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import convert
from tppjax import cli, prng
from tppjax.batching import batches
from tppjax.data import folder
from tppjax.errors import InputError, check_number


@dataclass(frozen=True)
class Classify:
    """Print the classes that a network gives to pictures, with its confidence: the softmax of its mean output."""

    network: tyro.conf.Positional[Path]
    """Folder of a spiking network, where Snn.save wrote it; or of one with thresholds, with --T and --mode."""

    pictures: tyro.conf.Positional[tuple[Path, ...]]
    """Files that Pillow reads; each is brought to the network's size, as its preprocessing has it."""

    T: int | None = None
    """Time steps, if the network is not spiking yet."""

    mode: str | None = None
    """Its neurons then, as convert.evaluate has them."""

    top: int = 3
    """Classes shown for each picture."""

    seed: int = 0
    """Of random neurons."""


def main(config: Classify) -> list[np.ndarray]:
    """Prints a line for each picture, and returns the probabilities of the classes, `[T or 1, K]` each.

    For neurons that fire as their input comes, the line goes on with what the network says after each step.

    Raises:
      InputError, FileNotFoundError: on options out of range, a picture that can't be read, or no network.
    """
    check_number("--top", config.top, 1)
    check_number("--seed", config.seed, 0, 2**32 - 1)
    if not config.pictures:
        raise InputError("give at least one picture")
    snn = _network(config)
    preprocessing = snn.network.preprocessing
    images = folder.read(list(config.pictures), preprocessing)
    keys = convert.example_keys(jax.random.key(config.seed, impl=prng.HASH), np.arange(len(images)))
    size, found = snn.batch_size(), []
    for x, key in zip(batches(images, size), batches(keys, size), strict=True):
        found += list(np.asarray(_probabilities(snn, x, key if snn.random else None)))
    for file, by_step in zip(config.pictures, found, strict=True):
        print(f"{file}: {_line(by_step[-1], preprocessing.class_names, config.top)}")
        if len(by_step) > 1:
            print("  after each step: " + "; ".join(_line(p, preprocessing.class_names, 1) for p in by_step))
    return found


def _network(config: Classify) -> convert.Snn:
    found = convert.load(config.network)
    if isinstance(found, convert.Snn):
        if config.T is not None or config.mode is not None:
            raise InputError(f"the network in {config.network} has its T and neurons: leave --T and --mode out")
    elif config.T is None or config.mode is None:
        raise InputError(f"the network in {config.network} is not spiking yet: give --T and --mode")
    snn = found if isinstance(found, convert.Snn) else convert.to_snn(found, config.T, config.mode)
    preprocessing = snn.network.preprocessing
    if preprocessing is None or preprocessing.frames is not None:
        raise InputError(f"the network in {config.network} has no preprocessing for pictures: it was saved without one")
    return snn


def _probabilities(snn: convert.Snn, x, key):
    """`[B, T, K]` after each step, where neurons fire as their input comes; else `[B, 1, K]`."""
    if any(neuron.waits for neuron in snn.in_network.values()):
        return jax.nn.softmax(snn.apply(x, key))[:, None]
    logits = jnp.cumsum(snn.trace(x, key).logits, axis=0)
    steps = jnp.arange(1, len(logits) + 1).reshape(-1, 1, 1)
    return jnp.moveaxis(jax.nn.softmax(logits / steps), 0, 1)


def _line(probabilities, names, top: int) -> str:
    best = np.argsort(-probabilities)[:top]
    return ", ".join(f"{names[i]} {100 * probabilities[i]:.1f} %" for i in best)


if __name__ == "__main__":
    cli.run(main, Classify)

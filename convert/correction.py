"""Correction: the difference between a spiking network and its ANN at each site is added to the spiking network.

Thresholds clip and neurons draw at random, so the input of a site in the SNN differs from that in the ANN. The sites
are corrected in the order in which they run. Our own corrections are in `least_squares`, those of other papers in
`sent`.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from convert import least_squares, sent
from convert.batch_norm import fold_batch_norm
from convert.execution import keyed_batches
from convert.snn import Snn, to_snn
from tppjax import prng
from tppjax.checks import check_examples
from tppjax.errors import InputError, check_count, check_number
from tppjax.network import Network
from tppjax.neurons import Neuron
from tppjax.tracing import trace
from tppjax.types import ImagesLike

SENT: dict[str, Callable[..., Network]] = {"rates": sent.rates, "potential": sent.potential, "steps": sent.steps}
METHODS = {
    "bias": "offsets",
    "weights": "weights and offsets",
    "rates": "offsets by rates (SNNC)",
    "potential": "initial potentials (SNNC)",
    "steps": "offsets of each step (FTBC)",
}
COMPILED: tuple[Any, ...] = *least_squares.COMPILED, *sent.COMPILED


def correct(
    network: Any,
    images: ImagesLike,
    *,
    T: int,
    mode: str | Neuron | dict[str, str | Neuron] = "tpp",
    method: str = "bias",
    ridge: float = 1e-3,
    seed: int = 0,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Network:
    """The network, corrected at each site and at the output for the errors of its spiking version.

    Args:
      network: a `Network` with thresholds, or anything that `trace` accepts.
      images: images `[N, ...]` of the training set; some hundred are enough, a thousand for weights.
      T: number of time steps of the spiking version.
      mode: neurons of the spiking version.
      method: "bias" corrects the mean input of each channel; "weights" also corrects, by least squares, the weights of
        the layers that feed a site through nothing but sums, after folding batch norm. The published methods "rates",
        "potential" (both SNNC) and "steps" (FTBC) are in `sent`.
      ridge: penalty of least squares, relative to the mean power of the layers' inputs; it keeps the change small in
        directions for which the images contain little information.
      seed: seed of random modes.
      batch_size: images in each call; by default up to 100, as many as suit the device's memory.
      progress: name of a progress bar over the sites, shown on a terminal.

    Returns:
      The corrected network: offsets or potentials for its sites, and changed weights.

    Raises:
      InputError: as `to_snn`; if a number is out of range; or if the images don't fit.
    """
    network = trace(network, images)
    snn = to_snn(fold_batch_norm(network) if method == "weights" else network, T, mode)
    check_correction(method, snn.network, snn.in_network.values())
    images = check_examples(network, images, "correction")
    check_number("ridge", ridge, 1e-6)
    check_count("seed", seed, 0)
    check_count("batch_size", 1 if batch_size is None else batch_size)
    key = jax.random.key(seed, impl=prng.HASH)
    feed = partial(keyed_batches, snn, images, key, batch_size or min(100, snn.batch_size()))
    step = f"{METHODS[method]} corrected site by site at T={T} for {snn.mode}, on {len(images)} images"
    return _site_by_site(snn, method, ridge, feed, progress).replace(history=(*network.history, step))


def _site_by_site(snn: Snn, method: str, ridge: float, feed: sent.Batches, progress: str | None) -> Network:
    """The network after the correction of one site after the other."""
    reference = snn.network
    targets: list[Any]  # sites or places, as `correct_one` takes them
    if method in SENT:
        targets, correct_one = list(reference.sites.values()), SENT[method]
    else:
        targets = least_squares.places(reference)
        correct_one = partial(least_squares.at_place, weights=method == "weights", ridge=ridge)
    for target in tqdm(targets, desc=progress, disable=None if progress else True, leave=False):
        snn = snn.replace(network=correct_one(reference, snn, target, feed))
        for compiled in COMPILED:  # for this site alone; hundreds exceed what a process may map
            compiled.clear_cache()
    return snn.network


def check_method(method: str, neurons: Iterable[Neuron] = ()) -> None:
    """Raises InputError unless the method exists and is possible for these neurons."""
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if method == "steps" and (others := sorted({str(n) for n in neurons if n.waits or n.lead})):
        raise InputError(
            f"method 'steps' is for neurons that fire in the step in which their input comes, and {', '.join(others)} "
            "does not, or runs ahead: use 'bias'"
        )


def check_correction(method: str, network: Network, neurons: Iterable[Neuron]) -> None:
    """As `check_method`; also if it would undo an earlier correction, or aim at an ANN whose weights were changed."""
    check_method(method, neurons)
    if any(step.startswith(f"{METHODS['weights']} corrected") for step in network.history):
        raise InputError(
            "the network's weights were corrected, so it is not the ANN any more that a correction aims at: correct "
            "the network from before"
        )
    if method in ("bias", "weights") and (by_step := [s for s, o in network.offsets.items() if np.ndim(o) == 2]):
        raise InputError(
            f"{by_step[0]} was corrected step by step, which {method!r} would undo: correct by {method!r} first"
        )

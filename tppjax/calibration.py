"""Thresholds for a network that learned none: from its activations on calibration images."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.batching import batches
from tppjax.checks import as_images, check_examples
from tppjax.errors import InputError, check_count, check_number
from tppjax.histogram import Histogram
from tppjax.network import Network
from tppjax.neurons import Neuron, check_neuron, check_steps, parse
from tppjax.tracing import trace
from tppjax.types import Array, ImagesLike

METHODS = ("max", "percentile", "mse")
CANDIDATES = 1 - 0.01 * np.arange(95)  # of the maximum: 1.00, 0.99, ..., 0.06 (SNNC: Li et al., ICML 2021)


def calibrate(
    network: Any,
    images: ImagesLike,
    method: str = "mse",
    per: str = "channel",
    *,
    T: int = 16,
    mode: str | Neuron = "tpp",
    percentile: float = 99.9,
    observed: dict[str, Histogram] | None = None,
    batch_size: int | None = None,
) -> Network:
    """The network with a threshold at each site that learned none in training, from its activations on `images`.

    Args:
      network: a `Network`, or anything that `trace` takes.
      images: calibration images `[N, ...]`, from the training set; their order does not matter.
      method: "max", the largest activation; "percentile"; or "mse", the fraction of the largest, out of 95 from 1.00 to
        0.06, that minimises the mean squared error between activation and rate (SNNC).
      per: "channel", or "layer" for one threshold for all channels of a site.
      T: number of time steps that the thresholds are meant for; only "mse" uses it.
      mode: the neuron whose expected squared error "mse" minimises; that of SNNC is `"baseline(v_init=0)"`.
      percentile: percentile of all activations, zeros included, in percent.
      observed: what `observe` returned for these images, to choose again for another T or mode without another pass.
      batch_size: images per call; by default as many as suit the device's memory.

    Returns:
      The network with thresholds, `[C]` or `[]`. A dead channel has the largest threshold of its site. QCFS keeps its
      trained thresholds. The threshold of a clip, such as ReLU6, is at most its bound, which it has before calibration.

    Raises:
      InputError: on unknown names, numbers out of range, images that are missing or don't fit, or only QCFS sites.
    """
    _check_choice(method, per, T, percentile)
    network, images = _checked(network, images)
    neuron = parse(mode).at(network.kinds)
    check_neuron(neuron, T)
    observed = _observe(network, images, batch_size) if observed is None else observed
    if missing := [site.name for site in network.sites.values() if site.kind != "qcfs" and site.name not in observed]:
        raise InputError(f"observed lacks {', '.join(missing)}: pass what observe returned for this network")
    thetas = choose(observed, method, per, T=T, neuron=neuron, percentile=percentile)
    detail = {"max": "", "percentile": f" {percentile}", "mse": f" at T={T} for {parse(mode)}"}[method]
    history = (*network.history, f"thresholds: {method}{detail} per {per}, from {len(images)} images")
    return network.replace(thetas=network.thetas | thetas, history=history)


def _checked(network: Any, images: ImagesLike) -> tuple[Network, Array]:
    images = as_images(images)  # once: pictures on a disk are read each time
    network = trace(network, images)
    check_untrained(network)
    return network, check_examples(network, images, "calibration")


def observe(network: Any, images: ImagesLike, batch_size: int | None = None) -> dict[str, Histogram]:
    """Histograms of the activations on `images` at each site except QCFS, in one pass. Arguments as `calibrate`."""
    return _observe(*_checked(network, images), batch_size)


def _observe(network: Network, images: Array, batch_size: int | None) -> dict[str, Histogram]:
    if batch_size is not None:
        check_count("batch_size", batch_size)
    histograms: dict[str, Histogram] = {}
    for batch in batches(images, batch_size or network.batch_size(kept=True)):
        for name, x in jax.tree.map(np.asarray, _at_sites(network, batch)).items():
            x = np.asarray(x, np.float32)
            if not np.isfinite([x.min(), x.max()]).all():
                raise InputError(f"the input of {name} is not finite: check the range of the images and of the weights")
            site = network.sites[name]
            x = x.reshape(-1, 1) if site.axis is None else np.moveaxis(x, site.axis + 1, -1)
            histograms.setdefault(name, Histogram(x.shape[-1])).add(x)
    return histograms


@jax.jit
def _at_sites(network: Network, images: jax.Array) -> dict[str, jax.Array]:
    inputs = {name: x for name, x in network.inputs(images).items() if network.sites[name].kind != "qcfs"}
    bounds = {name: network.weights[network.sites[name].bound] for name in inputs if network.sites[name].bound}
    return {name: jnp.minimum(x, bounds[name]) if name in bounds else x for name, x in inputs.items()}


def choose(
    histograms: dict[str, Histogram], method: str, per: str, *, T: int, neuron: Neuron, percentile: float = 99.9
) -> dict[str, np.ndarray]:
    """`{site: theta}` from the histograms of `observe`; arguments as `calibrate`."""
    _check_choice(method, per, T, percentile)
    thetas = {}
    for site, histogram in histograms.items():
        histogram = histogram if per == "channel" else histogram.pooled()
        match method:
            case "max":
                theta = histogram.largest
            case "percentile":
                theta = histogram.percentile(percentile)
            case _:
                theta = least_error(histogram, T, neuron)
        if not theta.max() > 0 and histogram.largest.max() > 0:
            raise InputError(
                f"the percentile {percentile:g} of the activations at {site} is 0, since few of them are positive: "
                "give a higher one, or another method"
            )
        if not theta.max() > 0:
            raise InputError(f"nothing ever fires at {site} on the calibration images: are they those of the network?")
        theta = np.where(theta > 0, theta, theta.max()).astype(np.float32)
        thetas[site] = theta if per == "channel" and theta.size > 1 else np.asarray(theta[0])
    return thetas


def least_error(histogram: Histogram, T: int, neuron: Neuron) -> np.ndarray:
    """The candidate with the least mean squared error for each channel, `[C]`; the largest one on a tie."""
    thetas = histogram.largest[:, None] * CANDIDATES
    errors = _errors(jnp.float32(histogram.counts), jnp.float32(histogram.values()), jnp.float32(thetas), T, neuron)
    return np.take_along_axis(thetas, np.asarray(errors).argmin(axis=1)[:, None], axis=1)[:, 0]


@partial(jax.jit, static_argnames=("T", "neuron"))
def _errors(weights: jax.Array, values: jax.Array, thetas: jax.Array, T: int, neuron: Neuron) -> jax.Array:
    """Squared error summed over a channel's values, for each of its candidates: `[C, K]`; one channel at a time."""

    def of_channel(channel: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        weights, values, thetas = channel
        return jax.vmap(lambda theta: jnp.sum(weights * neuron.squared_error(values, theta, T)))(thetas)

    return jax.lax.map(of_channel, (weights, values, thetas))


def _check_choice(method: str, per: str, T: int, percentile: float) -> None:
    check_steps(T)
    for name, (value, names) in {"method": (method, METHODS), "per": (per, ("channel", "layer"))}.items():
        if value not in names:
            raise InputError(f"unknown {name} {value!r}; known: {', '.join(names)}")
    check_number("percentile", percentile, 0, 100, above=True)


def check_untrained(network: Network) -> None:
    """Raises InputError if every site was trained with its threshold."""
    if network.offsets or network.potentials:
        raise InputError(
            "the network was corrected for its present thresholds: calibrate the network before correction"
        )
    if all(site.kind == "qcfs" for site in network.sites.values()):
        raise InputError("a network with qcfs already has its thresholds: there is nothing to calibrate")

"""Thresholds for a network that learned none: from its activations on calibration images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tppjax import counts
from tppjax.activations import ClippedReLU, ReLU
from tppjax.ann import Ann, images_at_once, site_inputs, sites, thresholds
from tppjax.batching import batches
from tppjax.checks import check_ann, check_images
from tppjax.counts import check_steps
from tppjax.errors import InputError, check_count, check_number
from tppjax.histogram import Histogram
from tppjax.spiking import MODES

TOGETHER = 50  # images a batch in `begin`
METHODS = ("max", "percentile", "mse")
CANDIDATES = 1 - 0.01 * np.arange(95)  # of the maximum: 1.00, 0.99, ..., 0.06 (SNNC: Li et al., ICML 2021)


def calibrate(
    ann: Ann,
    images,
    method: str = "mse",
    per: str = "channel",
    *,
    T: int = 16,
    mode: str = "tpp",
    percentile: float = 99.9,
    observed: dict[str, Histogram] | None = None,
    batch_size: int | None = None,
) -> Ann:
    """The network with a threshold at each site, from its activations on `images`.

    A network with `ClippedReLU` whose variables hold no `theta` gets its bound there, which changes nothing, whatever
    the other arguments.

    Args:
      ann: a network with plain ReLU.
      images: calibration images `[N, H, W, C]`, of the training set; their order does not matter.
      method: "max", the largest activation; "percentile"; or "mse", the one of 95 parts of the largest, 1.00 to 0.06,
        that makes the mean squared error between activation and rate least (SNNC).
      per: "channel", or "layer" for one threshold for all channels of a site.
      T: number of time steps that the thresholds are meant for; only "mse" asks.
      mode: the neuron that they are meant for, likewise: its expected squared error is what "mse" makes least; "floor"
        is SNNC's own, which always rounds down.
      percentile: of all activations, zeros included, in percent.
      observed: what `observe` found on these images, to choose again for another T or mode without another pass.
      batch_size: images a call; by default as many as suit the device's memory.

    Returns:
      The network with a leaf `theta` at each site, `[C]` or `[]`; a dead channel has the largest threshold of its site.

    Raises:
      InputError: on unknown names, numbers out of range, a network that can't be run on these images, no images, or a
        network that has thresholds, which were trained with it.
    """
    check_ann(ann)
    _check_choice(method, per, T, mode, percentile)
    if isinstance(ann.model.act, ClippedReLU):
        images = check_images(ann, images, "calibration")
        missing = sites(ann.model, (1, *images.shape[-3:])).keys() - thresholds(ann.variables).keys()
        if missing:
            bounds = dict.fromkeys(missing, np.float32(ann.model.act.bound))
            return with_thresholds(ann, bounds, f"thresholds: the bound of ClippedReLU, {ann.model.act.bound:g}")
    check_plain(ann)
    images = check_images(ann, images, "calibration")
    observed = _observe(ann, images, batch_size) if observed is None else observed
    thetas = choose(observed, method, per, T=T, mode=mode, percentile=percentile)
    detail = {"max": "", "percentile": f" {percentile}", "mse": f" at T={T} for {mode}"}[method]
    return with_thresholds(ann, thetas, f"thresholds: {method}{detail} per {per}, from {len(images)} images")


def observe(ann: Ann, images, batch_size: int | None = None) -> dict[str, Histogram]:
    """Histograms of what reaches each site, on `images`; one pass. Arguments and errors as `calibrate`."""
    check_ann(ann)
    check_plain(ann)
    return _observe(ann, check_images(ann, images, "calibration"), batch_size)


def begin(ann: Ann, images) -> Ann:
    """A QCFS network that is to be trained, with the `theta` that suits what reaches each site: one number a site.

    Of the candidates of "mse" it is the one whose `L` levels have the least squared error, as quantisation-aware
    training begins. What reaches a site is taken with plain ReLU at the sites before it, and with the batch norm of
    training, by the statistics of each batch.

    Args:
      ann: the network; its model's `__call__` takes `train`.
      images: of the training set, `[N, H, W, C]`; their order decides which are in one batch.

    Raises:
      InputError: as `calibrate`.
    """
    levels, images = ann.model.act.L, check_images(ann, images, "training")
    plain = ann.replace(model=ann.model.clone(act=ReLU()), variables=without_thresholds(ann.variables))
    observed = _observe(plain, images, TOGETHER, train=True)
    thetas = choose(observed, "mse", "layer", T=levels, mode="rounded")
    return with_thresholds(
        ann, thetas, f"thresholds before training: least error of {levels} levels, {len(images)} images"
    )


def _observe(ann: Ann, images, batch_size: int | None, train: bool = False) -> dict[str, Histogram]:
    if batch_size is not None:
        check_count("batch_size", batch_size)
    found: dict[str, Histogram] = {}
    at_once = batch_size or images_at_once(ann.model, images.shape, kept=True)
    for batch in batches(images, at_once):
        for site, x in jax.tree.map(np.asarray, _at_sites(ann, batch, train)).items():
            if not np.isfinite([x.min(), x.max()]).all():
                raise InputError(f"what reaches {site} is not finite: check the range of the images and of the weights")
            found.setdefault(site, Histogram(x.shape[-1])).add(x)
    return found


@partial(jax.jit, static_argnames="train")
def _at_sites(ann: Ann, images, train: bool) -> dict[str, jax.Array]:
    how = {"train": True, "mutable": ["batch_stats"]} if train else {}
    return site_inputs(ann.model, ann.variables, ann.input(images), **how)[1]


def choose(histograms: dict[str, Histogram], method: str, per: str, *, T: int, mode: str, percentile=99.9) -> dict:
    """`{site: theta}` from the histograms of `observe`; arguments as `calibrate`."""
    _check_choice(method, per, T, mode, percentile)
    thetas = {}
    for site, histogram in histograms.items():
        histogram = histogram if per == "channel" else histogram.pooled()
        match method:
            case "max":
                theta = histogram.largest
            case "percentile":
                theta = histogram.percentile(percentile)
            case "mse":
                theta = least_error(histogram, T, mode)
        if not theta.max() > 0:
            raise InputError(f"nothing ever fires at {site} on the calibration images: are they those of the network?")
        theta = np.where(theta > 0, theta, theta.max()).astype(np.float32)
        thetas[site] = theta if per == "channel" else theta[0]
    return thetas


def least_error(histogram: Histogram, T: int, mode: str) -> np.ndarray:
    """The candidate with the least mean squared error for each channel, `[C]`; the largest one on a tie."""
    thetas = histogram.largest[:, None] * CANDIDATES
    errors = _errors(jnp.float32(histogram.counts), jnp.float32(histogram.values()), jnp.float32(thetas), T, mode)
    return np.take_along_axis(thetas, np.asarray(errors).argmin(axis=1)[:, None], axis=1)[:, 0]


@partial(jax.jit, static_argnames=("T", "mode"))
def _errors(weights, values, thetas, T: int, mode: str):
    """Squared error summed over a channel's values, for each of its candidates: `[C, K]`; one channel at a time."""

    def of_channel(channel):
        weights, values, thetas = channel
        return jax.vmap(lambda theta: jnp.sum(weights * squared_error(values, theta, T, mode)))(thetas)

    return jax.lax.map(of_channel, (weights, values, thetas))


def squared_error(x, theta, T: int, mode: str):
    """Expected squared error of the rate `theta count / T` as an estimate of `x > 0`, clipping included; elementwise.

    For "baseline" and "shuffle" that of "rounded", which is what they come to if their input does not change in time.

    Raises:
      InputError: on an unknown mode.
    """
    u = counts.in_thresholds(T * x, theta)
    inside = jnp.clip(u, 0, T)
    low = jnp.minimum(jnp.floor(inside), T - 1)
    match mode:
        case "tpp":
            more = counts.probability_of_one_more(inside, low, T)
        case "unbiased":
            more = inside - low
        case "floor":
            more = inside >= T
        case "rounded" | "baseline" | "shuffle":
            more = inside - low >= 0.5
        case _:
            raise InputError(f"unknown mode {mode!r}; known: {', '.join((*MODES, 'floor'))}")
    return (theta / T) ** 2 * ((1 - more) * (low - u) ** 2 + more * (low + 1 - u) ** 2)


def without_thresholds(variables) -> dict:
    """The variables less every leaf `theta`."""
    flat = traverse_util.flatten_dict(variables["params"])
    kept = {path: leaf for path, leaf in flat.items() if path[-1] != "theta"}
    return {**variables, "params": traverse_util.unflatten_dict(kept)}


def with_thresholds(ann: Ann, thetas: dict, how: str) -> Ann:
    """The network with these leaves `theta`, and `how` they came about in its history."""
    params = traverse_util.flatten_dict(ann.variables["params"], sep="/")
    params |= {f"{site}/theta": theta for site, theta in thetas.items()}
    variables = {**ann.variables, "params": traverse_util.unflatten_dict(params, sep="/")}
    return ann.replace(variables=variables, history=(*ann.history, how))


def _check_choice(method, per, T, mode, percentile):
    check_steps(T)
    known = {"method": (method, METHODS), "per": (per, ("channel", "layer")), "mode": (mode, (*MODES, "floor"))}
    for name, (value, names) in known.items():
        if value not in names:
            raise InputError(f"unknown {name} {value!r}; known: {', '.join(names)}")
    check_number("percentile", percentile, 0, 100, above=True)


def check_plain(ann: Ann) -> None:
    """Raises InputError if the network has thresholds of its own."""
    if not isinstance(ann.model.act, ReLU):
        raise InputError(f"a network with {type(ann.model.act).__name__} learned its thresholds: nothing to calibrate")

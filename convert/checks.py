"""Checks that refuse what can't be converted before anything is computed; messages say where and what to do."""

from collections.abc import Mapping

import numpy as np

from tppjax.errors import InputError, refusing
from tppjax.graph.operations import MAXIMA
from tppjax.network import Network
from tppjax.neurons import NEURONS, Neuron, parse


def check_steps_of_offsets(network: Network, T: int) -> None:
    """Raises InputError if the network was corrected for another number of steps, where that matters."""
    for name, offset in network.offsets.items():
        if np.ndim(offset) == 2 and len(offset) != T:
            raise InputError(f"{name} was corrected step by step for T={len(offset)}; got T={T}: correct it for that")


def check_thresholds(network: Network) -> None:
    """Raises InputError unless every site has a threshold that is positive and finite."""
    if network.missing:
        raise InputError(
            f"no threshold at {', '.join(network.missing)}: ReLU learns none; choose them by "
            "convert.calibrate(network, images), or --calibrate mse in convert.evaluate"
        )
    for name, theta in network.thetas.items():
        theta = np.asarray(theta)
        if not np.all(np.isfinite(theta)):
            raise InputError(f"{name} has a threshold that is not finite")
        if not np.all(theta > 0):
            raise InputError(f"{name} has a threshold that is not positive, {theta.min()}")


def neurons_of(mode: str | Neuron | Mapping[str, str | Neuron], network: Network) -> dict[str, Neuron]:
    """The neurons of each site, from the mode of all sites or of each: `{site: mode}`.

    Raises:
      InputError: as `neurons.parse`; if a site is unknown or has no mode; or if its neurons can't have its max-pool.
    """
    sites = network.sites
    if not isinstance(mode, Mapping):
        neurons = dict.fromkeys(sites, parse(mode))
    elif mode.keys() != sites.keys():
        unknown, missing = sorted(mode.keys() - sites.keys()), sorted(sites.keys() - mode.keys())
        raise InputError(f"mode needs one entry for every site; unknown: {unknown}; missing: {missing}")
    else:
        neurons = {site: _parsed(site, mode[site]) for site in sites}
    for site in sites.values():
        if not neurons[site.name].two_phase and any(op.name in MAXIMA for op in site.before):
            two_phase = ", ".join(name for name, kind in NEURONS.items() if kind.two_phase)
            raise InputError(
                f"mode {neurons[site.name]} can't have the max-pool at {site.name}: its neurons take their input step "
                "by step, and the maximum over the spikes of a step is not the maximum over rates; use a two-phase "
                f"mode ({two_phase}), which pools the potentials before it fires, or train with average pooling"
            )
    ahead = {str(neuron): neuron.lead for neuron in neurons.values()}
    if len(set(ahead.values())) > 1:
        raise InputError(
            f"neurons that run some steps ahead of those that count stand alone: {', '.join(ahead)} run ahead by "
            f"{', '.join(map(str, ahead.values()))} steps"
        )
    return neurons


def _parsed(site: str, mode: str | Neuron) -> Neuron:
    with refusing(f"at {site}", kinds=InputError):
        return parse(mode)


def check_frames(frames: int | None, T: int) -> None:
    """Raises InputError unless `frames` of a recording spread evenly over `T` steps; None stands for still images."""
    if frames is not None and T % frames and frames % T:
        raise InputError(
            f"recordings of {frames} frames can't be spread evenly over T={T} steps: let T be a multiple of {frames}, "
            "or divide it"
        )

"""What can't be converted is refused before anything is computed, with a sentence that says where and what to do."""

import numpy as np

from convert.folded import TWO_PHASE
from tppjax.calibration import MODES
from tppjax.errors import InputError
from tppjax.graph.operations import MAXIMA
from tppjax.network import Network


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


def check_mode(mode, network: Network) -> dict[str, str]:
    """The mode of each site, in the order in which they run, of a name for all or `{site: name}`."""
    if not isinstance(mode, str | dict):
        raise InputError(f"mode is a name, or {{site: name}} for every site; got {mode!r}")
    for site, name in ({"all sites": mode} if isinstance(mode, str) else mode).items():
        if name not in MODES:
            raise InputError(f"unknown mode {name!r} for {site}; known: {', '.join(MODES)}")
    if isinstance(mode, dict) and mode.keys() != network.sites.keys():
        unknown, missing = sorted(mode.keys() - network.sites.keys()), sorted(network.sites.keys() - mode.keys())
        raise InputError(f"mode needs one entry for every site; unknown: {unknown}; missing: {missing}")
    modes = {site: mode if isinstance(mode, str) else mode[site] for site in network.sites}
    for site in network.sites.values():
        if modes[site.name] not in TWO_PHASE and any(op.name in MAXIMA for op in site.before):
            raise InputError(
                f"mode {modes[site.name]!r} can't have the max-pool at {site.name}: its neurons fire at every step, "
                "and the maximum over the spikes of a step is not the maximum over rates; use a two-phase mode "
                f"({', '.join(TWO_PHASE)}), which pools the potentials before it fires, or train with average pooling"
            )
    return modes


def check_order(order, T: int, modes: set[str]) -> None:
    """`order` is a permutation of the T steps, and some site has a use for it."""
    if np.shape(order) != (T,) or sorted(np.asarray(order).tolist()) != list(range(T)):
        raise InputError(f"order has each of the steps 0 to {T - 1} once; got {order}")
    if "shuffle" not in modes:
        raise InputError(f"an order is for mode 'shuffle'; got {', '.join(sorted(modes))}")


def check_frames(frames: int | None, T: int) -> None:
    """Raises InputError unless `frames` of a recording can be spread evenly over `T` steps; None are still images."""
    if frames is not None and T % frames and frames % T:
        raise InputError(
            f"recordings of {frames} frames can't be spread evenly over T={T} steps: let T be a multiple of {frames}, "
            "or divide it"
        )

"""What can't be converted is refused before anything is computed, with a sentence that says where and what to do."""

import numpy as np

from convert.linear import fixed_axes, nonlinear
from tppjax.activations import QCFS, ClippedReLU
from tppjax.ann import Ann, sites, thresholds
from tppjax.errors import InputError
from tppjax.spiking import MODES, TWO_PHASE, max_pool_refused


def no_threshold(act, where: str = "any site") -> InputError:
    """For a network with the activation `act`: why a threshold is missing `where`, and what to do."""
    calibrate = "convert.calibrate(ann, images), ann being Ann(variables, model) if it is your own"
    match act:
        case QCFS():
            do = f"QCFS trains them, so these variables are not its own; with act=ReLU(), choose them: {calibrate}"
        case ClippedReLU():
            do = f"the variables hold none; to set them to the bound, {act.bound:g}: {calibrate}"
        case _:
            do = "a network with plain ReLU learns none; choose them: "
            do += f"{calibrate}, or --calibrate mse in convert.evaluate"
    return InputError(f"no threshold at {where}: {do}")


def check_mode(mode, known_sites):
    """`mode` as `Spiking` has it: a name, or a tuple of (site, name) with one for every site."""
    if not isinstance(mode, str | dict):
        raise InputError(f"mode is a name, or {{site: name}} for every site; got {mode!r}")
    names = {"all sites": mode} if isinstance(mode, str) else mode
    for site, name in names.items():
        if name not in MODES:
            raise InputError(f"unknown mode {name!r} for {site}; known: {', '.join(MODES)}")
    if isinstance(mode, str):
        return mode
    if mode.keys() != known_sites.keys():
        unknown, missing = sorted(mode.keys() - known_sites.keys()), sorted(known_sites.keys() - mode.keys())
        raise InputError(f"mode needs one entry for every site; unknown: {unknown}; missing: {missing}")
    return tuple(sorted(mode.items()))


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


def check_network(ann: Ann, mode, input_shape) -> None:
    """What can be told only with the shape of an image."""
    name, model = type(ann.model).__name__, ann.model
    if problem := fixed_axes(model, ann.variables, input_shape):
        raise InputError(
            f"{name} can't be converted, since it works on batches [B, H, W, C] only, not on one image [H, W, C] or "
            "with time before the batch: count axes from the end, as in x.mean(axis=(-3, -2)) or "
            f"x.reshape(*x.shape[:-3], -1). {problem}"
        )
    found = sites(model, input_shape)
    if missing := [site for site in found if site not in thresholds(ann.variables)]:
        raise no_threshold(model.act, ", ".join(missing))
    for site, (_, max_pool) in found.items():
        at_site = mode if isinstance(mode, str) else dict(mode)[site]
        if max_pool and at_site not in TWO_PHASE:
            raise InputError(max_pool_refused(at_site, site))
    if operations := nonlinear(model, ann.variables, input_shape):
        raise InputError(
            f"{name} can't be converted, since it is not linear between its sites: {'; '.join(operations)}. "
            "Put self.act.copy(name=...) there if it is an activation, average pooling if it is max pooling"
        )

"""Folding: batch norm into the weights before it, thresholds into the weights on both sides."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tppjax.ann import Ann, thresholds
from tppjax.checks import check_ann
from tppjax.errors import InputError
from tppjax.models import MODELS
from tppjax.models.layers import EPSILON
from tppjax.models.regnet import RegNet
from tppjax.models.resnet import ResNet
from tppjax.models.vgg import VGG


def fold_batch_norm(ann: Ann) -> Ann:
    """The same network without batch norm: `kernel s` and `(bias - mean) s + shift`, `s = scale / sqrt(var + eps)`.

    Exact but for rounding. A network without batch norm comes back as it is.

    Raises:
      InputError: if there is batch norm in a network that is not one of `models.MODELS`, since where it stands and its
        epsilon can't be told from variables; or if these are not finite, or a variance negative.
    """
    check_ann(ann)
    if "batch_stats" not in ann.variables:
        return ann
    if not known(ann.model):
        raise InputError(
            f"{type(ann.model).__name__} has batch norm, which can be folded into networks of tppjax.models only: "
            "fold it into the weights before, and pass the network without it"
        )
    params = traverse_util.flatten_dict(ann.variables["params"])
    statistics = traverse_util.flatten_dict(ann.variables["batch_stats"])
    for *above, norm, leaf in statistics:
        if leaf != "var":
            continue
        at, conv = (*above, norm), (*above, norm.replace("norm", "conv"))
        scale = params.pop((*at, "scale")) / jnp.sqrt(statistics[*at, "var"] + EPSILON)
        shift, mean = params.pop((*at, "bias")), statistics[*at, "mean"]
        kernel, bias = params[*conv, "kernel"], params.get((*conv, "bias"), 0.0)
        params[*conv, "kernel"] = kernel * jnp.broadcast_to(scale, kernel.shape)
        params[*conv, "bias"] = (bias - mean) * scale + shift
    return ann.replace(variables={"params": traverse_util.unflatten_dict(params)}, model=ann.model.clone(norm=False))


def fold_thresholds(ann: Ann) -> Ann:
    """The same network with thresholds of 1, so that what a layer sends on is 0 or 1 (Appendix A).

    A kernel takes the thresholds of the neurons before it, and gives up those of the neurons behind it, whose potential
    is then counted in thresholds: `kernel theta_before / theta_behind`, `bias / theta_behind`. An identity shortcut has
    no kernel and carries `theta_before / theta_behind` as a leaf `shortcut_scale`. Batch norm is folded first.

    Raises:
      InputError: as `fold_batch_norm`; if a site has no threshold, or the network is not one of `models.MODELS`.
    """
    ann = fold_batch_norm(ann)
    thetas = thresholds(ann.variables)
    params = jax.tree.map(np.asarray, traverse_util.flatten_dict(ann.variables["params"], sep="/"))
    for path, before, behind in _wiring(ann.model):
        for site in {before, behind} - {None, *thetas}:
            raise InputError(f"no threshold at {site}: calibrate the network first")
        into, out = (np.float32(1) if site is None else np.asarray(thetas[site]) for site in (before, behind))
        if path.endswith("shortcut_scale"):
            params[path] = _padded(into, out) / out
            continue
        kernel = params[f"{path}/kernel"]
        params[f"{path}/kernel"] = kernel * _of_inputs(into, kernel) / out
        params[f"{path}/bias"] = params[f"{path}/bias"] / out
    for site, theta in thetas.items():
        params[f"{site}/theta"] = np.ones_like(theta)
    variables = {"params": traverse_util.unflatten_dict(params, sep="/")}
    return ann.replace(variables=variables, history=(*ann.history, "thresholds folded into the weights"))


def known(model) -> bool:
    """Whether `model` is of a class of `models.MODELS`, whose layers and names are known."""
    return type(model) in {create.func for create in MODELS.values()}


def _of_inputs(theta, kernel):
    """`theta` for each input of each output channel, to multiply `kernel`."""
    inputs, channels = kernel.shape[-2:]
    if theta.size > inputs:  # a group gets only its share of the channels
        groups = theta.size // inputs
        return np.repeat(theta.reshape(groups, inputs).T, channels // groups, axis=1)
    return np.resize(theta, inputs)[:, None]  # a flatten repeats the channels


def _padded(theta, like):
    """`theta` for the channels that a shortcut of option A pads with zeros."""
    extra = like.size - theta.size
    return np.pad(theta, (extra // 2, extra - extra // 2), constant_values=1) if theta.ndim else theta


def _wiring(model):
    """`(layer, site before it, site behind it)` of every layer, with None for pixels and logits."""
    match model:
        case VGG():
            yield from _wiring_of_vgg(model)
        case ResNet():
            yield from _wiring_of_resnet(model)
        case RegNet():
            yield from _wiring_of_regnet(model)
        case _:
            raise InputError(f"thresholds can be folded into models.MODELS; got {type(model).__name__}")


def _wiring_of_vgg(model: VGG):
    before = None
    names = [f"{i}_{j}" for i, channels in enumerate(model.stages, 1) for j in range(1, len(channels) + 1)]
    layers = [(f"conv{name}", f"act{name}") for name in names]
    layers += [(f"dense{i}", f"act_dense{i}") for i in range(1, len(model.hidden) + 1)]
    for layer, behind in layers:
        yield layer, before, behind
        before = behind
    yield "head", before, None


def _wiring_of_resnet(model: ResNet):
    before = None
    for name in ("stem1", "stem2", "stem") if model.stem == "deep" else ("stem",):
        yield f"conv_{name}", before, f"act_{name}"
        before = f"act_{name}"
    for i, blocks in enumerate(model.blocks, 1):
        for j in range(1, blocks + 1):
            block = f"stage{i}_block{j}"
            yield f"{block}/conv1", before, f"{block}/act1"
            yield f"{block}/conv2", f"{block}/act1", f"{block}/act2"
            changes = i > 1 and j == 1
            shortcut = "conv_shortcut" if changes and model.shortcut == "projection" else "shortcut_scale"
            yield f"{block}/{shortcut}", before, f"{block}/act2"
            before = f"{block}/act2"
    yield "head", before, None


def _wiring_of_regnet(model: RegNet):
    yield "conv_stem", None, "act_stem"
    before = "act_stem"
    for i, blocks in enumerate(model.blocks, 1):
        for j in range(1, blocks + 1):
            block = f"stage{i}_block{j}"
            yield f"{block}/conv1", before, f"{block}/act1"
            yield f"{block}/conv2", f"{block}/act1", f"{block}/act2"
            yield f"{block}/conv3", f"{block}/act2", f"{block}/act3"
            yield f"{block}/{'conv_shortcut' if j == 1 else 'shortcut_scale'}", before, f"{block}/act3"
            before = f"{block}/act3"
    yield "head", before, None

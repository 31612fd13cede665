"""Folding batch norm into the weights before it."""

import jax.numpy as jnp
from flax import traverse_util

from tppjax.ann import Ann
from tppjax.models.layers import EPSILON


def fold_batch_norm(ann: Ann) -> Ann:
    """The same network without batch norm: `kernel s` and `(bias - mean) s + shift`, `s = scale / sqrt(var + eps)`.

    Exact but for rounding. A network without batch norm comes back as it is.

    Raises:
      ValueError: if the model has no option `norm`.
    """
    if "batch_stats" not in ann.variables:
        return ann
    if not hasattr(ann.model, "norm"):
        raise ValueError(f"{type(ann.model).__name__} has batch norm but no option norm to do without it")
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

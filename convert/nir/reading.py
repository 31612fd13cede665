"""`convert.from_nir(file)`: a network from another tool, read from its NIR file, to be measured here."""

import graphlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convert.nir.writing import read, text
from tppjax.errors import InputError, refusing
from tppjax.network import Network
from tppjax.tracing import trace
from tppjax.types import Array, PathLike

IMAGES = ("NCHW", "OIHW", "NCHW")
Made = tuple[Callable[..., Any], dict[str, Any]]  # `(f(weights, x), weights)` of a node


def from_nir(file: PathLike, dt: float | None = None) -> Network:
    """The network in a NIR file: affine maps, convolutions, pools and integrate-and-fire neurons, images `[C, H, W]`.

    A neuron of the file becomes a ReLU of its input in a step, in thresholds: `relu(dt r x / v_threshold)`. Every
    threshold is then 1. All neurons here reset by subtraction, whatever the file's tool does. The `history` of the
    network has the file's information on the reset, T and initial potentials. Initial potentials are fields of neurons
    here, not of the network: `to_snn(network, T, "baseline(v_init=0.5)")`.

    Args:
      file: the file to read.
      dt: duration of a step in seconds; by default that of the file's metadata, or 1 if they have none.

    Raises:
      FileNotFoundError: if there is no file.
      InputError: if the file is damaged or recurrent, has a node of another kind or with invalid numbers, or if nir is
        not installed.
    """
    graph = read(Path(file))
    order, parents = _ordered(graph, file)
    entry, end = _named(graph, "Input", file), _named(graph, "Output", file)
    step = _number(graph.metadata.get("dt", 1.0) if dt is None else dt)
    if step is None or not 0 < step < math.inf:
        raise InputError(f"dt is the duration of a step in seconds, finite and above 0; of {file} it is not")
    makers = {name: _made(name, graph.nodes[name], step, file) for name in order}
    weights = {name: made[1] for name, made in makers.items() if made[1]}

    def run(weights: dict[str, dict[str, Array]], x: Array) -> Any:
        values: dict[str, Any] = {}
        for name in order:
            total = x if name == entry else sum(values[parent] for parent in parents[name])
            values[name] = makers[name][0](weights.get(name), total)
        return values[end]

    shape = [int(n) for n in next(iter(graph.nodes[entry].input_type.values()))]
    network = trace((run, weights), np.zeros((1, *shape), np.float32))
    neurons = [name for name in order if _kind(graph.nodes[name]) == "IF"]
    if len(neurons) != len(network.sites):
        raise InputError(f"{file} has {len(neurons)} nodes of neurons, some of which do the same: keep one of each")
    thetas = dict.fromkeys(network.sites, np.float32(1))
    return network.replace(thetas=thetas, history=(_history(graph, neurons, file),))


def _ordered(graph: Any, file: PathLike) -> tuple[list[str], dict[str, list[str]]]:
    """The nodes in an order in which each follows its inputs, if possible the file's; and the inputs of each."""
    parents = {name: sorted(a for a, b in graph.edges if b == name) for name in graph.nodes}
    indices = {name: i for i, name in enumerate(graph.nodes)}
    try:
        order = list(graphlib.TopologicalSorter(parents).static_order())
        return (order if any(indices[a] > indices[b] for a, b in graph.edges) else list(indices)), parents
    except graphlib.CycleError as e:
        raise InputError(
            f"{file} holds a recurrent network, {' to '.join(e.args[1])}: those can't be measured here"
        ) from e


def _kind(node: Any) -> str:
    return type(node).__name__


def _named(graph: Any, kind: str, file: PathLike) -> str:
    """The name of the only node of a kind."""
    names = [name for name, node in graph.nodes.items() if _kind(node) == kind]
    if len(names) != 1:
        raise InputError(f"{file} has {len(names)} {kind} nodes; exactly one is supported")
    return names[0]


def _number(value: Any) -> float | None:
    """A number of the metadata; None for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _made(name: str, node: Any, dt: float, file: PathLike) -> Made:
    """`(f(weights, x), weights)` of a node, with weights in float32; errors name the node."""
    with refusing(f"{file}: the node {name} ({_kind(node)}) can't be read"):
        run, weights = _maker(name, node, dt, file)
        return run, {key: np.asarray(value, np.float32) for key, value in weights.items()}


def _maker(name: str, node: Any, dt: float, file: PathLike) -> Made:
    """`(f(weights, x), weights)` of a node."""
    match _kind(node):
        case "Input" | "Output":
            return (lambda w, x: x), {}
        case "Affine" | "Linear" if np.ndim(node.weight) != 2:
            raise InputError(f"{file}: the weights of {name} have {np.ndim(node.weight)} axes; two are supported")
        case "Affine":
            return (lambda w, x: x @ w["weight"].T + w["bias"][None]), {"weight": node.weight, "bias": node.bias}
        case "Linear":
            return (lambda w, x: x @ w["weight"].T), {"weight": node.weight}
        case "Scale":
            return (lambda w, x: x * w["scale"][None]), {"scale": node.scale}
        case "Conv2d":
            return _convolution(node)
        case "SumPool2d" | "AvgPool2d" as kind:
            window, strides = (1, 1, *_pair(node.kernel_size)), (1, 1, *_pair(node.stride))
            padding = [(0, 0), (0, 0), *((n, n) for n in _pair(node.padding))]
            over = np.prod(window) if kind == "AvgPool2d" else 1
            return (lambda w, x: lax.reduce_window(x, 0.0, lax.add, window, strides, padding) / over), {}
        case "Flatten":
            return (lambda w, x: _flat(x, int(node.start_dim), int(node.end_dim))), {}
        case "IF":
            r, theta = (np.asarray(numbers, np.float32) for numbers in (node.r, node.v_threshold))
            if not all(np.all((numbers > 0) & np.isfinite(numbers)) for numbers in (r, theta)):
                raise InputError(f"{file}: r and v_threshold of {name} have to be finite and above 0")
            factor = np.float32(dt) * r / theta
            if np.all(factor == 1):
                return (lambda w, x: jnp.maximum(x, 0)), {}
            return (lambda w, x: jnp.maximum(w["factor"][None] * x, 0)), {"factor": factor}
    raise InputError(
        f"{file} has a node {name} of kind {_kind(node)}; only affine maps, convolutions (2d), pools, scales and "
        "integrate-and-fire neurons can be read"
    )


def _convolution(node: Any) -> Made:
    padding = node.padding.upper() if isinstance(node.padding, str) else [(n, n) for n in _pair(node.padding)]
    strides, dilation, groups = _pair(node.stride), _pair(node.dilation), int(node.groups)

    def convolve(w: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        y = lax.conv_general_dilated(
            *(x, w["weight"], strides, padding),
            rhs_dilation=dilation,
            feature_group_count=groups,
            dimension_numbers=IMAGES,
        )
        return y + w["bias"][None, :, None, None]

    return convolve, {"weight": node.weight, "bias": node.bias}


def _pair(numbers: Any) -> tuple[int, int]:
    a = np.broadcast_to(np.asarray(numbers, int).ravel(), 2)
    return int(a[0]), int(a[1])


def _flat(x: Array, start: int, end: int) -> Array:
    """`x` with the axes from `start` to `end` in one; they count from the first axis after the batch."""
    start, end = (i + 1 if i >= 0 else i + x.ndim for i in (start, end))
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


def _history(graph: Any, neurons: list[str], file: PathLike) -> str:
    """The information of the file on its neurons and its origin."""
    about = {key: text(graph.metadata[key]) for key in ("writer", "T", "dt", "reset") if key in graph.metadata}
    about.setdefault("reset", "not specified; here it is by subtraction")
    if any(np.any(np.ravel(getattr(graph.nodes[name], "v_reset", 0)) != 0) for name in neurons):
        about["v_reset"] = "other than 0 in the file, left out"
    starts = [graph.nodes[name].metadata["v_init"] for name in neurons if "v_init" in graph.nodes[name].metadata]
    numbers = {_number(n) for start in starts for n in np.ravel(np.asarray(start, object))}
    number = next(iter(numbers), None)
    if len(numbers) == 1 and number is not None and math.isfinite(number):
        about["v_init"] = f"{number:g}, which is the mode baseline(v_init={number:g})"
    elif numbers:
        about["v_init"] = "of several values, or no numbers: left out"
    return f"read from NIR, {Path(file).name}: " + "; ".join(f"{key}: {value}" for key, value in about.items())

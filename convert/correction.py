"""Correction: what a spiking network lacks at each site, against the network it came from, is added there.

Thresholds clip and neurons draw, so what reaches a site in the SNN is not what reaches it in the ANN. From site to
site, in the order in which they run, the mean difference of each channel is added as an offset of the site. With
weights corrected too, the layers that feed the site are fitted to what reaches it in the ANN, from what they get in the
SNN, by least squares. What other papers do at a site is in `sent`.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tqdm import tqdm

from convert import sent
from convert.batch_norm import fold_batch_norm
from convert.execution import example_keys
from convert.layers import is_layer, kernel_axis, kernel_of, output_axis
from convert.snn import Snn, to_snn
from tppjax import prng
from tppjax.batching import batches
from tppjax.checks import check_examples
from tppjax.errors import InputError, check_count, check_number
from tppjax.graph import Op
from tppjax.network import OUTPUT, Network
from tppjax.neurons import Neuron
from tppjax.tracing import trace

SENT = {"rates": sent.rates, "potential": sent.potential, "steps": sent.steps}
METHODS = {
    "bias": "offsets",
    "weights": "weights and offsets",
    "rates": "offsets by rates (SNNC)",
    "potential": "initial potentials (SNNC)",
    "steps": "offsets of each step (FTBC)",
}


class Place(NamedTuple):
    """Where a correction is made: at a site, or at the output.

    Attributes:
      name: of the site, or `OUTPUT`.
      value: number of the value that is corrected.
      axis: of its channels, in an example; None if it has none.
      layers: the layers whose outputs are added up to it, with nothing else between that is not a constant.
    """

    name: str
    value: int
    axis: int | None
    layers: tuple[Op, ...]


def correct(
    network,
    images,
    *,
    T: int,
    mode: str | Neuron | dict[str, str | Neuron] = "tpp",
    method: str = "bias",
    ridge: float = 1e-3,
    seed: int = 0,
    batch_size: int | None = None,
    progress: str | None = None,
) -> Network:
    """The network with what its spiking version lacks added at each site and at the output.

    Args:
      network: a `Network` with thresholds, or what `trace` makes one of.
      images: `[N, ...]`, of the training set; some hundred are enough, a thousand for weights.
      T: number of time steps that it is corrected for.
      mode: the neurons, likewise.
      method: "bias", the mean input of each channel; "weights", by least squares in the weights of the layers that feed
        a site, where nothing but a sum lies between, with batch norm folded first; or as others have it, "rates",
        "potential" (both SNNC) or "steps" (FTBC), which are in `sent`.
      ridge: of least squares, relative to the mean power of the layers' inputs; the change is small in directions
        in which the images say little.
      seed: of the draws of random modes.
      batch_size: images a call; by default up to 100, as many as suit the device's memory.
      progress: name of a progress bar over the sites, shown on a terminal.

    Returns:
      The corrected network: offsets or potentials for its sites, and changed weights.

    Raises:
      InputError: as `to_snn`; if a number is out of range; or if the images don't fit.
    """
    network = trace(network, images)
    check_method(method)
    snn = to_snn(fold_batch_norm(network) if method == "weights" else network, T, mode)
    check_method(method, snn.in_network.values())
    if method in ("bias", "weights") and (by_step := [s for s, o in network.offsets.items() if np.ndim(o) == 2]):
        raise InputError(f"{by_step[0]} was corrected step by step, which {method!r} would undo: do that before")
    reference, images = snn.network, check_examples(network, images, "correction")
    check_number("ridge", ridge, 1e-6)
    check_count("seed", seed, 0)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    batch_size = batch_size or min(100, snn.batch_size())
    keys = example_keys(jax.random.key(seed, impl=prng.HASH), np.arange(len(images)))

    def in_batches():
        for x, key in zip(batches(images, batch_size), batches(keys, batch_size), strict=True):
            yield x, key if snn.random else None

    if method in SENT:
        where, at = list(reference.sites.values()), SENT[method]
    else:
        where, at = places(reference), partial(_at_place, weights=method == "weights", ridge=ridge)
    for one in tqdm(where, desc=progress, disable=None if progress else True, leave=False):
        snn = snn.replace(network=at(reference, snn, one, in_batches))
    done = f"{METHODS[method]} corrected site by site at T={T} for {snn.mode}, on {len(images)} images"
    return snn.network.replace(history=(*network.history, done))


def check_method(method: str, neurons=()) -> None:
    """Raises InputError unless there is such a method, and these neurons can have it."""
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if method == "steps" and (others := sorted({str(n) for n in neurons if n.waits or n.lead})):
        raise InputError(
            f"method 'steps' is for neurons that fire in the step in which their input comes, and {', '.join(others)} "
            "does not, or runs ahead: use 'bias'"
        )


def _at_place(reference: Network, snn: Snn, place: Place, in_batches, weights: bool, ridge: float) -> Network:
    """The network corrected by what reaches a place."""
    layers, sums = _fitted(place) if weights else (), None
    for x, key in in_batches():
        new = jax.tree.map(np.float64, _equations(reference, snn, x, key, place, layers))
        sums = new if sums is None else jax.tree.map(np.add, sums, new)
    return _changed(snn.network, place, layers, _solution(*sums, ridge))


def places(network: Network) -> list[Place]:
    """Where a network is corrected, in the order in which it runs."""
    shapes, (last, *others) = network.graph.shapes(network.weights), network.graph.outputs
    found = [
        Place(site.name, site.input, site.input_axis, _summands(network, site.input, site.input_axis, shapes))
        for site in network.sites.values()
    ]
    if not others and isinstance(last, int) and (layers := _summands(network, last, len(shapes[last]) - 2, shapes)):
        found.append(Place(OUTPUT, last, -1, layers))  # logits
    return found


def _summands(network: Network, value: int, axis: int | None, shapes: dict) -> tuple[Op, ...]:
    """The layers with channels in `axis` whose outputs are added up to a value; constants may be added, too."""
    made = {item.output: item for item in network.graph.items if isinstance(item, Op)}
    rank = len(shapes[value])
    found, todo = [], [value]
    while todo:
        op = made.get(todo.pop())
        if op is None:
            continue
        if op.name == "add":
            todo += [v for v in op.inputs if isinstance(v, int)]
        elif is_layer(network.graph, op) and (of_layer := output_axis(network, op)) is not None:
            found += [op] if of_layer % rank - 1 == axis else []
    return tuple(sorted(found, key=lambda op: op.output))


def _fitted(place: Place) -> tuple[Op, ...]:
    """The layers whose weights are fitted together: those without groups, or a single one with groups."""
    whole = tuple(op for op in place.layers if _groups(op) == 1)
    return whole or place.layers[:1]


@partial(jax.jit, static_argnames=("place", "layers"))
def _equations(reference: Network, snn: Snn, x, key, place: Place, layers: tuple[Op, ...]):
    """`(X^T X, X^T Y)` of least squares for a batch, `[groups, ...]`.

    A row of Y is what the SNN lacks at one pixel, one of X what that pixel gets of the inputs of its layers, and a 1.
    """
    numbers = (place.value, *(next(v for v in op.inputs if isinstance(v, int)) for op in layers))
    (wanted,) = reference.values(x, numbers[:1])
    got, *inputs = snn.values(x, key, numbers)
    y = _rows(wanted - got, place.axis)
    groups = _groups(layers[0]) if layers else 1
    x = [_patches(op, a, snn.network).reshape(len(y), groups, -1) for op, a in zip(layers, inputs, strict=True)]
    x = jnp.concatenate([*x, jnp.ones((len(y), groups, 1))], axis=2)
    y = y.reshape(len(y), groups, -1)
    return jnp.einsum("ngi,ngj->gij", x, x), jnp.einsum("ngi,ngc->gic", x, y)


def _rows(x, axis: int | None):
    """`[B, ...]` as `[pixels, channels]`."""
    if axis is None:
        return x.reshape(-1, 1)
    x = jnp.moveaxis(x[:, None], axis if axis < 0 else axis + 2, -1)
    return x.reshape(-1, x.shape[-1])


def _groups(op: Op) -> int:
    return dict(op.options).get("feature_group_count", 1)


def _patches(op: Op, x, network: Network):
    """`[pixels, inputs that an output gets]` of a layer's input `[B, ...]`; of images channel by channel."""
    options = dict(op.options)
    if op.name == "dot_general":
        side = int(isinstance(op.inputs[0], str))
        sums = options["dimension_numbers"][0][side]
        x = jnp.moveaxis(x, sums, range(x.ndim - len(sums), x.ndim))
        return x.reshape(-1, int(np.prod(x.shape[x.ndim - len(sums) :])))
    (batch, features, *spatial), kernel, _ = options["dimension_numbers"]
    letters = "DHW"[-len(spatial) :]
    patches = lax.conv_general_dilated_patches(
        jnp.transpose(x, (batch, *spatial, features)),
        [network.weights[kernel_of(op)].shape[i] for i in kernel[2:]],
        *(options[name] for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")),
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )
    return patches.reshape(-1, patches.shape[-1])


def _solution(gram, moments, ridge: float) -> np.ndarray:
    """Change of the weights, `[groups, inputs that an output gets + 1, channels]`; the offset is not penalised."""
    n = gram.shape[-1]
    penalty = np.where(np.arange(n) < n - 1, ridge * np.trace(gram, axis1=1, axis2=2)[:, None] / n, 0)
    return np.linalg.solve(gram + penalty[:, :, None] * np.eye(n), moments)


def _changed(network: Network, place: Place, layers: tuple[Op, ...], change: np.ndarray) -> Network:
    """The network with `change` added to the weights of `layers`, and its last row as the offset of the place."""
    weights, begin = dict(network.weights), 0
    for op in layers:
        name = kernel_of(op)
        kernel = np.asarray(weights[name])
        size = kernel.size // kernel.shape[kernel_axis(network, op)]
        weights[name] = (kernel + _as_kernel(op, change[:, begin : begin + size], kernel)).astype(kernel.dtype)
        begin += size
    offset = np.float32(change[:, -1].reshape(-1))
    return network.replace(weights=weights, offsets=network.offsets | {place.name: offset})


def _as_kernel(op: Op, change: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """`[groups, inputs, channels]` in the layout of the weights."""
    options = dict(op.options)
    change = np.moveaxis(change, 2, 1).reshape(-1, change.shape[1])  # [channels of all groups, inputs]
    if op.name == "dot_general":
        side = int(isinstance(op.inputs[1], str))
        axes = options["dimension_numbers"][0][side]
        (free,) = (i for i in range(kernel.ndim) if i not in axes)
        order = (free, *axes)
    else:
        order = options["dimension_numbers"][1]  # outputs, inputs, space
    return np.moveaxis(change.reshape([kernel.shape[i] for i in order]), range(kernel.ndim), order)

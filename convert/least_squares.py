"""Correction of a site's input: its mean in each channel, or by least squares the weights of the layers that feed it.

The mean difference of each channel is added as an offset of the site. If weights are corrected too, the layers are
fitted from their inputs in the SNN to the input of the site in the ANN.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from convert import sent
from convert.execution import summed
from convert.layers import is_layer, kernel_axis, kernel_of, output_axis
from convert.snn import Snn
from tppjax.graph import Op
from tppjax.network import OUTPUT, Network
from tppjax.types import Array, Key


class Place(NamedTuple):
    """The place of a correction: a site, or the output.

    Attributes:
      name: name of the site, or `OUTPUT`.
      value: number of the graph's value that is corrected.
      axis: axis of the channels in an example of this value; None if it has none.
      layers: the layers whose outputs add up to this value, together with constants at most.
    """

    name: str
    value: int
    axis: int | None
    layers: tuple[Op, ...]


def at_place(
    reference: Network, snn: Snn, place: Place, batches: sent.Batches, *, weights: bool, ridge: float
) -> Network:
    """The network with the correction of the input at a place."""
    layers = _fitted(place) if weights else ()
    gram, moments = summed(_equations(reference, snn, x, key, place, layers) for x, key in batches())
    return _changed(snn.network, place, layers, _solution(gram, moments, ridge))


def places(network: Network) -> list[Place]:
    """The places at which a network is corrected, in the order in which it runs."""
    shapes, (last, *others) = network.graph.shapes(network.weights), network.graph.outputs
    found = [
        Place(site.name, site.input, site.input_axis, _summands(network, site.input, site.input_axis, shapes))
        for site in network.sites.values()
    ]
    if not others and isinstance(last, int) and (layers := _summands(network, last, len(shapes[last]) - 2, shapes)):
        found.append(Place(OUTPUT, last, -1, layers))  # logits
    return found


def _summands(network: Network, value: int, axis: int | None, shapes: dict[int, tuple[int, ...]]) -> tuple[Op, ...]:
    """The layers with channels in `axis` whose outputs, each once, add up to a value, perhaps with constants."""
    producers = {item.output: item for item in network.graph.items if isinstance(item, Op)}
    rank = len(shapes[value])
    layers, todo = [], [value]
    while todo:
        op = producers.get(todo.pop())
        if op is None:
            continue
        if op.name == "add":
            todo += [v for v in op.inputs if isinstance(v, int)]
        elif is_layer(network.graph, op) and (of_layer := output_axis(network, op)) is not None:
            layers += [op] if of_layer % rank - 1 == axis else []
    return tuple(sorted((op for op in layers if layers.count(op) == 1), key=lambda op: op.output))


def _fitted(place: Place) -> tuple[Op, ...]:
    """The layers whose weights are fitted together: those without groups, or a single one with groups."""
    ungrouped = tuple(op for op in place.layers if _groups(op) == 1)
    return ungrouped or place.layers[:1]


@partial(jax.jit, static_argnames=("place", "layers"))
def _equations(
    reference: Network, snn: Snn, images: Array, key: Key | None, place: Place, layers: tuple[Op, ...]
) -> tuple[jax.Array, jax.Array]:
    """`(X^T X, X^T Y)` of least squares for a batch, `[groups, ...]`.

    A row of Y is the difference between ANN and SNN at one pixel; a row of X has the inputs of the layers for that
    pixel, and a 1.
    """
    numbers = (place.value, *(next(v for v in op.inputs if isinstance(v, int)) for op in layers))
    (target,) = reference.values(images, numbers[:1])
    value, *inputs = snn.values(images, key, numbers)
    y = _rows(target - value, place.axis)
    known = jnp.isfinite(y).all(axis=1, keepdims=True)  # others are the -inf around an image, for max-pooling
    y = jnp.where(known, y, 0)
    groups = _groups(layers[0]) if layers else 1
    columns = [_patches(op, a, snn.network).reshape(len(y), groups, -1) for op, a in zip(layers, inputs, strict=True)]
    x = jnp.concatenate([*columns, jnp.ones((len(y), groups, 1))], axis=2) * known[:, None]
    y = y.reshape(len(y), groups, -1)
    return jnp.einsum("ngi,ngj->gij", x, x), jnp.einsum("ngi,ngc->gic", x, y)


COMPILED = (_equations,)


def _rows(x: jax.Array, axis: int | None) -> jax.Array:
    """`[B, ...]` as `[pixels, channels]`."""
    if axis is None:
        return x.reshape(-1, 1)
    x = jnp.moveaxis(x[:, None], axis if axis < 0 else axis + 2, -1)
    return x.reshape(-1, x.shape[-1])


def _groups(op: Op) -> int:
    return dict(op.options).get("feature_group_count", 1)


def _patches(op: Op, x: jax.Array, network: Network) -> jax.Array:
    """The inputs of each output pixel, `[pixels, inputs]`, from a layer's input `[B, ...]`; channel by channel."""
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


def _solution(gram: np.ndarray, moments: np.ndarray, ridge: float) -> np.ndarray:
    """The change of the weights, `[groups, inputs + 1, channels]`; its last row, the offset, is not penalised."""
    n = gram.shape[-1]
    penalty = np.where(np.arange(n) < n - 1, ridge * np.trace(gram, axis1=1, axis2=2)[:, None] / n, 0)
    return np.linalg.solve(gram + penalty[:, :, None] * np.eye(n), moments)


def _changed(network: Network, place: Place, layers: tuple[Op, ...], change: np.ndarray) -> Network:
    """The network with `change` added to the weights of `layers`, and its last row as the offset of the place."""
    weights: dict[str, Array] = dict(network.weights)
    begin = 0
    for op in layers:
        name = kernel_of(op)
        kernel = np.asarray(weights[name])
        size = kernel.size // kernel.shape[kernel_axis(network, op)]
        weights[name] = (kernel + _as_kernel(op, change[:, begin : begin + size], kernel)).astype(kernel.dtype)
        begin += size
    offset = change[:, -1].reshape(-1).astype(np.float32)
    return network.replace(weights=weights, offsets=network.offsets | {place.name: offset})


def _as_kernel(op: Op, change: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The change `[groups, inputs, channels]` in the layout of the weights."""
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

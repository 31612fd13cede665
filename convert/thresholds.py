"""Thresholds folded into the weights on both sides (Appendix A of the paper)."""

from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from convert.batch_norm import fold_batch_norm
from convert.layers import SCALES, SHIFTS, is_layer, kernel_axis, kernel_of, output_axis, with_items
from tppjax.graph import Op, Site
from tppjax.graph.build import free_name
from tppjax.graph.operations import LAYOUT
from tppjax.network import Network
from tppjax.types import Array

ONE = np.ones((), np.float32)


def fold_thresholds(network: Network) -> Network:
    """The same network with thresholds of 1, so that every spike is a 1 (Appendix A).

    A layer's weights are multiplied by the thresholds of the neurons before it and divided by those of the neurons
    behind it, whose potential is then counted in thresholds: `kernel theta_before / theta_behind`,
    `shift / theta_behind`. Where there is no layer, as in an identity shortcut or behind a max-pool, a scale stays in
    the graph. Batch norm is folded first. Every site needs a threshold.
    """
    network = fold_batch_norm(network)
    folder = _Folder(network)
    for item in network.graph.items:
        folder.site(item) if isinstance(item, Site) else folder.op(item)
    outputs = tuple(v if isinstance(v, str) else folder.scaled(v, None) for v in network.graph.outputs)
    thetas = {name: np.ones_like(theta) for name, theta in network.thetas.items()}
    offsets = {name: offset / (network.thetas.get(name, 1)) for name, offset in network.offsets.items()}
    graph = network.graph.with_items(folder.items, outputs)
    done = with_items(network.replace(graph=graph, thetas=thetas, offsets=offsets), folder.items, folder.weights)
    return done.replace(history=(*network.history, "thresholds folded into the weights"))


class _Folder:
    """Rewrites a network item by item, so that what a site sends is counted in its thresholds.

    Attributes:
      scales: `{value: scale}`; a value of the new graph times its scale is the value of the old one. 1 by default.
      targets: `{value: scale}` that a site needs a value to have; sums pass theirs on to the layers that feed them.
    """

    def __init__(self, network: Network):
        self.network, self.weights = network, dict[str, Array](network.weights)
        types = {np.asarray(w).dtype for w in network.weights.values() if jnp.issubdtype(w.dtype, jnp.floating)}
        self.dtype = types.pop() if len(types) == 1 else np.dtype(np.float32)
        self.items: list[Op | Site] = []
        self.values = 1 + max(item.output for item in network.graph.items)
        self.shapes = network.graph.shapes(network.weights)
        self.scales: dict[int, np.ndarray] = {}
        self.targets: dict[int, np.ndarray] = {}
        for item in reversed(network.graph.items):
            if isinstance(item, Site):
                self.targets[item.input] = self.theta(item, item.input_axis, item.input_shape)
            elif item.name == "add" and item.output in self.targets:
                self.targets |= dict.fromkeys(item.values, self.targets[item.output])

    def theta(self, site: Site, axis: int | None, shape: Sequence[int]) -> np.ndarray:
        """The thresholds of a site, shaped to broadcast to `[1, *shape]`."""
        theta = np.asarray(self.network.thetas[site.name], np.float32)
        return theta.reshape([-1 if theta.ndim and i == (axis or 0) + 1 else 1 for i in range(len(shape) + 1)])

    def weight(self, name: str, array: Array, dtype: Any = None) -> str:
        """Adds a weight, by default in the type of all others, and returns the name that it gets."""
        name = free_name(name, self.weights)
        self.weights[name] = np.asarray(array).astype(self.dtype if dtype is None else dtype)
        return name

    def emit(self, op: Op, scale: np.ndarray | None = None) -> None:
        """Adds an operation whose output has this scale."""
        self.items.append(op)
        if scale is not None and not np.all(scale == 1):
            self.scales[op.output] = scale

    def scaled(self, value: int, target: np.ndarray | None) -> int:
        """The number of a value that has the scale `target`, 1 by default: this one, or its product with a weight."""
        scale, target = self.scales.get(value, ONE), ONE if target is None else target
        if np.shape(scale) == np.shape(target) and np.allclose(scale, target):
            return value
        self.values += 1
        factor = self.weight(f"scale{self.values}", scale / target)
        self.emit(Op("mul", (value, factor), self.values - 1))
        return self.values - 1

    def site(self, site: Site) -> None:
        """Adds a site with a threshold of 1, whose input and bound are counted in thresholds."""
        theta = self.theta(site, site.axis, site.shape)
        value = self.scaled(site.input, self.theta(site, site.input_axis, site.input_shape))
        rank = len(dict(site.before[0].options).get("new_sizes", theta.shape)) if site.before else theta.ndim
        potential = theta.reshape(theta.shape[-rank:])  # before it is reshaped to that of the site
        before = tuple(
            op._replace(inputs=tuple(self.in_thresholds(op, v, potential) for v in op.inputs)) for op in site.before
        )
        before = tuple(op._replace(inputs=tuple(value if v == site.input else v for v in op.inputs)) for op in before)
        bound = site.bound and self.weight(f"{site.name}/bound", np.asarray(self.weights[site.bound]) / theta)
        compared = site.compared if before else value
        self.items.append(site._replace(input=value, before=before, compared=compared, bound=bound))
        self.scales[site.output] = theta

    def in_thresholds(self, op: Op, v: int | str, theta: np.ndarray) -> int | str:
        """An operand of an operation before a site compares; weights that are potentials are divided by thresholds."""
        potential = op.name in SHIFTS or (op.name == "select_n" and v != op.inputs[0])
        return self.divided(v, theta) if isinstance(v, str) and potential else v

    def op(self, op: Op) -> None:
        """Adds an operation on scaled values."""
        values, target = op.values, self.targets.get(op.output)
        layer = is_layer(self.network.graph, op)
        target = None if layer and not self.has_channels_of(op, target) else target
        if layer and (kernel := self.kernel(op, values[0], target)) is not None:
            self.weights[kernel_of(op)] = kernel
            self.emit(op, target)
        elif op.name in SHIFTS:
            scale = next((self.scales[v] for v in values if v in self.scales), None) if target is None else target
            by = ONE if scale is None else scale
            inputs = (self.scaled(v, scale) if isinstance(v, int) else self.divided(v, by) for v in op.inputs)
            self.emit(op._replace(inputs=tuple(inputs)), scale)
        elif op.name in SCALES and len(values) == 1:
            self.emit(op, self.scales.get(values[0]))
        elif (scale := self.moved(op)) is not None:
            self.emit(op, scale)
        else:
            self.emit(op._replace(inputs=tuple(self.scaled(v, None) if isinstance(v, int) else v for v in op.inputs)))

    def has_channels_of(self, layer: Op, target: np.ndarray | None) -> bool:
        """Whether a layer's weights give its output the axis along which `target` changes."""
        axis = output_axis(self.network, layer)
        others = [] if target is None else [i for i, n in enumerate(target.shape) if n > 1]
        return axis is not None and others in ([], [axis % len(self.shapes[layer.output])])

    def moved(self, op: Op) -> np.ndarray | None:
        """The scale of the output, if the operation moves numbers or sums those of one scale; None if it does not."""
        if op.name not in (*LAYOUT, "concatenate", "pad", "reduce_sum", "reduce_window_sum"):
            return None
        if not any(v in self.scales for v in op.values):
            return ONE
        full = {v: np.broadcast_to(self.scales.get(v, ONE), self.shapes[v]) for v in op.values}

        def run(power: int) -> np.ndarray:
            env: dict = {name: self.weights[name] for name in op.weights}
            env |= {v: scale**power for v, scale in full.items()}
            op.run(env)
            return np.asarray(env[op.output], np.float32)

        number, mean, square = run(0), run(1), run(2)  # how many are summed, their sum, the sum of their squares
        number = np.where(number > 0, number, 1)
        mean, square = mean / number, square / number
        return np.where(mean > 0, mean, 1) if np.allclose(mean**2, square, rtol=1e-5) else None

    def divided(self, name: str, scale: np.ndarray) -> str:
        """The name of a weight divided by a scale, of the same type."""
        array = np.asarray(self.weights[name])
        return self.weight(name, array / scale, array.dtype)

    def kernel(self, op: Op, value: int, target: np.ndarray | None) -> np.ndarray | None:
        """A layer's weights times the scale of its input, divided by `target`; None if no weights do that."""
        kernel, sums = np.asarray(self.weights[kernel_of(op)]), dict(op.options)["dimension_numbers"][0]
        convolves = op.name == "conv_general_dilated"
        axes = sums[1:2] if convolves else sums[int(isinstance(op.inputs[0], str))]  # those of the input that it sums
        scale = _compact(self.scales.get(value, np.ones((1,), np.float32)))
        if scale.size > 1 and any(n > 1 and i not in axes for i, n in enumerate(scale.shape)):
            return None
        scaled = _convolution(op, kernel, scale) if convolves else _product(op, kernel, scale, axes)
        if target is not None:
            axis = kernel_axis(self.network, op)
            scaled = scaled / target.reshape([-1 if i == axis else 1 for i in range(kernel.ndim)])
        return scaled.astype(kernel.dtype)


def _convolution(op: Op, kernel: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """The kernel of a convolution times the scale of its input's channels."""
    options = dict(op.options)
    order, groups = options["dimension_numbers"][1], options["feature_group_count"]
    kernel = np.moveaxis(kernel, order, range(kernel.ndim))  # outputs, inputs of a group, space
    of_groups = np.resize(scale.ravel(), groups * kernel.shape[1]).reshape(groups, 1, -1)
    factors = np.repeat(of_groups, len(kernel) // groups, axis=1).reshape(len(kernel), -1)
    return np.moveaxis(kernel * factors.reshape(*factors.shape, *[1] * (kernel.ndim - 2)), range(kernel.ndim), order)


def _product(op: Op, kernel: np.ndarray, scale: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """The weights of a product times the scale of its input along `axes`, those that it sums over."""
    sums = dict(op.options)["dimension_numbers"][0][int(not isinstance(op.inputs[0], str))]
    order = [axes[j] for j in np.argsort(sums)]  # axes of the input, in the order of the weights' axes
    scale = scale.reshape(()) if scale.size == 1 else np.transpose(scale, [*_not_in(axes, scale.ndim), *order])
    scale = scale.reshape(scale.shape[scale.ndim - len(order) :] if scale.ndim else ())
    factors = np.broadcast_to(scale, [kernel.shape[i] for i in sorted(sums)])
    return kernel * np.expand_dims(factors, _not_in(sums, kernel.ndim))


def _not_in(axes: Collection[int], ndim: int) -> tuple[int, ...]:
    """The axes of an array of `ndim` dimensions that are not among `axes`."""
    return tuple(i for i in range(ndim) if i not in axes)


def _compact(scale: np.ndarray) -> np.ndarray:
    """The scale with size 1 along each axis on which it does not change."""
    for axis in range(scale.ndim):
        first = np.take(scale, [0], axis)
        scale = first if np.all(scale == first) else scale
    return scale

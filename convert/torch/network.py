"""`from_torch`: any `torch.nn.Module` as a `Network`, whose outputs are compared with PyTorch's."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from convert.torch.export import evaluating, placed, unwrapped
from convert.torch.modules import as_array, known_to_jax, to_jax
from convert.torch.screen import screen
from tppjax.data import Preprocessing
from tppjax.errors import InputError
from tppjax.graph import build
from tppjax.network import Network, network
from tppjax.types import Array

if TYPE_CHECKING:
    import torch

TOLERANCE, OF_HALF, OF_QCFS = 1e-4, 3e-2, 5e-2  # relative to the largest output


def from_torch(
    module: "torch.nn.Module",
    example: "torch.Tensor | Array | list | None" = None,
    preprocessing: Preprocessing | None = None,
) -> Network:
    """The network of a PyTorch module in eval mode: batch norm has its running statistics, and dropout is off.

    The module is exported by `torch.export` and traced; then PyTorch and the traced network run the same batch once,
    and must agree. PyTorch is not needed afterwards.

    Args:
      module: any `torch.nn.Module` of one input, which is not changed, training flags included. DataParallel and
        torch.compile are taken off.
      example: one input `[1, ...]` in PyTorch's axis order, of NumPy, JAX or PyTorch; not needed with `preprocessing`.
      preprocessing: describes how pixels `[B, H, W, C]` become the network's input; `channels_first=True` for a module
        that takes `[B, C, H, W]`.

    Returns:
      The network, with sites and weights named by the keys of `state_dict`. A site with ReLU6, Hardtanh or QCFS has its
      bound as a threshold; other sites get thresholds from `convert.calibrate`.

    Raises:
      InputError: if the module can't be exported or is not linear between its activations (the message has every
        operation with its line), its outputs differ, or the example does not fit the preprocessing.
    """
    module = unwrapped(module)
    example = placed(_example(example, preprocessing), module)
    screen(module, example)
    fn, params = to_jax(module, example)
    x = _batch(example)
    traced, weights = build.unchecked(fn, params, jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype))
    converted = network(traced, weights, preprocessing)
    _compare(module, example, x, converted)
    return converted


def _example(
    example: "torch.Tensor | Array | list | None", preprocessing: Preprocessing | None
) -> "torch.Tensor | Array | list":
    """The example, or one of zeros that fits the preprocessing."""
    if preprocessing is not None:
        shape = (1, *preprocessing.network_shape)
        example = np.zeros(shape, np.float32) if example is None else example
        if tuple(np.shape(example)) != shape:
            order = "[1, C, H, W]" if preprocessing.channels_first else "[1, H, W, C]"
            raise InputError(
                f"with this preprocessing the module gets {shape}, {order}; the example is {tuple(np.shape(example))}: "
                f"give one that fits, or set its channels_first={not preprocessing.channels_first}"
            )
    if example is None:
        raise InputError("from_torch needs an example, one input of the module [1, ...], or a preprocessing")
    return example


def _batch(example: "torch.Tensor") -> np.ndarray:
    """The example and a random input of its scale, `[2, ...]`; an example of whole numbers twice."""
    example = example.cpu()
    if not example.is_floating_point():
        return np.concatenate([example.numpy()] * 2)
    x = example.float().numpy()
    if not np.isfinite(x).all():
        raise InputError("the example has numbers that are not finite: give an input of the usual kind")
    noise = x.mean() + (x.std() or 1) * np.random.default_rng(0).normal(size=x.shape)
    return np.concatenate([x, noise.astype(np.float32)])


def _compare(module: "torch.nn.Module", example: "torch.Tensor", x: np.ndarray, converted: Network) -> None:
    """Raises InputError unless PyTorch and the network give the same for a batch."""
    import torch

    batch, name = torch.from_numpy(x).to(example.device, example.dtype), type(module).__name__
    outputs = jax.jit(converted.graph.apply, compiler_options=build.QUICK)(converted.weights, jnp.asarray(x))
    outputs = [np.asarray(y, np.float32) for y in jax.tree.leaves(outputs)]
    quantised = any(site.levels for site in converted.sites.values())  # rounding may move a sum across a border
    half = batch.is_floating_point() and batch.element_size() < 4
    tolerance = OF_QCFS if quantised else OF_HALF if half else TOLERANCE
    with evaluating(module):
        try:
            together = _outputs(module, batch)
        except Exception:  # of the user's own code, if it takes one example at a time
            together = None
        if together is not None and _largest(together, outputs) <= tolerance:
            return
        alone = [_outputs(module, batch[i : i + 1]) for i in range(len(batch))]
    largest = _largest([np.concatenate(ys) for ys in zip(*alone, strict=True)], outputs)
    if largest > tolerance:
        raise InputError(
            f"the traced network gives other outputs than {name} in PyTorch, by {largest:.2g} of the largest: one "
            "of its operations is translated wrongly; please report it. convert.from_torch of its parts shows which"
        )
    if together is not None:
        raise InputError(
            f"in {name}, the output of an example depends on the others in its batch: compute each example by itself"
        )


def _outputs(module: "torch.nn.Module", x: "torch.Tensor") -> list[np.ndarray]:
    """The arrays that the module returns, in JAX's order."""
    return [np.asarray(as_array(y), np.float32) for y in jax.tree.leaves(known_to_jax(module(x)))]


def _largest(expected: list[np.ndarray], outputs: list[np.ndarray]) -> float:
    return max(map(build.difference, expected, outputs), default=0.0)

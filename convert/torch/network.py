"""`from_torch`: any `torch.nn.Module` as a `Network`, compared with what PyTorch itself computes."""

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

TOLERANCE, OF_HALF, OF_QCFS = 1e-4, 3e-2, 5e-2  # relative to the largest output


def from_torch(module, example=None, preprocessing: Preprocessing | None = None) -> Network:
    """The network that a PyTorch module is in eval mode: batch norm with its running statistics, dropout off.

    The module is exported by `torch.export` and traced; then PyTorch and the traced network run the same batch once,
    and must agree. PyTorch is not needed afterwards.

    Args:
      module: any `torch.nn.Module` of one input; it stays as it is, training flags included. DataParallel and
        torch.compile are taken off.
      example: one input `[1, ...]` in PyTorch's axis order, of NumPy, JAX or PyTorch; not needed with `preprocessing`.
      preprocessing: from pixels `[B, H, W, C]` to the network's input; `channels_first=True` for a module that takes
        `[B, C, H, W]`.

    Returns:
      The network, its sites and weights named by the keys of `state_dict`. A site with ReLU6, Hardtanh or QCFS has its
      bound as a threshold; the others get theirs from `convert.calibrate`.

    Raises:
      InputError: if the module can't be exported or is not linear between its activations (names every operation with
        the line that it is written in), its outputs differ, or the example does not fit the preprocessing.
    """
    module = unwrapped(module)
    example = placed(_example(example, preprocessing), module)
    screen(module, example)
    fn, params = to_jax(module, example)
    x = _batch(example)
    traced, weights = build.unchecked(fn, params, jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype))
    found = network(traced, weights, preprocessing)
    _compare(module, example, x, found)
    return found


def _example(example, preprocessing: Preprocessing | None):
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


def _batch(example) -> np.ndarray:
    """The example and a random input of its scale, `[2, ...]`; of whole numbers the example twice."""
    x = example.cpu()
    if not x.is_floating_point():
        return np.concatenate([x.numpy()] * 2)
    x = x.float().numpy()
    noise = x.mean() + (x.std() or 1) * np.random.default_rng(0).normal(size=x.shape)
    return np.concatenate([x, noise.astype(np.float32)])


def _compare(module, example, x: np.ndarray, found: Network) -> None:
    """Raises InputError unless PyTorch and the network give the same for a batch."""
    import torch

    batch, name = torch.from_numpy(x).to(example.device, example.dtype), type(module).__name__
    got = jax.jit(found.graph.apply, compiler_options=build.QUICK)(found.weights, jnp.asarray(x))
    got = [np.asarray(y, np.float32) for y in jax.tree.leaves(got)]
    quantised = any(site.levels for site in found.sites.values())  # a sum at a border may fall to its other side
    half = batch.is_floating_point() and batch.element_size() < 4
    tolerance = OF_QCFS if quantised else OF_HALF if half else TOLERANCE
    with evaluating(module):
        try:
            together = _outputs(module, batch)
        except Exception:  # of the user's own code, if it takes one example at a time
            together = None
        if together is not None and _apart(together, got) <= tolerance:
            return
        alone = [_outputs(module, batch[i : i + 1]) for i in range(len(batch))]
    apart = _apart([np.concatenate(ys) for ys in zip(*alone, strict=True)], got)
    if not apart <= tolerance:
        raise InputError(
            f"the traced network gives other outputs than {name} in PyTorch, by {apart:.2g} of the largest: one of its "
            "operations is translated wrongly; please report it. convert.from_torch of its parts shows which"
        )
    if together is not None:
        raise InputError(
            f"in {name}, what an example gives depends on the others in its batch: compute each example by itself"
        )


def _outputs(module, x) -> list[np.ndarray]:
    """The arrays that the module gives, in JAX's order."""
    return [np.asarray(as_array(y), np.float32) for y in jax.tree.leaves(known_to_jax(module(x)))]


def _apart(wanted: list[np.ndarray], got: list[np.ndarray]) -> float:
    """The largest difference of any two arrays, relative to the largest number of the one; of the median example."""
    differences = [0.0]
    for a, b in zip(wanted, got, strict=True):
        if a.shape != b.shape:
            return np.inf
        each = np.abs(a - b).reshape(len(a), -1).max(axis=1, initial=0) / max(np.abs(a).max(initial=0), 1e-6)
        differences.append(float(each.max()))
    return max(differences)

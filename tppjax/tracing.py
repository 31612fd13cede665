"""`trace`: a trained network of any library as a `Network`. The adapter of each library is a few lines."""

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError

from tppjax import graph
from tppjax.ann import Ann
from tppjax.checks import as_images
from tppjax.errors import InputError, brief
from tppjax.graph import Graph
from tppjax.network import Network, network
from tppjax.types import ImagesLike, Weights


class _Subject:
    """The function to trace, `fn(variables, x)`; subjects are equal if function and arrays are the same objects.

    Arrays of NumPy can change, so their content has to be the same, too.
    """

    def __init__(self, fn: Callable, variables: Any, shape: tuple[int, ...], dtype: Any) -> None:
        leaves, structure = jax.tree.flatten(variables)  # kept, so that no other array gets their ids
        self.fn, self.variables, self.shape, self.dtype = fn, jax.tree.unflatten(structure, leaves), shape, dtype
        self.leaves, self.structure = leaves, structure

    @functools.cached_property
    def key(self) -> tuple:
        """What makes subjects equal."""
        contents = tuple(hash(leaf.tobytes()) for leaf in self.leaves if isinstance(leaf, np.ndarray))
        return (self.fn, self.structure, *map(id, self.leaves), contents, self.shape, self.dtype)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Subject) and self.key == other.key


def trace(subject: Any, example: ImagesLike = None) -> Network:
    """`subject` as a graph of linear operations and of sites, which are its activations.

    Args:
      subject: a `Network`, which is returned unchanged; an `Ann`; `(module, variables)` of Flax linen; `(fn,
        variables)` of any function `fn(variables, x)`; a module of Flax NNX, or of Equinox, which is mapped over the
        batch. It must be in evaluation mode.
      example: one input `[1, ...]`, or a batch, of which only shape and type matter; an `Ann` with preprocessing does
        not need it.

    Returns:
      The network, with the thresholds that it was trained with, if any. `print` shows its sites.

    Raises:
      InputError: if `subject` is none of these, or `example` is missing or does not fit; as `tppjax.graph.trace`.
    """
    if isinstance(subject, Network):
        return subject
    preprocessing, history = (subject.preprocessing, subject.history) if isinstance(subject, Ann) else (None, ())
    fn, variables = _adapted(subject)
    like = example
    if preprocessing is not None:
        like = jax.ShapeDtypeStruct((1, *preprocessing.network_shape), jnp.float32)
    # A function may compute something else the next time, which JAX would not notice; a module of linen does not.
    once, fn = (_traced, fn) if isinstance(fn, _Linen) else (_traced.__wrapped__, lambda v, x, fn=fn: fn(v, x))
    traced = network(*once(_Subject(fn, variables, *_shape_and_dtype(like))), preprocessing, history)
    if preprocessing is not None and example is not None:
        traced.batch(example)
    return traced


def _shape_and_dtype(example: ImagesLike) -> tuple[tuple[int, ...], Any]:
    """Shape and type of one input `[1, ...]`."""
    if example is None:
        raise InputError("trace needs example=, one input of the network [1, ...], to know the shape of its input")
    example = example if isinstance(example, jax.ShapeDtypeStruct) else as_images(example)
    if not example.shape or not jnp.issubdtype(example.dtype, jnp.floating):
        raise InputError(
            "a network without preprocessing takes floats, already normalised, a batch of them [B, ...]; got "
            f"{example.dtype} of shape {example.shape}"
        )
    return (1, *example.shape[1:]), example.dtype


@dataclasses.dataclass(frozen=True)
class _Linen:
    """`apply` of a module of Flax linen; equal if it belongs to the same module."""

    apply: Callable

    def __call__(self, variables: Any, x: Any) -> Any:
        try:
            return self.apply(variables, x)
        except (TypeError, FlaxError) as e:
            module = type(getattr(self.apply, "__self__", None)).__name__
            raise InputError(
                f"{module} must run as module.apply(variables, x), in evaluation mode, as "
                "with __call__(self, x, train: bool = False); or pass a function in its place, (lambda variables, x: "
                f"module.apply(variables, x, train=False), variables). It says: {brief(e)}"
            ) from e


@functools.lru_cache(maxsize=2)
def _traced(subject: _Subject) -> tuple[Graph, Weights]:
    return graph.trace(subject.fn, subject.variables, jax.ShapeDtypeStruct(subject.shape, subject.dtype))


def _adapted(subject: Any) -> tuple[Callable, Any]:
    """`fn(variables, x)` and the variables."""
    if isinstance(subject, Ann):
        return _Linen(subject.model.apply), subject.variables
    if isinstance(subject, tuple) and len(subject) == 2:
        fn, variables = subject
        return (_Linen(fn.apply) if isinstance(fn, nn.Module) else fn), variables
    for library, adapter in ADAPTERS.items():
        if library in sys.modules and isinstance(subject, sys.modules[library].Module):
            return adapter(subject)
    raise InputError(
        "a network is an Ann, (module, variables) of Flax linen, a module of Flax NNX or Equinox, or (fn, variables) "
        f"with fn(variables, x); got {type(subject).__name__}. From PyTorch: convert.from_torch(module, example)"
    )


def _nnx(module: Any) -> tuple[Callable, Any]:
    from flax import nnx

    structure, state = nnx.split(module)
    return lambda state, x: nnx.merge(structure, state)(x), state


def _equinox(module: Any) -> tuple[Callable, Any]:
    import equinox

    arrays, static = equinox.partition(module, equinox.is_array)
    return lambda arrays, x: jax.vmap(equinox.combine(arrays, static))(x), arrays


ADAPTERS = {"flax.nnx": _nnx, "equinox": _equinox}

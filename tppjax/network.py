"""A network that can be made spiking: its graph, its weights, and a threshold for each site."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Float

from tppjax import sharding
from tppjax.checks import as_images, check_prepared
from tppjax.data import Preprocessing
from tppjax.errors import InputError
from tppjax.graph import Graph, Site
from tppjax.types import Array, ImagesLike, PathLike, Weights

OUTPUT = "(output)"  # the name under which the output is corrected


class Network(struct.PyTreeNode):
    """A traced network, which `trace` returns and `to_snn` takes: a pytree, changed by `replace` only.

    Attributes:
      weights: the weights by name, from the paths of the leaves that they came from.
      thetas: thresholds by site, one per channel `[C]` or one for all `[]`, in the units of the site's input. A site
        that was trained without a threshold has none until `calibrate` chooses one.
      offsets: what corrections add to the input of a site, `[C]`, or `[T, C]` where it differs from step to step; and
        to the output, if that is one array `[B, K]`.
      potentials: what corrections add to the potential of each neuron of a site at the first step, in thresholds.
      graph: the operations and the sites.
      preprocessing: from pixels to the network's input; None for a network that takes arrays unchanged.
      history: how the network was made, one sentence per step.
    """

    weights: Weights
    thetas: Weights
    offsets: Weights
    potentials: Weights
    graph: Graph = struct.field(pytree_node=False)
    preprocessing: Preprocessing | None = struct.field(pytree_node=False, default=None)
    history: tuple[str, ...] = struct.field(pytree_node=False, default=())

    @property
    def sites(self) -> dict[str, Site]:
        """The sites by name, in the order in which they run."""
        return self.graph.sites

    @property
    def kinds(self) -> set[str]:
        """The kinds of its activations: "relu", "clip" or "qcfs"."""
        return {site.kind for site in self.sites.values()}

    def __repr__(self) -> str:
        return f"Network({len(self.sites)} sites, {len(self.thetas)} thresholds, {self.parameters:,} parameters)"

    def __str__(self) -> str:
        return str(self.graph)

    @property
    def parameters(self) -> int:
        """The number of parameters: of all numbers in its weights."""
        return sum(math.prod(np.shape(w)) for w in self.weights.values())

    def apply(self, x: ImagesLike) -> Any:
        """The output of the original network for a batch `[B, ...]` of pixels or of the network's own input.

        Raises:
          InputError: as `frames`.
        """
        return self.graph.apply(self.weights, self.input(x))

    def values(self, x: ImagesLike, numbers: tuple[int, ...]) -> list[jax.Array]:
        """These values of the graph, `[B, ...]` each, in the original network. Errors as `apply`."""
        return self.graph.returning(numbers).apply(self.weights, self.input(x))

    def inputs(self, x: ImagesLike) -> dict[str, jax.Array]:
        """`{site: what is compared with its threshold}`, `[B, ...]`, in the original network. Errors as `apply`."""
        return self.graph.inputs(self.weights, self.input(x))

    def input(self, x: ImagesLike) -> Float[Array, "batch *shape"]:
        """The network's input: pixels are normalised, recordings averaged over their frames. Errors as `frames`."""
        x = self.frames(x)
        return x if x.ndim == len(self.graph.shape) + 1 else x.mean(axis=1)

    def frames(self, x: ImagesLike) -> Float[Array, "batch *frames_and_shape"]:
        """What a spiking network receives, a frame per step if these are recordings; pixels are normalised.

        Raises:
          InputError: if `x` is not a batch that the network takes: an array of its shape without NaN, or what can be
            made one (see `as_images`), with an axis of frames behind the batch if these are recordings.
        """
        x = self.batch(x)
        x = x if self.preprocessing is None else self.preprocessing(jnp.asarray(x))
        return x.astype(self.graph.dtype, copy=False)

    def batch(self, x: ImagesLike) -> Array:
        """The batch as an array, after the checks of `frames`; nothing is computed. Errors as `frames`."""
        x, shape = as_images(x), self.graph.shape
        if self.preprocessing is not None and x.dtype == jnp.uint8:
            shape = self.preprocessing.input_shape
        recorded = x.ndim == len(shape) + 2
        if x.shape[1 + recorded :] != shape or (recorded and x.shape[1] == 0):
            expected = ", ".join(map(str, shape))
            raise InputError(f"the network takes a batch [B, {expected}]; got shape {x.shape}")
        check_prepared(x, recorded, self.preprocessing)
        return x

    def theta(self, site: Site, like: Any) -> jax.Array:
        """The threshold of each neuron of a site, in the shape of `like`, `[1, ...]`."""
        return jnp.broadcast_to(site.by_channel(self.thetas[site.name]), like.shape)

    def initial(self, site: Site, like: Any) -> jax.Array | float:
        """What a correction adds to the potential of a site at the first step, like `like`; 0 if there is none."""
        if site.name not in self.potentials:
            return 0.0
        return self.theta(site, like) * jnp.asarray(self.potentials[site.name])[None]

    def corrected(
        self, name: str, x: jax.Array, axis: int | None, t: jax.Array | int | None = None
    ) -> Float[jax.Array, "..."]:
        """`x` `[1, ...]` plus what a correction adds to each of its channels, if there is one at `name`.

        Args:
          name: name of a site, or `OUTPUT`.
          x: input of the site: at step `t`, or the mean over all steps if `t` is None.
          axis: axis of the channels in an example; None if there is no such axis.
          t: the step, 0 to T - 1; earlier steps are treated like step 0.
        """
        if name not in self.offsets:
            return x
        offset = self.offsets[name]
        if jnp.ndim(offset) == 2:
            offset = jnp.mean(offset, axis=0) if t is None else offset[jnp.maximum(t, 0)]
        return x + offset.reshape([-1 if axis is not None and i == axis + 1 else 1 for i in range(x.ndim)])

    def save(self, folder: PathLike) -> None:
        """Writes the network to a folder, which `convert.load` reads; see `tppjax.checkpoint.save`."""
        from tppjax import checkpoint  # which imports this module

        checkpoint.save(self, folder)

    @property
    def missing(self) -> list[str]:
        """The sites without a threshold."""
        return [name for name in self.sites if name not in self.thetas]

    def batch_size(self, kept: bool = False) -> int:
        """Examples per call, at most 250, that stay within `sharding.budget()` on each device of this host.

        Layers run one after another, so this counts about four floats per neuron of the largest site; or, if the inputs
        of all sites are `kept`, one float per neuron of every site.
        """
        neurons = [math.prod(site.shape) for site in self.sites.values()]
        return min(250, sharding.batch_size(4 * sum(neurons) if kept else 16 * max(neurons)))


def network(
    graph: Graph, weights: Weights, preprocessing: Preprocessing | None = None, history: Iterable[str] = ()
) -> Network:
    """The network of a graph, with the thresholds that it was trained with: the bounds of its clips and QCFS."""
    thetas: Weights = {site.name: _theta(site, weights[site.bound]) for site in graph.sites.values() if site.bound}
    return Network(weights, thetas, {}, {}, graph, preprocessing, tuple(history))


def _theta(site: Site, bound: Array) -> np.ndarray:
    """The bound as one number per channel, or one for all; a bound of another shape is an error."""
    bound = np.asarray(bound, np.float32)
    if bound.size == 1:
        return bound.reshape(())
    axes = [i - 1 for i, n in enumerate(bound.shape) if n > 1]
    if axes != [site.axis]:
        raise InputError(
            f"the activation at {site.name} has bounds of shape {bound.shape}: one per channel is possible"
        )
    return bound.reshape(-1)

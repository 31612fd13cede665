"""A network that can be made spiking: its graph, its weights, and a threshold for each site."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tppjax import sharding
from tppjax.checks import as_images, check_prepared
from tppjax.data import Preprocessing
from tppjax.errors import InputError
from tppjax.graph import Graph, Site
from tppjax.types import Weights

OUTPUT = "(output)"  # where the output is corrected


class Network(struct.PyTreeNode):
    """What `trace` makes of a trained network, and `to_snn` takes: a pytree, changed by `replace` only.

    Attributes:
      weights: by name, from the paths of the leaves that they came from.
      thetas: thresholds by site, one for each channel `[C]` or one for all `[]`, in the units of what reaches the site;
        a site that was trained without one has none until `calibrate` gives it one.
      offsets: what corrections add to what reaches a site, `[C]`, or `[T, C]` where they differ from step to step; and
        to the output, if that is one array `[B, K]`.
      potentials: what corrections add to the potential of each neuron of a site at the first step, in thresholds.
      graph: the operations and the sites.
      preprocessing: from pixels to the network's input; None for a network that takes arrays as they are.
      history: how it came to be, a sentence a step.
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
        """By name, in the order in which they run."""
        return self.graph.sites

    @property
    def kinds(self) -> set[str]:
        """Of its activations."""
        return {site.kind for site in self.sites.values()}

    def __repr__(self):
        return f"Network({len(self.sites)} sites, {len(self.thetas)} thresholds, {self.parameters:,} parameters)"

    def __str__(self):
        return str(self.graph)

    @property
    def parameters(self) -> int:
        """How many numbers its weights are."""
        return sum(math.prod(np.shape(w)) for w in self.weights.values())

    def apply(self, x):
        """What the network itself returns for a batch `[B, ...]`: pixels, or its own input.

        Raises:
          InputError: as `frames`.
        """
        return self.graph.apply(self.weights, self.input(x))

    def values(self, x, numbers: tuple[int, ...]) -> list[jax.Array]:
        """These values of the graph, `[B, ...]` each, in the network itself. Errors as `apply`."""
        return self.graph.returning(numbers).apply(self.weights, self.input(x))

    def inputs(self, x) -> dict[str, jax.Array]:
        """`{site: what is compared with its threshold}`, `[B, ...]`, in the network itself. Errors as `apply`."""
        return self.graph.inputs(self.weights, self.input(x))

    def input(self, x):
        """What enters the network: pixels normalised, of recordings the mean over their frames. Errors as `frames`."""
        x = self.frames(x)
        return x if x.ndim == len(self.graph.shape) + 1 else x.mean(axis=1)

    def frames(self, x):
        """What a spiking network gets, step after step where these are recordings: pixels normalised.

        Raises:
          InputError: if `x` is not a batch that the network takes: an array, or what can be made one, of its shape,
            with frames behind the batch if these are recordings; without NaN; as `as_images`.
        """
        x = self.batch(x)
        return x if self.preprocessing is None else self.preprocessing(jnp.asarray(x))

    def batch(self, x):
        """The batch as an array, after all that `frames` refuses has been; nothing is computed. Errors as `frames`."""
        x, shape = as_images(x), self.graph.shape
        if self.preprocessing is not None and x.dtype == jnp.uint8:
            shape = self.preprocessing.input_shape
        recorded = x.ndim == len(shape) + 2
        if x.shape[1 + recorded :] != shape or (recorded and x.shape[1] == 0):
            expected = ", ".join(map(str, shape))
            raise InputError(f"the network takes a batch [B, {expected}]; got shape {x.shape}")
        check_prepared(x, recorded, self.preprocessing)
        return x

    def theta(self, site: Site, like):
        """The thresholds of a site for each of its neurons, of the shape of `like` `[1, ...]`."""
        return jnp.broadcast_to(site.by_channel(self.thetas[site.name]), like.shape)

    def initial(self, site: Site, like):
        """What a correction adds to the potential of a site at the first step, of the shape of `like` `[1, ...]`."""
        if site.name not in self.potentials:
            return 0.0
        return self.theta(site, like) * jnp.asarray(self.potentials[site.name])[None]

    def corrected(self, name: str, x, axis: int | None, t=None):
        """`x` `[1, ...]`, and what a correction adds to each of its channels, if there is one at `name`.

        Args:
          name: of a site, or `OUTPUT`.
          x: what reaches it: at step `t`, or with None the mean over all steps.
          axis: of the channels, in an example; None if there is one.
          t: the step, 0 to T - 1; those before get what step 0 gets.
        """
        if name not in self.offsets:
            return x
        offset = self.offsets[name]
        if jnp.ndim(offset) == 2:
            offset = jnp.mean(offset, axis=0) if t is None else offset[jnp.maximum(t, 0)]
        return x + offset.reshape([-1 if axis is not None and i == axis + 1 else 1 for i in range(x.ndim)])

    def save(self, folder: str | os.PathLike) -> None:
        """Writes the network to a folder, which `convert.load` reads; as `tppjax.checkpoint.save`."""
        from tppjax import checkpoint  # which needs this module

        checkpoint.save(self, folder)

    @property
    def missing(self) -> list[str]:
        """The sites without a threshold."""
        return [name for name in self.sites if name not in self.thetas]

    def batch_size(self, kept: bool = False) -> int:
        """Examples a call, at most 250, that keep within `sharding.budget()` on each device of this host.

        Layers come one after another: some four floats a neuron of the largest; or, if all that reaches a site is
        `kept`, a float a neuron of every one.
        """
        neurons = [math.prod(site.shape) for site in self.sites.values()]
        return min(250, sharding.batch_size(4 * sum(neurons) if kept else 16 * max(neurons)))


def network(graph: Graph, weights: dict, preprocessing=None, history=()) -> Network:
    """The network of a graph, with the thresholds that it was trained with: the bounds of its clips and QCFS."""
    thetas = {site.name: _theta(site, weights[site.bound]) for site in graph.sites.values() if site.bound}
    return Network(weights, thetas, {}, {}, graph, preprocessing, tuple(history))


def _theta(site: Site, bound):
    """One number for each channel, or one for all; a bound that is not so is an error."""
    bound = np.asarray(bound, np.float32)
    if bound.size == 1:
        return bound.reshape(())
    axes = [i - 1 for i, n in enumerate(bound.shape) if n > 1]
    if axes != [site.axis]:
        raise InputError(f"the activation at {site.name} has bounds of shape {bound.shape}: one a channel is possible")
    return bound.reshape(-1)

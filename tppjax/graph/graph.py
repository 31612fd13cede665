"""A network as a graph: linear operations, and between them the sites where its activations are.

`trace` makes one of any function of JAX. All else is a reading of it: at a site, the ANN computes the activation, a
calibration records, a spiking network fires.
"""

import functools
import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.activations import qcfs
from tppjax.errors import InputError
from tppjax.graph.operations import ALL
from tppjax.graph.values import Place


class Op(NamedTuple):
    """One operation.

    Attributes:
      name: one of `operations.ALL`.
      inputs: numbers of values, names of weights.
      output: number of the value that it gives.
      options: of the operation, as pairs.
      place: where it was written.
    """

    name: str
    inputs: tuple[int | str, ...]
    output: int
    options: tuple[tuple[str, Any], ...] = ()
    place: Place = Place()

    @property
    def values(self) -> tuple[int, ...]:
        """The numbers of the values that it reads."""
        return tuple(v for v in self.inputs if isinstance(v, int))

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights that it reads."""
        return tuple(v for v in self.inputs if isinstance(v, str))

    def run(self, values: dict) -> None:
        """Computes the output from `values`, where weights are, too."""
        values[self.output] = ALL[self.name].run(*(values[i] for i in self.inputs), **dict(self.options))


class Site(NamedTuple):
    """A place where an activation stands, and spiking neurons can.

    Attributes:
      name: the layer that feeds it, by the path of its parameters; with "#2" and so on, if it feeds several sites.
      kind: "relu", "clip" or "qcfs".
      input: number of the value that reaches it, which is linear in what the sites before send.
      before: operations between that and where neurons compare with their threshold: max-pooling, and what follows it.
        Two-phase neurons apply them to what they accumulated.
      compared: number of the value after `before`; `input`, if there is none.
      output: number of the value that it sends.
      bound: name of the weight at which the activation saturates; "" for "relu".
      levels: of "qcfs", above 0; else 0.
      shape: of `compared` for one example, without the batch.
      axis: of its channels in `shape`; None if it has none.
      input_shape, input_axis: the same of `input`.
      layers: the layers between it and the sites before it, by the paths of their parameters.
      place: where it was written.
    """

    name: str
    kind: str
    input: int
    before: tuple[Op, ...]
    compared: int
    output: int
    bound: str
    levels: int
    shape: tuple[int, ...]
    axis: int | None
    input_shape: tuple[int, ...]
    input_axis: int | None
    layers: tuple[str, ...]
    place: Place

    @property
    def channels(self) -> int:
        """How many there are; 1 without an axis."""
        return 1 if self.axis is None else self.shape[self.axis]

    def prepare(self, x, weights: dict):
        """What is compared with the threshold, of what reached the site: `before`, on one example `[1, ...]`."""
        values = {**weights, self.input: x}
        for op in self.before:
            op.run(values)
        return values[self.compared]

    def activation(self, x, weights: dict):
        """The ANN's activation of what is compared."""
        match self.kind:
            case "relu":
                return jnp.maximum(x, 0)
            case "clip":
                return jnp.clip(x, 0, weights[self.bound]).astype(x.dtype)
            case "qcfs":
                return qcfs(x, weights[self.bound], self.levels).astype(x.dtype)

    def by_channel(self, leaf):
        """A leaf `[C]` or `[]` as it broadcasts to a value `[1, ...]` of the site."""
        if np.ndim(leaf) == 0 or self.axis is None:
            return jnp.reshape(leaf, (1,) * (len(self.shape) + 1))
        return jnp.reshape(leaf, [1, *(-1 if i == self.axis else 1 for i in range(len(self.shape)))])


class Graph:
    """The structure of a network, without its weights; graphs of equal structure are equal, and share compilations.

    Attributes:
      shape, dtype: of the input of one example, without the batch.
      items: operations and sites, in the order in which they run.
      outputs: numbers of values, names of weights.
      tree: how the outputs lie in what the network returns.
      last_layers: the layers behind the last sites, which give the outputs, by the paths of their parameters.
    """

    def __init__(self, shape, dtype, items, outputs, tree, last_layers=()):
        self.shape, self.dtype, self.last_layers = tuple(shape), jnp.dtype(dtype).name, tuple(last_layers)
        self.items, self.outputs, self.tree = tuple(items), tuple(outputs), tree

    @functools.cached_property
    def sites(self) -> dict[str, Site]:
        """By name, in the order in which they run."""
        return {item.name: item for item in self.items if isinstance(item, Site)}

    @functools.cached_property
    def digest(self) -> str:
        """Tells it from other structures."""
        items = [_without_place(item) for item in self.items]
        structure = [self.shape, self.dtype, items, self.outputs, str(self.tree)]
        return hashlib.sha256(json.dumps(structure, default=list).encode()).hexdigest()

    def __eq__(self, other):
        return isinstance(other, Graph) and self.digest == other.digest

    def __hash__(self):
        return hash(self.digest)

    def with_items(self, items, outputs=None) -> "Graph":
        """The graph with other items, which give values of the same numbers, or other outputs too."""
        return Graph(self.shape, self.dtype, items, outputs or self.outputs, self.tree, self.last_layers)

    def shapes(self, weights: dict) -> dict[int, tuple[int, ...]]:
        """The shape of each value for one example, `[1, ...]`."""
        found = {0: (1, *self.shape)}

        def trace(x):
            values = {**weights, 0: x}
            for item in self.items:
                if isinstance(item, Site):
                    values[item.output] = item.activation(item.prepare(values[item.input], weights), weights)
                else:
                    item.run(values)
                found[item.output] = values[item.output].shape

        jax.eval_shape(trace, jax.ShapeDtypeStruct((1, *self.shape), self.dtype))
        return found

    def returning(self, values: tuple[int, ...]) -> "Graph":
        """The graph that returns these values, as a list."""
        tree = jax.tree.structure([0] * len(values))
        return Graph(self.shape, self.dtype, self.items, values, tree)

    def run(self, weights: dict, x, at_site: Callable, until: str | None = None):
        """What the network returns for one example.

        Args:
          weights: by name.
          x: `[1, ...]`.
          at_site: `(site, value that reached it) -> what it sends`.
          until: a site, after which the run ends, once `at_site` was called for it; what it needs alone is computed.

        Returns:
          The network's outputs; with `until`, what that site sends.
        """
        values = {**weights, 0: x}
        for item in self.needed(until):
            if isinstance(item, Site):
                values[item.output] = at_site(item, values[item.input])
            else:
                item.run(values)
        if until is not None:
            return values[self.sites[until].output]
        return jax.tree.unflatten(self.tree, [values[i] for i in self.outputs])

    @functools.cache  # noqa: B019 - graphs are few, and equal ones share it
    def needed(self, until: str | None = None) -> tuple[Op | Site, ...]:
        """The items that a site needs, itself included; those that the outputs need, if it is None."""
        needed = {self.sites[until].output} if until is not None else set(self.outputs)
        kept = []
        for item in reversed(self.items):
            if item.output in needed:
                kept.append(item)
                needed |= {item.input} if isinstance(item, Site) else set(item.inputs)
        return tuple(reversed(kept))

    def apply(self, weights: dict, x):
        """What the network returns for a batch `[B, ...]`, with its own activations; each example by itself."""

        def activation(site, value):
            return site.activation(site.prepare(value, weights), weights)

        return jax.vmap(lambda x: jax.tree.map(lambda a: a[0], self.run(weights, x[None], activation)))(x)

    def inputs(self, weights: dict, x) -> dict[str, jax.Array]:
        """`{site: what is compared with its threshold}`, `[B, ...]`, with the ANN's activations."""

        def one(x):
            found = {}

            def record(site, value):
                found[site.name] = site.prepare(value, weights)
                return site.activation(found[site.name], weights)

            self.run(weights, x[None], record)
            return {name: value[0] for name, value in found.items()}

        return jax.vmap(one)(x)

    def __str__(self):
        """The table of sites."""
        rows = [("site", "kind", "shape", "channels", "fed by")]
        for site in self.sites.values():
            kind = f"{site.kind} {site.levels}" if site.levels else site.kind
            pooled = ", after max-pool" if site.before else ""
            shape = " x ".join(map(str, site.shape))
            rows.append((site.name, kind + pooled, shape, str(site.channels), ", ".join(site.layers) or "the input"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        neurons = sum(int(np.prod(site.shape)) for site in self.sites.values())
        return "\n".join([*lines, f"{len(self.sites)} sites, {neurons:,} neurons"])

    def __repr__(self):
        return f"Graph({len(self.sites)} sites, {len(self.items) - len(self.sites)} operations)"


def _without_place(item: Op | Site) -> tuple:
    """All that an item does, wherever it was written."""
    if isinstance(item, Site):
        item = item._replace(before=tuple(op[:-1] for op in item.before))
    return item[:-1]


def check_same(wanted, got) -> None:
    """Raises InputError unless the trees are equal up to rounding, relative to the largest number of each array."""
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(got), strict=True):
        tolerance = 1e-4 if jnp.finfo(a.dtype).bits >= 32 else 3e-2
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        apart = np.abs(a - b).max(initial=0) if a.shape == b.shape else np.inf
        if not apart <= tolerance * max(np.abs(a).max(initial=0), 1e-6):
            raise InputError(
                f"a batch gives other results than its examples one by one (by {apart:.2g}): the network mixes "
                "examples, as batch norm does in training mode, or was written for one batch size"
            )

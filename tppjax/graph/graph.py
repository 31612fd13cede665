"""A network as a graph: linear operations, and between them the sites where its activations are.

`trace` makes one of any function of JAX. The ANN, calibration and spiking networks run the same graph: at a site, the
ANN computes the activation, calibration records its input, and a spiking network fires.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.activations import qcfs
from tppjax.graph.operations import ALL, MAXIMA
from tppjax.graph.values import Place
from tppjax.types import Array, Weights


class Op(NamedTuple):
    """One operation.

    Attributes:
      name: name of the operation in `operations.ALL`.
      inputs: its inputs, as numbers of values or names of weights.
      output: number of the value that it computes.
      options: options of the operation, as pairs.
      place: place in the source code.
    """

    name: str
    inputs: tuple[Any, ...]
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
        """Computes the output from `values`, which contain the weights too."""
        values[self.output] = ALL[self.name].run(*(values[i] for i in self.inputs), **dict(self.options))


class Site(NamedTuple):
    """An activation of the network, which spiking neurons can replace.

    Attributes:
      name: path of the parameters of the layer that feeds the site, with "#2" and so on if it feeds several sites.
      kind: kind of the activation: "relu", "clip" or "qcfs".
      input: number of the input, a value that is linear in the outputs of the sites before.
      before: operations between the input and the comparison with the threshold: max-pooling, and what follows it.
        Two-phase neurons apply them to their accumulated input.
      compared: number of the value after `before`; `input`, if there are no such operations.
      output: number of the value that the site sends.
      bound: name of the weight at which the activation saturates; "" for "relu".
      levels: number of levels of "qcfs" above 0; else 0.
      shape: shape of `compared` for one example, without the batch.
      axis: axis of the channels in `shape`; None if there is none.
      input_shape: shape of `input` for one example, without the batch.
      input_axis: axis of the channels in `input_shape`; None if there is none.
      layers: layers between the site and the sites before it, by the paths of their parameters.
      place: place in the source code.
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
        """The number of channels; 1 without an axis of channels."""
        return 1 if self.axis is None else self.shape[self.axis]

    def prepare(self, x: Any, weights: Weights) -> Any:
        """The value that is compared with the threshold: `before` of the site's input, for one example `[1, ...]`."""
        values: dict = {**weights, self.input: x}
        for op in self.before:
            op.run(values)
        return values[self.compared]

    def activation(self, x: Any, weights: Weights) -> jax.Array:
        """The ANN's activation of the value that is compared."""
        match self.kind:
            case "relu":
                return jnp.maximum(x, 0)
            case "clip":
                return jnp.clip(x, 0, weights[self.bound]).astype(x.dtype)
            case _:
                return qcfs(x, weights[self.bound], self.levels).astype(x.dtype)

    def by_channel(self, leaf: Array | float) -> Array:
        """A leaf `[C]` or `[]` in a shape that broadcasts to a value `[1, ...]` of the site."""
        if np.ndim(leaf) == 0 or self.axis is None:
            return jnp.reshape(leaf, (1,) * (len(self.shape) + 1))
        return jnp.reshape(leaf, [1, *(-1 if i == self.axis else 1 for i in range(len(self.shape)))])


class Graph:
    """The structure of a network, without its weights; graphs of equal structure are equal, and share compilations.

    Attributes:
      shape: shape of the input for one example, without the batch.
      dtype: name of the input's type.
      items: operations and sites, in the order in which they run.
      outputs: the outputs, as numbers of values or names of weights.
      tree: structure of the outputs in the network's return value.
      last_layers: layers behind the last sites, which compute the outputs, by the paths of their parameters.
    """

    def __init__(
        self,
        shape: Iterable[int],
        dtype: Any,
        items: Iterable[Op | Site],
        outputs: Iterable[Any],
        tree: Any,
        last_layers: Iterable[str] = (),
    ) -> None:
        self.shape, self.dtype, self.last_layers = tuple(shape), jnp.dtype(dtype).name, tuple(last_layers)
        self.items, self.outputs, self.tree = tuple(items), tuple(outputs), tree

    @functools.cached_property
    def sites(self) -> dict[str, Site]:
        """The sites by name, in the order in which they run."""
        return {item.name: item for item in self.items if isinstance(item, Site)}

    @functools.cached_property
    def digest(self) -> str:
        """Hexadecimal digits that identify the structure."""
        items = [_without_place(item) for item in self.items]
        structure = [self.shape, self.dtype, items, self.outputs, str(self.tree)]
        return hashlib.sha256(json.dumps(structure, default=list).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def with_items(self, items: Iterable[Op | Site], outputs: Sequence[int | str] | None = None) -> "Graph":
        """The graph with other items, which compute values of the same numbers, and optionally with other outputs."""
        return Graph(self.shape, self.dtype, items, outputs or self.outputs, self.tree, self.last_layers)

    def shapes(self, weights: Weights) -> dict[int, tuple[int, ...]]:
        """The shape of each value for one example, `[1, ...]`."""
        numbers = (0, *(item.output for item in self.items))
        x = jax.ShapeDtypeStruct((1, *self.shape), self.dtype)
        values = jax.eval_shape(lambda x: self.returning(numbers).run(weights, x, _activation(weights)), x)
        return {number: value.shape for number, value in zip(numbers, values, strict=True)}

    def returning(self, values: tuple[int, ...]) -> "Graph":
        """The graph that returns these values, as a list."""
        tree = jax.tree.structure([0] * len(values))
        return Graph(self.shape, self.dtype, self.items, values, tree)

    def run(self, weights: Weights, x: Any, at_site: Callable, until: str | None = None) -> Any:
        """The output of the network for one example.

        Args:
          weights: the weights by name.
          x: the example, `[1, ...]`.
          at_site: function `(site, input of the site) -> output of the site`.
          until: name of a site after which the run ends; only the items that it needs are run.

        Returns:
          The network's outputs; with `until`, the output of that site.
        """
        values: dict = {**weights, 0: x}
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
        """The items that a site needs, including itself; or, if it is None, those that the outputs need."""
        needed: set[int | str] = {self.sites[until].output} if until is not None else set(self.outputs)
        kept = []
        for item in reversed(self.items):
            if item.output in needed:
                kept.append(item)
                needed |= {item.input} if isinstance(item, Site) else set(item.inputs)
        return tuple(reversed(kept))

    def apply(self, weights: Weights, x: Array) -> Any:
        """The output of the network for a batch `[B, ...]`, with its own activations; each example separately."""
        activation = _activation(weights)
        return jax.vmap(lambda x: jax.tree.map(lambda a: a[0], self.run(weights, x[None], activation)))(x)

    def inputs(self, weights: Weights, x: Array) -> dict[str, jax.Array]:
        """`{site: what is compared with its threshold}`, `[B, ...]`, with the ANN's activations."""

        def one(x: Array) -> dict[str, jax.Array]:
            compared: dict[str, jax.Array] = {}

            def record(site: Site, value: jax.Array) -> jax.Array:
                compared[site.name] = site.prepare(value, weights)
                return site.activation(compared[site.name], weights)

            self.run(weights, x[None], record)
            return {name: value[0] for name, value in compared.items()}

        return jax.vmap(one)(x)

    def __str__(self) -> str:
        """The table of sites."""
        rows = [("site", "kind", "shape", "channels", "fed by")]
        for site in self.sites.values():
            kind = f"{site.kind} {site.levels}" if site.levels else site.kind
            pooled = ", after max-pool" if any(op.name in MAXIMA for op in site.before) else ""
            shape = " x ".join(map(str, site.shape))
            rows.append((site.name, kind + pooled, shape, str(site.channels), ", ".join(site.layers) or "the input"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        neurons = sum(int(np.prod(site.shape)) for site in self.sites.values())
        return "\n".join([*lines, f"{len(self.sites)} sites, {neurons:,} neurons"])

    def __repr__(self) -> str:
        return f"Graph({len(self.sites)} sites, {len(self.items) - len(self.sites)} operations)"


def _activation(weights: Weights) -> Callable:
    """For `Graph.run`: what the ANN's own activation sends."""
    return lambda site, value: site.activation(site.prepare(value, weights), weights)


def _without_place(item: Op | Site) -> tuple:
    """The fields of an item except its place, and those of the operations in it."""
    if isinstance(item, Site):
        item = item._replace(before=tuple(map(_without_place, item.before)))
    return item[:-1]

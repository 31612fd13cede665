"""A graph as JSON: a list of operations from a fixed set, which contains no code and needs no model."""

from pathlib import Path
from typing import Any

import jax

from tppjax.errors import InputError, refusing
from tppjax.graph.graph import Graph, Op, Site
from tppjax.graph.operations import ALL
from tppjax.graph.values import Place
from tppjax.types import Weights

KINDS = ("relu", "clip", "qcfs")


def describe(graph: Graph) -> dict:
    """The graph as JSON represents it.

    Raises:
      InputError: if it returns anything but arrays in tuples, lists and dictionaries.
    """
    return {
        "shape": graph.shape,
        "dtype": graph.dtype,
        "items": [_item(item) for item in graph.items],
        "outputs": graph.outputs,
        "tree": _nest(jax.tree.unflatten(graph.tree, range(len(graph.outputs)))),
        "last_layers": graph.last_layers,
    }


def graph_of(described: dict, weights: Weights) -> Graph:
    """The graph of a description.

    Args:
      described: the description, as `describe` returns it.
      weights: the weights that the graph uses, by name.

    Raises:
      InputError: if an operation is unknown, a value is missing, or a shape does not fit.
    """
    with refusing("the graph is damaged", kinds=(KeyError, TypeError, ValueError, AttributeError, IndexError)):
        items = [_read(item) for item in _tuples(described["items"])]
        tree = jax.tree.structure(_nested(described["tree"]))
        graph = Graph(
            described["shape"], described["dtype"], items, described["outputs"], tree, described["last_layers"]
        )
        _check(graph, weights)
    return graph


def _item(item: Op | Site) -> dict:
    described = {name: value for name, value in item._asdict().items() if name != "place"}
    file = Path(item.place.line)  # saved without the folders of this machine
    described["line"] = f"{item.place.scope}@{'/'.join(file.parts[-2:])}"
    if isinstance(item, Site):
        return described | {"before": [_item(op) for op in item.before]}
    return described | {"options": dict(item.options)}


def _read(described: dict) -> Any:
    described = dict(described)
    scope, _, line = described.pop("line").partition("@")
    if "before" in described:
        before = tuple(_read(op) for op in described.pop("before"))
        site = Site(**described, before=before, place=Place(scope, line))
        if site.kind not in KINDS:
            raise ValueError(f"unknown activation {site.kind!r}")
        return site
    name = described["name"]
    if name not in ALL or set(described["options"]) != set(ALL[name].options):
        raise ValueError(f"unknown operation {name!r} or options of it")
    options = tuple(described.pop("options").items())
    return Op(**described, options=options, place=Place(scope, line))


def _check(graph: Graph, weights: Weights) -> None:
    """Checks that the graph can run, and that each site has the shape that it claims."""
    shapes: dict[str, tuple[int, ...]] = {}

    def at_site(site: Site, x: jax.Array) -> jax.Array:
        shapes[site.name] = site.prepare(x, weights).shape
        return site.activation(site.prepare(x, weights), weights)

    x = jax.ShapeDtypeStruct((1, *graph.shape), graph.dtype)
    jax.eval_shape(lambda x: graph.run(weights, x, at_site), x)
    for name, shape in shapes.items():
        site = graph.sites[name]
        if shape != (1, *site.shape) or not (site.axis is None or 0 <= site.axis < len(site.shape)):
            raise ValueError(f"{name} has shape {shape[1:]}, not {site.shape}")


def _nest(tree: Any) -> Any:
    """Tuples, lists and dictionaries as JSON, each with its kind; arrays are represented by their number."""
    match tree:
        case int() | None:
            return tree
        case dict() if all(isinstance(key, str) for key in tree):
            return {"dict": {key: _nest(value) for key, value in tree.items()}}
        case list() | tuple() if type(tree) in (list, tuple):
            return {type(tree).__name__: [_nest(value) for value in tree]}
    raise InputError(f"the network returns a {type(tree).__name__}: let it return tuples, lists or dictionaries")


def _nested(described: Any) -> Any:
    if described is None or type(described) is int:
        return described
    ((kind, inner),) = described.items()
    if kind == "dict":
        return {key: _nested(value) for key, value in inner.items()}
    return {"list": list, "tuple": tuple}[kind](map(_nested, inner))


def _tuples(value: Any) -> Any:
    """The value with tuples in place of lists, in dictionaries too."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value

"""Saving of a `Network`: `graph.json` and `weights.safetensors`, without the model's code; loading of any network."""

import dataclasses
import hashlib
import json
import platform
from importlib import metadata
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from tppjax import ann, files, saved
from tppjax.ann import Ann
from tppjax.errors import InputError, refusing
from tppjax.graph.description import describe, graph_of
from tppjax.network import Network
from tppjax.tracing import trace
from tppjax.types import PathLike, Weights

FORMAT = 1
GRAPH, WEIGHTS = "graph.json", "weights.safetensors"
PARTS = ("weights", "thetas", "offsets", "potentials")
TIME = "time"  # the part with the arrays of a spiking version
REMEDY = "save the network again, or copy its folder again from where it is whole"


def save(network: Network, folder: PathLike, converted: dict | None = None, time: Weights | None = None) -> None:
    """Writes `folder`: the graph as JSON, and all arrays as safetensors. A kill leaves the old content or the new.

    Args:
      network: the network.
      folder: the folder to create or replace.
      converted: entries that describe its spiking version, written to the JSON too.
      time: arrays of the spiking version, by name.

    Raises:
      InputError: if the network returns something that JSON can't represent.
      FileExistsError: if `folder` holds anything but a saved network.
      OSError: if it can't be written.
    """
    folder = Path(folder).absolute()
    arrays = {f"{part}/{name}": a for part in PARTS for name, a in getattr(network, part).items()}
    arrays |= {f"{TIME}/{name}": a for name, a in (time or {}).items()}
    described = {
        "format": FORMAT,
        "graph": describe(network.graph),
        "preprocessing": network.preprocessing and dataclasses.asdict(network.preprocessing),
        "history": network.history,
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("tppjax", "jax")},
        **({"converted": converted} if converted else {}),
    }
    existing = files.whole_folder(folder)
    if existing.is_file():
        raise FileExistsError(f"{folder} is a file, not a folder; choose another one")
    if existing.exists() and not {p.name for p in existing.iterdir()} <= {GRAPH, WEIGHTS}:
        raise FileExistsError(f"{folder} holds something other than a saved network; choose another folder")
    with files.replacing_folder(folder) as new:
        new.mkdir()
        content = safetensors.numpy.save({name: np.array(a, order="C") for name, a in arrays.items()})
        (new / WEIGHTS).write_bytes(content)
        files.write_json(new / GRAPH, {**described, "sha256": _digest(described, content)})


def load(folder: PathLike) -> Network:
    """The network in a folder: a saved `Network`, or a saved `Ann` (such as that of a training run), which is traced.

    Raises:
      FileNotFoundError: if there is no network; says where it was looked for.
      InputError: if it is damaged or of a later format, if there are two networks, or as `trace`.
    """
    return trace(stored(folder))


def stored(folder: PathLike) -> Network | Ann:
    """The network saved in `folder`, else in `folder/ann` or `folder/network`. Errors as `load`."""
    folder = Path(folder).absolute()
    for places in ((folder,), (folder / "ann", folder / "network")):
        kinds = {place: kind for place in places if (kind := _kind(place))}
        if len(kinds) > 1:
            raise InputError(f"{folder} holds two networks, ann and network: give one of these two folders")
        for place, kind in kinds.items():
            return ann.load(place) if kind is Ann else _load(place)[0]
    raise FileNotFoundError(ann.nothing_at(folder))


def converted(folder: PathLike) -> tuple[Network, dict, Weights] | None:
    """The network, and the `converted` and `time` with which it was saved; None if no spiking version was saved.

    Errors as `load`, if there is a network.
    """
    folder = Path(folder).absolute()
    if _kind(folder) is not Network:
        return None
    network, described, time = _load(folder)
    return None if described is None else (network, described, time)


def _kind(folder: Path) -> type | None:
    with files.reading_folder(folder) as whole:
        names = {"ann.json": Ann, GRAPH: Network}
        return next((kind for name, kind in names.items() if (whole / name).is_file()), None)


def _load(folder: Path) -> tuple[Network, dict | None, Weights]:
    """The network, and the description and arrays of its spiking version, if there is one."""
    with files.reading_folder(folder) as whole:
        content = files.read_json(whole / GRAPH, REMEDY)
        data = files.regular(whole / WEIGHTS).read_bytes()
    if content.get("format") != FORMAT:
        raise InputError(
            f"{folder} has format {content.get('format')!r}, and this version reads {FORMAT}: update tppjax"
        )
    if content.pop("sha256", None) != _digest(content, data):
        raise InputError(f"{folder} is damaged: it is not as it was saved, by its digest; {REMEDY}")
    kinds = KeyError, TypeError, ValueError, safetensors.SafetensorError
    with refusing(f"{folder} does not describe a network of this library", REMEDY, kinds):
        return _network(content, data)


def _network(content: dict, data: bytes) -> tuple[Network, dict | None, Weights]:
    parts: dict[str, dict] = {part: {} for part in (*PARTS, TIME)}
    for path, array in safetensors.deserialize(data):
        part, _, name = path.partition("/")
        parts[part][name] = np.frombuffer(array["data"], _dtype(array["dtype"])).reshape(array["shape"])
    time = parts.pop(TIME)
    graph = graph_of(content["graph"], parts["weights"])
    preprocessing = content["preprocessing"] and saved.preprocessing_of(content["preprocessing"])
    network = Network(**parts, graph=graph, preprocessing=preprocessing, history=tuple(content["history"]))
    return network, content.get("converted"), time


def _dtype(name: str) -> np.dtype:
    """The type that safetensors calls `name`, such as "F32"; its own NumPy interface lacks "BF16"."""
    return jnp.dtype({"BOOL": "bool", "BF16": "bfloat16"}.get(name) or f"{name[0].lower()}{int(name[1:]) // 8}")


def _digest(described: dict, weights: bytes) -> str:
    """SHA-256, in hexadecimal digits, of the other entries of `graph.json` and of the file of the weights."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode() + weights).hexdigest()

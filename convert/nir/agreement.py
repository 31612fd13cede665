"""The agreement of other simulators with this library: spike by spike and answer by answer, on the same images."""

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from convert import stepped
from convert.nir.nodes import Nodes
from convert.nir.simulators import SIMULATORS, Simulator
from convert.nir.writing import build, read, text, write
from convert.snn import Snn
from tppjax.batching import batches
from tppjax.errors import InputError, brief
from tppjax.types import Array

CHUNK = 50  # examples in a call


class Agreement(NamedTuple):
    """The agreement of another simulator with ours.

    Attributes:
      spikes: `{site: (same, ours, theirs)}`: the share of neurons and steps with equal spikes, in percent, and the mean
        number of spikes of a neuron in a step, in ours and in theirs.
      answers: share of the examples to which both give the same class, in percent.
      right: shares of the examples that ours and theirs classify correctly, in percent.
      failed: why the simulator does not run; "" if it does.
    """

    spikes: dict[str, tuple[float, float, float]]
    answers: float
    right: tuple[float, float]
    failed: str = ""


def compare(
    snn: Snn,
    images: Array,
    labels: Array,
    simulator: str,
    as_imported: bool = False,
    v_init: Literal["metadata", "bias"] = "metadata",
) -> Agreement:
    """Runs the NIR file of a network in another simulator, and compares its spikes and answers with `Snn.trace`.

    Args:
      snn: the spiking network, of mode "baseline".
      images: inputs of the network, `[B, ...]`.
      labels: classes of the images, `[B]`.
      simulator: a name of `SIMULATORS`.
      as_imported: whether to keep the neurons of the simulator's import; by default all settings that differ from our
        neurons are changed.
      v_init: representation of initial potentials, as in `convert.export.nir`.

    Raises:
      InputError: as `convert.export.nir`; if there are no images or not as many labels; or if the simulator is unknown
        or not installed.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise InputError(f"give images and as many labels; got {len(images)} and {len(labels)}")
    graph, built = build(snn, v_init=v_init)
    size, parts = min(CHUNK, snn.batch_size(traced=True), len(images)), []
    with tempfile.TemporaryDirectory() as folder:
        write(file := Path(folder) / "network.nir", graph)
        for x in batches(images, size):
            try:
                parts.append(_both(snn, x, file, built, simulator, as_imported))
            except InputError:
                raise
            except (TypeError, AttributeError, ValueError, RuntimeError) as e:
                if not as_imported:
                    raise
                return Agreement({}, 0.0, (0.0, 0.0), brief(e).partition(" - ")[0])
    spikes, answers = [part[0] for part in parts], np.concatenate([part[1] for part in parts], axis=1)
    weights = [part[1].shape[1] for part in parts]
    sites = {name: np.average([each[name] for each in spikes], axis=0, weights=weights) for name in snn.network.sites}
    correct = (100 * np.mean(answers == np.asarray(labels), axis=1)).tolist()
    same = {name: (float(n[0]), float(n[1]), float(n[2])) for name, n in sites.items()}
    return Agreement(same, float(100 * np.mean(answers[0] == answers[1])), (correct[0], correct[1]))


def _both(
    snn: Snn, x: Array, file: Path, built: Nodes, simulator: str, as_imported: bool
) -> tuple[dict[str, tuple], np.ndarray]:
    """`({site: (same, ours, theirs)}, answers [2, B])` for one batch."""
    trace, graph, T = snn.trace(x), read(file), snn.steps
    theirs = _loaded(simulator, graph, len(x))
    nodes = {text(node.metadata["site"]): name for name, node in graph.nodes.items() if "site" in node.metadata}
    if not as_imported:
        start = {name: graph.nodes[name].metadata.get("v_init", 0 * graph.nodes[name].r) for name in nodes.values()}
        theirs.set({name: np.repeat(v[None], len(x), axis=0).astype(np.float32) for name, v in start.items()})
    with _quiet():
        output, spikes = theirs.run(_inputs(snn, x, T, built, graph.nodes["input"].input_type["input"]))
    compared = {}
    for site, name in nodes.items():
        ours = np.asarray(trace.spikes[site]).reshape(T, len(x), -1)
        other = spikes[name].reshape(T, len(x), -1)[:, :, built.orders[site].ravel() - 1]
        compared[site] = (100 * np.mean(ours == other), ours.mean(), other.mean())
    return compared, np.stack([np.asarray(trace.logits).mean(axis=0).argmax(-1), output.mean(axis=0).argmax(-1)])


def _inputs(snn: Snn, x: Array, T: int, built: Nodes, shape: np.ndarray) -> np.ndarray:
    """The input of every step, `[T, B, ...]`, in the order and shape of the input node."""
    frames = np.asarray(snn.network.frames(x))
    recorded = frames.ndim == len(snn.network.graph.shape) + 2
    steps = np.asarray(stepped.at_steps(np.moveaxis(frames, 1, 0), T) if recorded else frames[None])
    ordered = np.zeros((*steps.shape[:2], built.entry.size), np.float32)
    ordered[:, :, built.entry.ravel() - 1] = steps.reshape(*steps.shape[:2], -1)
    ordered = ordered.reshape(*steps.shape[:2], *shape)
    return np.broadcast_to(ordered, (T, *ordered.shape[1:]))


def _loaded(simulator: str, graph: Any, batch: int) -> Simulator:
    """The graph in a simulator.

    Raises:
      InputError: if the simulator is unknown or not installed.
    """
    if simulator not in SIMULATORS:
        raise InputError(f"no simulator {simulator!r}: known are {', '.join(SIMULATORS)}")
    try:
        with _quiet():
            return SIMULATORS[simulator](graph, batch)
    except ImportError as e:
        raise InputError(f"{simulator} is not installed ({e}): pip install {SIMULATORS[simulator].packages}") from e


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides the output and the warnings of other simulators."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

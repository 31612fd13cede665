"""Whether another simulator does what we do: spike by spike and answer by answer, on the same images."""

import contextlib
import os
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convert import stepped
from convert.nir.simulators import SIMULATORS
from convert.nir.writing import Built, build, read, text, write
from convert.snn import Snn
from tppjax.batching import batches
from tppjax.errors import InputError, brief

AT_ONCE = 50  # examples


class Agreement(NamedTuple):
    """Of another simulator with ours.

    Attributes:
      spikes: `{site: (same, ours, theirs)}`: of all neurons and steps, the share in which both fire as often, in
        percent, and the spikes of each on average.
      answers: share of the examples to which both give the same class, in percent.
      right: share of the examples that ours and theirs name rightly, in percent.
      failed: why it does not run, "" if it does.
    """

    spikes: dict[str, tuple[float, float, float]]
    answers: float
    right: tuple[float, float]
    failed: str = ""


def compare(snn: Snn, images, labels, simulator: str, as_imported: bool = False, v_init="metadata") -> Agreement:
    """Runs the NIR file of a network in another simulator, and compares what it does with `Snn.trace`.

    Args:
      snn: the spiking network, of mode "baseline".
      images: what it takes, `[B, ...]`.
      labels: their classes, `[B]`.
      simulator: a name of `SIMULATORS`.
      as_imported: leaves what its import makes of the file; else what differs from our neurons is set.
      v_init: as `convert.export.nir` has it.

    Raises:
      InputError: as `convert.export.nir`; if there are no images, or not as many labels; if the simulator is not known
        or not installed.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise InputError(f"give images and as many labels; got {len(images)} and {len(labels)}")
    built = build(snn, v_init=v_init)
    size, parts = min(AT_ONCE, snn.batch_size(traced=True), len(images)), []
    with tempfile.TemporaryDirectory() as folder:
        write(file := Path(folder) / "network.nir", built.graph)
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
    right = (100 * np.mean(answers == np.asarray(labels), axis=1)).tolist()
    same = {name: tuple(numbers.tolist()) for name, numbers in sites.items()}
    return Agreement(same, float(100 * np.mean(answers[0] == answers[1])), tuple(right))


def _both(snn: Snn, x, file: Path, built: Built, simulator: str, as_imported: bool):
    """`({site: [same, ours, theirs]}, answers [2, B])` for one batch."""
    trace, graph = snn.trace(x), read(file)
    theirs = _loaded(simulator, graph, len(x))
    nodes = {text(node.metadata["site"]): name for name, node in graph.nodes.items() if "site" in node.metadata}
    if not as_imported:
        begin = {name: graph.nodes[name].metadata.get("v_init", 0 * graph.nodes[name].r) for name in nodes.values()}
        theirs.set({name: np.repeat(v[None], len(x), axis=0).astype(np.float32) for name, v in begin.items()})
    frames = np.asarray(snn.network.frames(x))
    recorded = frames.ndim == len(snn.network.graph.shape) + 2
    steps = stepped.at_steps(np.moveaxis(frames, 1, 0), snn.T) if recorded else frames[None]
    entering = np.zeros((*steps.shape[:2], built.entry.size), np.float32)
    entering[:, :, built.entry.ravel() - 1] = np.asarray(steps).reshape(*steps.shape[:2], -1)
    entering = entering.reshape(*steps.shape[:2], *graph.nodes["input"].input_type["input"])
    with _quiet():
        output, spikes = theirs.run(np.broadcast_to(entering, (snn.T, *entering.shape[1:])))
    compared = {}
    for site, name in nodes.items():
        ours = np.asarray(trace.spikes[site]).reshape(snn.T, len(x), -1)
        other = spikes[name].reshape(snn.T, len(x), -1)[:, :, built.orders[site].ravel() - 1]
        compared[site] = (100 * np.mean(ours == other), ours.mean(), other.mean())
    return compared, np.stack([np.asarray(trace.logits).mean(axis=0).argmax(-1), output.mean(axis=0).argmax(-1)])


def _loaded(simulator: str, graph, batch: int):
    """The graph in a simulator.

    Raises:
      InputError: if it is not known or not installed.
    """
    if simulator not in SIMULATORS:
        raise InputError(f"no simulator {simulator!r}: known are {', '.join(SIMULATORS)}")
    try:
        with _quiet():
            return SIMULATORS[simulator](graph, batch)
    except ImportError as e:
        raise InputError(f"{simulator} is not installed ({e}): pip install {SIMULATORS[simulator].packages}") from e


@contextlib.contextmanager
def _quiet():
    """Without what their imports print and warn of."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

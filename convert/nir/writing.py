"""NIR, the exchange format of neuromorphic tools: a network of integrate-and-fire neurons as a file for other tools."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

import tppjax
from convert.nir.nodes import Nodes
from convert.nir.terms import scattered
from convert.snn import Snn
from tppjax import files
from tppjax.errors import InputError, brief, check_number, extra
from tppjax.graph import Site
from tppjax.neurons import NEURONS

BASELINE = NEURONS["baseline"]


def nir(
    snn: Snn,
    file: str | os.PathLike,
    dt: float = 1.0,
    r: float | None = None,
    v_init: Literal["metadata", "bias"] = "metadata",
) -> None:
    """Writes the network as a NIR graph: convolutions, affine maps, sum pools and integrate-and-fire neurons.

    Batch norm and thresholds are folded into the weights, so every threshold is 1 and every spike is 1. Several edges
    into a node are a sum. The same analog input enters at every step, normalised as the metadata say; the answer is the
    mean of the output over T steps.

    What NIR has no word for is in the metadata of the graph: how neurons reset (by subtraction), T, dt, what was done
    to pixels. docs/hardware.md says, tool by tool, what has to be set besides.

    Args:
      snn: the spiking network, of mode "baseline".
      file: the file.
      dt: duration of a step in seconds, if the tool has one: it integrates `v += dt r x`.
      r: resistance of all neurons; `1 / dt` if None, so that a step adds its input.
      v_init: where initial potentials go: into metadata of each node of neurons, "v_init", in thresholds; or "bias":
        spread over all steps as a bias of `v_init / T`, for tools whose neurons begin at 0. Spikes then come later. The
        rates of the first layer stay, whose input is the same at every step; those of deeper layers may change.

    Raises:
      InputError: if neurons are not integrate-and-fire, as two-phase ones are not; if a layer has no node of NIR; or if
        nir is not installed.
      OSError: if the file can't be written.
    """
    write(Path(file), build(snn, dt, r, v_init).graph)


def library():
    """The package nir.

    Raises:
      InputError: if it is not installed.
    """
    with extra("export"):
        import nir
    return nir


def write(file: Path, graph) -> None:
    """Writes a graph; a kill leaves what was there or the new file."""
    package = library()
    import h5py  # which nir needs

    with files.replacing(file) as new:
        package.write(new, graph)
        with h5py.File(new, "r+") as opened:  # what nir 1.0.8 has for a hard reset, and 1.0.4, which Sinabs asks for,
            for node in opened["node/nodes"].values():  # can't read
                node.pop("v_reset", None)


def read(file: Path):
    """The graph in a file.

    Raises:
      FileNotFoundError: if there is none.
      InputError: if it is damaged, or holds what nir does not know.
    """
    package = library()
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    try:
        return package.read(file)
    except Exception as e:  # of whatever kind: h5py and nir raise many
        raise InputError(f"{file} is damaged, or holds what the package nir refuses ({brief(e)})") from e


class Built(NamedTuple):
    """A graph of NIR, and where our numbers are in it.

    Attributes:
      graph: of the package nir.
      entry: indices of the numbers of an input in what the input node takes, from 1 on.
      orders: `{site: indices of its neurons}`, likewise.
    """

    graph: object
    entry: np.ndarray
    orders: dict[str, np.ndarray]


def build(snn: Snn, dt: float = 1.0, r: float | None = None, v_init: str = "metadata") -> Built:
    """The graph of `nir`, whose arguments and errors it has."""
    check_number("dt", dt, 1e-30, 1e30)  # float32 in the file
    check_number("r", r := 1 / dt if r is None else r, 1e-30, 1e30)
    if v_init not in ("metadata", "bias"):
        raise InputError(f'v_init goes into "metadata" or "bias"; got {v_init!r}')
    _check(snn)
    package = library()
    nodes = Nodes(package, snn.network)
    for item in nodes.network.graph.items:
        if not isinstance(item, Site):
            nodes.op(item)
            continue
        neuron = snn.in_network[item.name]
        start = np.broadcast_to(
            np.float32(neuron.v_init) + np.asarray(snn.network.potentials.get(item.name, 0.0)), item.shape
        )

        def node(shape, indices, site=item.name, start=start):
            ones, metadata = np.ones(shape, np.float32), {"site": site}
            if v_init == "metadata":
                metadata["v_init"] = scattered(start, indices, shape)
            return package.IF(r=np.float32(r) * ones, v_threshold=ones, metadata=metadata)

        extra = neuron.shift + (start if v_init == "bias" else 0.0)
        nodes.site(item, node, np.asarray(extra, np.float64) / snn.T)
    nodes.output()
    graph = package.NIRGraph(nodes=nodes.layers.nodes, edges=nodes.layers.edges, metadata=_metadata(snn, dt))
    return Built(graph, nodes.entry, nodes.orders)


def _check(snn: Snn) -> None:
    for site, neuron in snn.in_network.items():
        mode = snn.modes[site]
        if neuron.waits:
            raise InputError(
                f"NIR has no node for mode {mode}: its neurons wait for the input of all T steps before they fire; "
                'convert with mode="baseline", or write the program by convert.export.stablehlo'
            )
        if type(neuron) is not BASELINE:
            raise InputError(
                f'NIR has no node for mode {mode}: of ours it knows integrate-and-fire only, mode="baseline"'
            )
    if late := [name for name, offset in snn.network.offsets.items() if np.ndim(offset) == 2]:
        raise InputError(f"NIR has one bias for all steps, and {late[0]} was corrected step by step: correct otherwise")


def _metadata(snn: Snn, dt: float) -> dict:
    """What NIR has no word for."""
    like = snn.network.preprocessing
    about = {"writer": f"tppjax {tppjax.__version__}", "reset": "subtract", "T": snn.T, "dt": dt}
    about["coding"] = "constant" if like is None or like.frames is None else f"{like.frames} frames, one after another"
    if like is not None:
        about |= {"mean": np.array(like.mean, np.float32), "std": np.array(like.std, np.float32)}
    return about


def text(value) -> str:
    """What is in metadata, which comes back as bytes or numbers of NumPy."""
    return value.decode() if isinstance(value, bytes) else str(value)

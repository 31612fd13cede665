"""Export to NIR, the exchange format of neuromorphic tools, of networks of integrate-and-fire neurons."""

from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

import tppjax
from convert.nir.nodes import Nodes
from convert.snn import Snn
from tppjax import files
from tppjax.errors import InputError, check_number, extra, refusing
from tppjax.graph import Site
from tppjax.neurons import Baseline
from tppjax.types import PathLike


def nir(
    snn: Snn,
    file: PathLike,
    dt: float = 1.0,
    r: float | None = None,
    v_init: Literal["metadata", "bias"] = "metadata",
) -> None:
    """Writes the network as a NIR graph: convolutions, affine maps, sum pools and integrate-and-fire neurons.

    Batch norm and thresholds are folded into the weights, so every threshold is 1 and every spike is 1. Several edges
    into a node are a sum. The same analog input enters at every step, normalised as described in the metadata; the
    answer is the mean of the output over T steps.

    The metadata of the graph have everything that NIR can't express: the reset of neurons (by subtraction), T, dt, and
    the normalisation of pixels. docs/hardware.md lists, tool by tool, the settings that are needed in addition.

    Args:
      snn: the spiking network, of mode "baseline".
      file: the file to write.
      dt: duration of a step in seconds, for tools that integrate `v += dt r x`.
      r: resistance of all neurons; by default `1 / dt`, so that a step adds its input.
      v_init: representation of initial potentials. "metadata" puts them into the metadata of each node of neurons, as
        "v_init", in thresholds. "bias" spreads them over all steps as a bias of `v_init / T`, for tools whose neurons
        begin at 0. Spikes then come later. The rates of the first layer, whose input is the same at every step, do not
        change; those of deeper layers may.

    Raises:
      InputError: if neurons are not integrate-and-fire (two-phase neurons are not), NIR has no node for a layer, or nir
        is not installed.
      OSError: if the file can't be written.
    """
    write(Path(file), build(snn, dt, r, v_init)[0])


def library() -> ModuleType:
    """The package nir.

    Raises:
      InputError: if it is not installed.
    """
    with extra("export"):
        import nir
    return nir


def write(file: Path, graph: Any) -> None:
    """Writes a graph; a kill leaves the old file or the new one."""
    package = library()
    import h5py  # a dependency of nir

    with files.replacing(file) as new:
        package.write(new, graph)
        with h5py.File(new, "r+") as opened:
            nodes: Any = opened["node/nodes"]
            for node in nodes.values():  # nir 1.0.8 adds v_reset, which nir 1.0.4, required by Sinabs, can't read
                node.pop("v_reset", None)


def read(file: Path) -> Any:
    """The graph in a file.

    Raises:
      FileNotFoundError: if there is no file.
      InputError: if the file is damaged, or the package nir does not know its content.
    """
    package = library()
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no file {file}")
    with refusing(f"{file} is damaged, or holds what the package nir refuses"):
        return package.read(file)


def build(snn: Snn, dt: float = 1.0, r: float | None = None, v_init: str = "metadata") -> tuple[Any, Nodes]:
    """The graph of `nir`, and the nodes with the positions of our numbers in it; arguments and errors as there."""
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
        assert isinstance(neuron, Baseline)  # by `_check`
        assert neuron.v_init is not None and neuron.shift is not None  # noqa: PT018 - by `Baseline.at`
        potential = np.float32(neuron.v_init) + np.asarray(snn.network.potentials.get(item.name, 0.0))
        start = np.broadcast_to(potential, item.shape)
        extra = neuron.shift + (start if v_init == "bias" else 0.0)
        nodes.site(item, r, start if v_init == "metadata" else None, np.asarray(extra, np.float64) / snn.steps)
    nodes.output()
    graph = package.NIRGraph(nodes=nodes.layers.nodes, edges=nodes.layers.edges, metadata=_metadata(snn, dt))
    return graph, nodes


def _check(snn: Snn) -> None:
    """Raises InputError unless NIR has nodes for the neurons of all sites."""
    for site, neuron in snn.in_network.items():
        mode = snn.modes[site]
        if neuron.waits:
            raise InputError(
                f"NIR has no node for mode {mode}: its neurons wait for the input of all T steps before they fire; "
                'convert with mode="baseline", or write the program by convert.export.stablehlo'
            )
        if type(neuron) is not Baseline:
            raise InputError(
                f'NIR has no node for mode {mode}: of ours it knows integrate-and-fire only, mode="baseline"'
            )
    if late := [name for name, offset in snn.network.offsets.items() if np.ndim(offset) == 2]:
        raise InputError(
            f"NIR has one bias for all steps, and {late[0]} was corrected step by step: use another correction"
        )


def _metadata(snn: Snn, dt: float) -> dict[str, Any]:
    """The information that NIR itself can't express."""
    images = snn.network.preprocessing
    about: dict[str, Any] = {"writer": f"tppjax {tppjax.__version__}", "reset": "subtract", "T": snn.T, "dt": dt}
    about["coding"] = "constant"
    if images is not None:
        if images.frames is not None:
            about["coding"] = f"{images.frames} frames, one after another"
        about |= {"mean": np.array(images.mean, np.float32), "std": np.array(images.std, np.float32)}
    return about


def text(value: Any) -> str:
    """A value of the metadata as text; files return bytes or numbers of NumPy."""
    return value.decode() if isinstance(value, bytes) else str(value)

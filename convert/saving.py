"""Saving and loading of spiking networks, without any code: the folder is that of a `Network`, with a few additions.

`graph.json` also has the number of steps and the neurons of each site, as text. `weights.safetensors` also has the
arrays that the neurons compute from T, so that the same key draws the same spikes on any machine.
"""

from collections.abc import Iterable
from typing import Any

from flax import traverse_util
from jax.tree_util import keystr, tree_map_with_path

from convert.snn import Snn, to_snn
from tppjax import checkpoint
from tppjax.errors import InputError, refusing
from tppjax.network import Network
from tppjax.neurons import Neuron, parse
from tppjax.types import PathLike


def save(snn: Snn, folder: PathLike) -> None:
    """Writes the spiking network to a folder, which `load` reads; a kill leaves the old content or the new.

    Raises:
      InputError, FileExistsError, OSError: as `tppjax.checkpoint.save`; if `snn` is from `for_any_T`, or a field of its
        neurons can't be written as text.
    """
    for neuron in snn.neurons.values():  # a file holds their text, which has to make them again
        parse(str(neuron), {f"{type(neuron).__module__}:{type(neuron).__qualname__}": type(neuron)})
    time: dict[str, Any] = dict(traverse_util.flatten_dict(snn.time, sep="/"))
    checkpoint.save(snn.network, folder, {"T": snn.steps, "modes": snn.modes}, time)


def load(folder: PathLike, neurons: Any = ()) -> Snn | Network:
    """The spiking network in a folder, or the network if it was not converted: a saved one, or the result of training.

    Args:
      folder: the folder that `Snn.save` or `Network.save` wrote, or --out of training.
      neurons: a class of your own neurons, or several, since a folder holds only their names.

    Raises:
      FileNotFoundError: if there is no network; the message lists the places that were searched.
      InputError: if the network is damaged or of a later format, if there are two, or if one of its neurons is unknown.
    """
    converted = checkpoint.converted(folder)
    if converted is None:
        return checkpoint.load(folder)
    network, described, arrays = converted
    neurons = tuple(neurons) if isinstance(neurons, Iterable) else (neurons,)
    if not all(isinstance(kind, type) and issubclass(kind, Neuron) for kind in neurons):
        raise InputError(f"neurons= takes classes of your own neurons, as in neurons=[MyNeuron]; got {neurons!r}")
    own = {f"{kind.__module__}:{kind.__qualname__}": kind for kind in neurons}
    problem = f"{folder} does not describe a spiking network of this library"
    with refusing(problem, "save it again", (KeyError, TypeError, AttributeError)):
        modes: dict[str, str | Neuron] = {site: parse(described["modes"][site], own) for site in network.sites}
        snn = to_snn(network, described["T"], modes)
        stored = tree_map_with_path(lambda path, _: arrays[keystr(path, simple=True, separator="/")], snn.time)
        return snn.replace(time=stored)

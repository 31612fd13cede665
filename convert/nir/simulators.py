"""Other simulators that run a NIR file: as they import it, and with the settings that make their neurons like ours.

docs/hardware.md explains each setting. A simulator is imported only when it is used.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tppjax.errors import InputError

if TYPE_CHECKING:
    import torch


class Simulator:
    """A NIR graph in a simulator.

    Attributes:
      packages: the packages that pip has to install.
      settings: the settings that `set` changes, in words; "" if no settings make the neurons like ours.
      module: the network.
      neurons: the modules of neurons, `{name of the node: module}`.
    """

    packages: ClassVar[str]
    settings: ClassVar[str] = ""

    def __init__(self, graph: Any, batch: int):
        import torch

        names = [name for name, node in graph.nodes.items() if type(node).__name__ == "IF"]
        self.torch: Any = torch
        self.module: Any = self.load(graph, batch)
        self.neurons: dict[str, Any] = {n: module for n, module in self.module.named_modules() if n in names}

    def load(self, graph: Any, batch: int) -> "torch.nn.Module":
        """The module that the simulator makes from a graph."""
        raise NotImplementedError

    def set(self, start: dict[str, np.ndarray]) -> None:
        """Changes the settings that differ from ours, and sets initial potentials `{name of a node: [B, ...]}`."""
        raise NotImplementedError

    def sort(self) -> None:
        """Makes nirtorch run the nodes in the order of their names, in which each follows its inputs."""
        self.module.execution_order.sort(key=lambda node: node.name)

    def answers(self, x: "torch.Tensor") -> "torch.Tensor":
        """The output `[T, B, K]` for `x` `[T, B, ...]`."""
        outputs, state = [], None
        for frame in x:
            output, state = self.module(frame) if state is None else self.module(frame, state)
            outputs.append(output)
        return self.torch.stack(outputs)

    def over_time(self, spikes: "Sequence[torch.Tensor]", shape: Sequence[int]) -> "torch.Tensor":
        """The spikes of a node `[T, B, ...]`, from its outputs call by call; `shape` is `(T, B)`."""
        return self.torch.stack(spikes)

    def run(self, x: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """`(output [T, B, K], {name of a node: spikes [T, B, ...]})` for `x` `[T, B, ...]`."""
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in self.neurons}
        for name, module in self.neurons.items():
            module.register_forward_hook(
                lambda _, __, out, name=name: seen[name].append(out[0] if isinstance(out, tuple) else out)
            )
        with self.torch.no_grad():
            output = self.answers(self.torch.from_numpy(np.ascontiguousarray(x)))
            spikes = {name: self.over_time(each, x.shape[:2]).numpy() for name, each in seen.items()}
        return output.numpy(), spikes


class Sinabs(Simulator):
    """Sinabs: `from_nir` makes `IAFSqueeze` from IF."""

    packages = "sinabs nirtorch"
    settings = (
        "one spike a step (spike_fn=SingleSpike), no lowest potential (min_v_mem=None), initial potentials, nodes in "
        "the order in which they need each other"
    )

    def load(self, graph: Any, batch: int) -> "torch.nn.Module":
        """As `Simulator.load`; examples and steps are one axis in the module."""
        from sinabs.nir import from_nir

        return from_nir(graph, batch_size=batch)

    def set(self, start: dict[str, np.ndarray]) -> None:
        """As `Simulator.set`."""
        from sinabs.activation import SingleSpike

        self.sort()
        for name, layer in self.neurons.items():
            layer.spike_fn, layer.min_v_mem = SingleSpike, None
            layer.register_buffer("v_mem", self.torch.from_numpy(start[name]))

    def answers(self, x: "torch.Tensor") -> "torch.Tensor":
        """As `Simulator.answers`."""
        output, _ = self.module(x.transpose(0, 1).flatten(0, 1))
        return output.reshape(*x.shape[1::-1], -1).transpose(0, 1)

    def over_time(self, spikes: "Sequence[torch.Tensor]", shape: Sequence[int]) -> "torch.Tensor":
        """As `Simulator.over_time`."""
        (one,) = spikes
        return one.reshape(*shape[::-1], *one.shape[1:]).transpose(0, 1)


class SnnTorch(Simulator):
    """snnTorch: `import_from_nir` makes `Leaky` from IF."""

    packages = "snntorch nir nirtorch"
    settings = (
        "no leak (beta=1), state kept inside (init_hidden=True), reset in the next step (reset_delay=True), "
        "initial potentials"
    )

    def load(self, graph: Any, batch: int) -> "torch.nn.Module":
        """As `Simulator.load`."""
        from snntorch.import_nir import import_from_nir

        return import_from_nir(graph)

    def set(self, start: dict[str, np.ndarray]) -> None:
        """As `Simulator.set`; snnTorch treats a neuron with a potential of 1 or more as one that has just fired."""
        if max(float(v.max()) for v in start.values()) >= 1:
            raise InputError("snnTorch loses a spike where an initial potential is 1 or more: compare with Sinabs")
        for name, layer in self.neurons.items():
            layer.init_hidden, layer.reset_delay = True, True
            layer.beta.fill_(1)
            layer.mem = self.torch.from_numpy(start[name])


class Norse(Simulator):
    """Norse: `from_nir` makes `IAFCell` from IF, which resets to a fixed potential."""

    packages = "norse"
    settings = "nodes in the order in which they need each other; its reset to 0 can't be changed"

    def load(self, graph: Any, batch: int) -> "torch.nn.Module":
        """As `Simulator.load`."""
        from norse.torch import from_nir

        return from_nir(graph)

    def set(self, start: dict[str, np.ndarray]) -> None:
        """As `Simulator.set`, except for initial potentials, since the state is made with the first input."""
        self.sort()


SIMULATORS: dict[str, type[Simulator]] = {"sinabs": Sinabs, "snntorch": SnnTorch, "norse": Norse}

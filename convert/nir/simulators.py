"""Other simulators, which run a NIR file: as they import it, and with what has to be set to have our neurons.

docs/hardware.md says what each setting is for. A simulator is imported only where it is asked for.
"""

from typing import ClassVar

import numpy as np

from tppjax.errors import InputError


class Simulator:
    """A NIR graph in one of them.

    Attributes:
      packages: what pip has to install.
      settings: what `set` changes, in words; "" if nothing makes our neurons of theirs.
      module: the network.
      neurons: `{name of a node: its module}`, of those with neurons.
    """

    packages: ClassVar[str]
    settings: ClassVar[str] = ""

    def __init__(self, graph, batch: int):
        import torch

        names = [name for name, node in graph.nodes.items() if type(node).__name__ == "IF"]
        self.torch, self.module = torch, self.load(graph, batch)
        self.neurons = {name: module for name, module in self.module.named_modules() if name in names}

    def load(self, graph, batch: int):
        """The module that the simulator makes of a graph."""
        raise NotImplementedError

    def set(self, start: dict[str, np.ndarray]) -> None:
        """Sets what differs, and initial potentials `{name of a node: [B, ...]}`."""
        raise NotImplementedError

    def sort(self) -> None:
        """Lets nirtorch run nodes in the order in which they need each other, that of their names."""
        self.module.execution_order.sort(key=lambda node: node.name)

    def answers(self, x):
        """The output `[T, B, K]` for `x` `[T, B, ...]`."""
        outputs, state = [], None
        for frame in x:
            output, state = self.module(frame) if state is None else self.module(frame, state)
            outputs.append(output)
        return self.torch.stack(outputs)

    def over_time(self, spikes, shape):
        """The spikes of a node `[T, B, ...]`, of what it gave call after call; `shape` is `(T, B)`."""
        return self.torch.stack(spikes)

    def run(self, x) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """`(output [T, B, K], {name of a node: spikes [T, B, ...]})` for `x` `[T, B, ...]`."""
        seen = {name: [] for name in self.neurons}
        for name, module in self.neurons.items():
            module.register_forward_hook(
                lambda _, __, out, name=name: seen[name].append(out[0] if isinstance(out, tuple) else out)
            )
        with self.torch.no_grad():
            output = self.answers(self.torch.from_numpy(np.ascontiguousarray(x)))
            spikes = {name: self.over_time(each, x.shape[:2]).numpy() for name, each in seen.items()}
        return output.numpy(), spikes


class Sinabs(Simulator):
    """Sinabs: `from_nir` makes `IAFSqueeze` of IF."""

    packages = "sinabs nirtorch"
    settings = (
        "one spike a step (spike_fn=SingleSpike), no lowest potential (min_v_mem=None), initial potentials, nodes in "
        "the order in which they need each other"
    )

    def load(self, graph, batch):
        """As `Simulator.load`; examples and steps are one axis there."""
        from sinabs.nir import from_nir

        return from_nir(graph, batch_size=batch)

    def set(self, start):
        """As `Simulator.set`."""
        from sinabs.activation import SingleSpike

        self.sort()
        for name, layer in self.neurons.items():
            layer.spike_fn, layer.min_v_mem = SingleSpike, None
            layer.register_buffer("v_mem", self.torch.from_numpy(start[name]))

    def answers(self, x):
        """As `Simulator.answers`."""
        output, _ = self.module(x.transpose(0, 1).flatten(0, 1))
        return output.reshape(*x.shape[1::-1], -1).transpose(0, 1)

    def over_time(self, spikes, shape):
        """As `Simulator.over_time`."""
        (one,) = spikes
        return one.reshape(*shape[::-1], *one.shape[1:]).transpose(0, 1)


class SnnTorch(Simulator):
    """snnTorch: `import_from_nir` makes `Leaky` of IF."""

    packages = "snntorch nir nirtorch"
    settings = (
        "no leak (beta=1), state kept inside (init_hidden=True), reset in the next step (reset_delay=True), "
        "initial potentials"
    )

    def load(self, graph, batch):
        """As `Simulator.load`."""
        from snntorch.import_nir import import_from_nir

        return import_from_nir(graph)

    def set(self, start):
        """As `Simulator.set`; it takes a potential of 1 or more for that of a neuron that has just fired."""
        if max(float(v.max()) for v in start.values()) >= 1:
            raise InputError("snnTorch loses a spike where an initial potential is 1 or more: compare with Sinabs")
        for name, layer in self.neurons.items():
            layer.init_hidden, layer.reset_delay = True, True
            layer.beta.fill_(1)
            layer.mem = self.torch.from_numpy(start[name])


class Norse(Simulator):
    """Norse: `from_nir` makes `IAFCell` of IF, which resets to a fixed potential."""

    packages = "norse"
    settings = "nodes in the order in which they need each other; that it resets to 0 can't be set"

    def load(self, graph, batch):
        """As `Simulator.load`."""
        from norse.torch import from_nir

        return from_nir(graph)

    def set(self, start):
        """As `Simulator.set`; the state comes with the first input, so initial potentials can't be set beforehand."""
        self.sort()


SIMULATORS = {"sinabs": Sinabs, "snntorch": SnnTorch, "norse": Norse}

"""`python -m convert.export ANN`: a converted network as a file for other tools, and what they make of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from convert.experiments.options import Experiment, checked
from convert.experiments.setup import set_up
from convert.export import nir, stablehlo
from convert.nir.agreement import Agreement, compare
from convert.nir.simulators import SIMULATORS
from tppjax import cli
from tppjax.errors import InputError


@dataclass(frozen=True)
class Export(Experiment):
    """Write a network, converted, as a file for other tools, and run it in other simulators."""

    ann: tyro.conf.Positional[Path]
    """Folder of the trained network: what --out was in training, or where Network.save wrote it."""

    T: int = 32
    """Number of time steps."""

    mode: str = "baseline"
    """Neurons, as convert.evaluate has them; of a NIR file always baseline."""

    nir: Path | None = None
    """File to write for neuromorphic tools, by convention with the suffix .nir."""

    stablehlo: Path | None = None
    """File to write for JAX without this library, any mode."""

    dt: float = 1.0
    """Duration of a step in seconds, for tools whose neurons integrate by it."""

    v_init: Literal["metadata", "bias"] = "metadata"
    """Where a NIR file has the initial potentials: beside the neurons, or spread over the steps as a bias."""

    seeds: tyro.conf.Suppress[int] = 1
    overwrite: tyro.conf.Suppress[bool] = False
    out: tyro.conf.Suppress[Path | None] = None

    check: tuple[Literal["sinabs", "snntorch", "norse"], ...] = ()
    """Simulators that the network is run in, as a NIR file of --dt 1, and compared with: on --limit test images."""

    limit: int | None = 100
    """Use this many test images, the first ones."""


def main(config: Export) -> dict[str, tuple[Agreement, Agreement]]:
    """Writes the files, and prints how each simulator agrees with ours: as imported, and with what has to be set.

    Raises:
      InputError, FileNotFoundError: on options out of range, a network without nodes in NIR, or none.
    """
    if not (config.nir or config.stablehlo or config.check):
        raise InputError("nothing to do: give --nir FILE, --stablehlo FILE or --check SIMULATOR")
    config = checked(config)
    setup = set_up(config, (config.mode,))
    snn = setup.conversion.snn(config.T, config.mode)
    if config.nir:
        nir(snn, config.nir, dt=config.dt, v_init=config.v_init)
        print(f"wrote {config.nir}: {len(snn.network.sites)} layers of neurons, T={snn.T}, dt={config.dt:g}")
    if config.stablehlo:
        stablehlo(snn, config.stablehlo)
        print(f"wrote {config.stablehlo}: mode {config.mode}, T={snn.T}")
    found = {}
    for name in config.check:
        images, labels = setup.images.images, setup.images.labels
        found[name] = tuple(
            compare(snn, images, labels, name, as_imported, config.v_init) for as_imported in (True, False)
        )
        print(f"\n{setup}, T={snn.T}, in {name}\n")
        print(_table(snn, *found[name]))
        print(f"\nset after the import: {SIMULATORS[name].settings}; see docs/hardware.md")
    return found


def _table(snn, imported: Agreement, ready: Agreement) -> str:
    """Layer by layer, in percent of neurons and steps; then the answers."""
    width = max(len(name) for name in (*snn.network.sites, "images named rightly"))
    lines = [f"{'':{width}}{'as imported':>14}{'as set':>10}{'spikes a neuron and step: ours':>34}{'theirs':>10}"]
    for name, (same, ours, theirs) in ready.spikes.items():
        first = f"{imported.spikes[name][0]:.2f} %" if imported.spikes else "-"
        lines.append(f"{name:{width}}{first:>14}{same:>8.2f} %{ours:>34.4f}{theirs:>10.4f}")
    first = "-" if imported.failed else f"{imported.answers:.2f} %"
    lines.append(f"{'same answers':{width}}{first:>14}{ready.answers:>8.2f} %")
    first = "-" if imported.failed else f"{imported.right[1]:.2f} %"
    lines.append(
        f"{'images named rightly':{width}}{first:>14}{ready.right[1]:>8.2f} %{'ours':>27}{ready.right[0]:>7.2f} %"
    )
    if imported.failed:
        lines.append(f"as imported it does not run ({imported.failed})")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main, Export)

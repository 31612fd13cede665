"""`python -m convert.export ANN`: exports a converted network for other tools, and compares them with this library."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import tyro

import convert
from convert.experiments.options import Experiment, checked
from convert.experiments.setup import set_up
from convert.export import nir, stablehlo
from convert.nir.agreement import Agreement, compare
from convert.nir.simulators import SIMULATORS
from convert.snn import Snn
from tppjax import checkpoint, cli
from tppjax.errors import InputError


@dataclass(frozen=True)
class Export(Experiment):
    """Write a converted network to a file for other tools, and run it in other simulators."""

    ann: tyro.conf.Positional[Path]
    """Folder of the trained network: --out of its training, or the folder that Network.save or Snn.save wrote."""

    T: int | None = None
    """Number of time steps [default: that of a network which Snn.save wrote, else 32]."""

    mode: str | None = None
    """Neurons, written as for convert.evaluate; a NIR file needs baseline [default: those of a network which Snn.save
    wrote, else baseline]."""

    nir: Path | None = None
    """File to write for neuromorphic tools, by convention with the suffix .nir."""

    stablehlo: Path | None = None
    """File to write for JAX without this library, with any mode."""

    dt: float = 1.0
    """Duration of a step in seconds, for tools whose neurons integrate over time."""

    v_init: Literal["metadata", "bias"] = "metadata"
    """Representation of initial potentials in a NIR file: as metadata of the neurons, or spread over the steps as a
    bias."""

    seeds: tyro.conf.Suppress[int] = 1
    overwrite: tyro.conf.Suppress[bool] = False
    out: tyro.conf.Suppress[Path | None] = None

    check: tuple[Literal["sinabs", "snntorch", "norse"], ...] = ()
    """Simulators in which to run the network, as a NIR file of --dt 1, for a comparison on --limit test images."""

    limit: int | None = 100
    """Use only the first so many test images."""


def main(config: Export) -> dict[str, tuple[Agreement, Agreement]]:
    """Writes the files, and prints the agreement of each simulator with ours: as imported, and with settings changed.

    Raises:
      InputError, FileNotFoundError: if an option is out of range, NIR has no nodes for the network, or there is none.
    """
    if not (config.nir or config.stablehlo or config.check):
        raise InputError("nothing to do: give --nir FILE, --stablehlo FILE or --check SIMULATOR")
    T, mode = _steps_and_mode(config)
    config, setup = checked(replace(config, T=T, mode=mode)), None
    if config.check or _options_of_experiments(config):
        setup = set_up(config, (mode,))
        snn = setup.conversion.snn(T, mode)
    else:  # no images are needed
        snn = convert.to_snn(checkpoint.stored(config.ann), T, mode)
    if config.nir:
        nir(snn, config.nir, dt=config.dt, v_init=config.v_init)
        print(f"wrote {config.nir}: {len(snn.network.sites)} layers of neurons, T={snn.T}, dt={config.dt:g}")
    if config.stablehlo:
        stablehlo(snn, config.stablehlo)
        print(f"wrote {config.stablehlo}: mode {snn.mode}, T={snn.T}")
    agreements = {}
    for name in config.check:
        assert setup is not None  # with --check
        images, labels = setup.images.images, setup.images.labels
        imported, ready = (compare(snn, images, labels, name, flag, config.v_init) for flag in (True, False))
        agreements[name] = imported, ready
        print(f"\n{setup}, T={snn.T}, in {name}\n")
        print(_table(snn, imported, ready))
        print(f"\nset after the import: {SIMULATORS[name].settings}; see docs/hardware.md")
    return agreements


def _options_of_experiments(config: Export) -> list[str]:
    """The given options that are about images, or about thresholds and corrections chosen on them."""
    shared = {field.name for field in fields(Experiment)} - {"ann"}
    return [f.name for f in fields(config) if f.name in shared and getattr(config, f.name) != f.default]


def _steps_and_mode(config: Export) -> tuple[int, str]:
    """T and mode of the options; by default those of a saved spiking network."""
    _, saved, _ = checkpoint.converted(config.ann) or (None, {"T": 32, "modes": {"": "baseline"}}, None)
    modes = {config.mode} if config.mode else set(saved["modes"].values())
    if len(modes) > 1:
        raise InputError(f"the network in {config.ann} has neurons of several modes: give one, --mode, or use Python")
    return saved["T"] if config.T is None else config.T, modes.pop()


def _table(snn: Snn, imported: Agreement, ready: Agreement) -> str:
    """The agreement layer by layer, in percent of neurons and steps, and that of the answers."""
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

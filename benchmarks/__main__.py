"""Runs every case in a process of its own, prints ratios before figures, and writes results.json."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import tyro
from tqdm import tqdm

from benchmarks import cases
from tppjax import files

FOLDED = [f"snn {mode} {T}" for mode in ("tpp", "rounded", "unbiased") for T in (4, 32, 128)]
STEPPED = [f"snn {mode} {T}" for mode in ("baseline", "shuffle") for T in (8, 32)]
LONG = ["snn baseline 128", "snn shuffle 128"]  # on VGG-16 only, to measure their memory
THEIRS = ["torch_ann", "algorithm3 32", "algorithm3 128", "spikingjelly 8", "spikingjelly 32"]
ONCE = ["training", "torch_training", "seeds sweep", "seeds singly"]  # on ResNet-20 only

# Pairs of cases: the first is compared with the second, image by image.
COMPARED = [
    ("snn tpp 32", "algorithm3 32"),
    ("snn tpp 128", "algorithm3 128"),
    ("snn baseline 8", "spikingjelly 8"),
    ("snn baseline 32", "spikingjelly 32"),
    ("snn shuffle 32", "snn baseline 32"),
    ("ann", "torch_ann"),
    ("seeds sweep", "seeds singly"),
    ("training", "torch_training"),
]


@dataclass(frozen=True)
class Bench:
    """Measure SNNs against their ANN, against PyTorch and against SpikingJelly, on the same weights."""

    nets: tuple[str, ...] = ("resnet20", "vgg16")
    """Networks, with random weights."""

    out: Path = Path("benchmarks/results.json")
    """File of the results; results of cases that are not run again are kept."""

    only: str = ""
    """Run only cases that begin with this word, such as snn or torch_training."""


def main(config: Bench) -> None:
    """Runs, writes and prints."""
    selected = [(net, case) for net in config.nets for case in cases_of(net) if case.startswith(config.only)]
    rows = {(r["net"], r["case"]): r for r in _before(config.out)}
    for net, case in tqdm(selected, disable=None):
        rows[net, case] = _run(net, case)
        files.write_json(config.out, {**_about(), "rows": list(rows.values())})
    print(table(rows))


def cases_of(net: str) -> list[str]:
    """Every case of a network."""
    return ["ann", *FOLDED, *STEPPED, *THEIRS, *(ONCE if net == "resnet20" else LONG)]


def _before(out: Path) -> list[dict]:
    return files.read_json(out, "move it away")["rows"] if out.is_file() else []


def _run(net: str, case: str) -> dict:
    command = [sys.executable, "-m", "benchmarks.cases", net, *case.split()]
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # leaves a GPU's memory to PyTorch, too
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _about() -> dict:
    import jax

    known = {"jax", "flax", "torch", "spikingjelly", "tppjax"}
    installed = {distribution.name for distribution in metadata.distributions()}
    return {
        "command": "python -m benchmarks",
        "hardware": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in sorted(known & installed)},
        "protocol": f"median of {cases.REPEATS} calls after two, each case in a process of its own, float32, "
        "random weights; ann_forwards: an SNN in turns with its ANN on the same images (peak memory is that of both)",
    }


def table(rows: dict[tuple[str, str], dict]) -> str:
    """Ratios first: case against case, then every case in ANN forwards, then the figures themselves."""
    lines = []
    for net in dict.fromkeys(net for net, _ in rows):
        of_net = {case: r for (n, case), r in rows.items() if n == net}
        lines.append(net)
        for case, other in COMPARED:
            if case in of_net and other in of_net:
                ratio = of_net[other]["per_image"] / of_net[case]["per_image"]
                lines.append(f"  {case} is {ratio:.2f} times as fast as {other}")
        lines.append(f"  {'case':18} {'ANN forwards':>13} {'images/s':>9} {'compile s':>10} {'peak MB':>8}")
        for case, r in of_net.items():
            forwards = r["per_image"] / of_net["ann"]["per_image"] if "ann" in of_net else float("nan")
            forwards = r.get("ann_forwards", forwards)
            compiling = r["first_call"] - r["median"]
            lines.append(
                f"  {case:18} {forwards:13.2f} {1 / r['per_image']:9.0f} {compiling:10.1f} {r['peak_mb']:8.0f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Bench))

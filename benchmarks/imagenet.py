"""`python -m benchmarks.imagenet`: the time and memory of spiking networks of ImageNet's size, on synthetic pictures.

JPEG files of 500 x 375 pixels are made, prepared like ImageNet and read back by `convert.evaluate`, each network in a
process of its own. Weights are random, so accuracies mean nothing.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro
from PIL import Image
from tqdm import tqdm

from convert.experiments.results import about
from tppjax import ann, data, files, models
from tppjax.activations import QCFS
from tppjax.ann import Ann
from tppjax.data import jpegs
from tppjax.tracing import trace

# Name of a case: network, its options, mode, images per call (None: as evaluate chooses), numbers of steps. The time of
# the first number of steps includes compilation, if one compilation serves all.
CASES = {
    "resnet34, stem deep": ("resnet34", {"stem": "deep"}, "tpp", 32, (4, 32)),
    "resnet34, stem cifar": ("resnet34", {"stem": "cifar"}, "tpp", None, (4, 32)),
    "vgg16": ("vgg16", {}, "tpp", 32, (4, 32)),
    "regnetx_4gf": ("regnetx_4gf", {}, "tpp", 32, (4, 32)),
    "resnet34, stem deep, rounded": ("resnet34", {"stem": "deep"}, "rounded", 32, (4, 32)),
    "resnet34, stem deep, baseline": ("resnet34", {"stem": "deep"}, "baseline", None, (4,)),
}
CLASSES = 8
# The peak memory of the process from the kernel (Linux); ru_maxrss would start from that of its parent.
CHILD = """
from convert.evaluate import Evaluate, main
from tppjax import cli
cli.run(main, Evaluate)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Imagenet:
    """Measure networks of ImageNet's size on synthetic pictures."""

    pictures: int = 64
    """Number of pictures to evaluate on."""

    out: Path = Path("benchmarks/imagenet.json")
    """File of the results."""

    limit_gib: float = 6.0
    """Memory limit of each network, in GiB."""


def main(config: Imagenet) -> list[dict]:
    """Runs every case, and prints and writes a line for each.

    Raises:
      RuntimeError: if a case fails, or exceeds the memory limit.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), config.pictures)
        for name, case in tqdm(CASES.items(), disable=None):
            rows.append({"case": name, **measure(Path(folder), *case)})
            print(json.dumps(rows[-1]), flush=True)
            files.write_json(config.out, {**about("benchmarks.imagenet"), "rows": rows})
    if large := [row["case"] for row in rows if row["peak_gib"] > config.limit_gib]:
        raise RuntimeError(f"more than {config.limit_gib} GiB: {', '.join(large)}")
    return rows


def make(folder: Path, n: int) -> None:
    """Writes `n` pictures to evaluate on and one per class to train on, and prepares them in `folder`."""
    rng = np.random.default_rng(0)
    for i in range(n + CLASSES):
        split, label = ("train", i) if i < CLASSES else ("val", i % CLASSES)
        file = folder / "source" / split / f"n{label:02}" / f"{i}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        small.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    jpegs.prepare(folder / "source", folder)


def measure(folder: Path, arch: str, options: dict, mode: str, batch: int | None, steps: tuple[int, ...]) -> dict:
    """Evaluates one network in a process of its own."""
    out = Path(tempfile.mkdtemp(dir=folder))
    info = data.info("imagenet2012", folder)
    model = models.create(arch, CLASSES, QCFS(L=8), **options)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, *info.input_shape), np.float32))
    ann.save(Ann(variables, model, info), out / "ann")
    command = [sys.executable, "-c", CHILD, "--ann", str(out), "--data_dir", str(folder), "--seeds", "1"]
    command += ["--modes", mode, "--T", *map(str, steps), *(["--batch_size", str(batch)] if batch else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    results = json.loads((out / "snn" / "results.json").read_text())
    seconds = {row["T"]: row["seconds"] for row in results["rows"]}
    n = results["n"]
    return {
        "mode": mode,
        "batch_size": batch,
        "neurons": sum(int(np.prod(site.shape)) for site in trace(Ann(variables, model, info)).sites.values()),
        "images_per_second": {str(T): n / s for T, s in seconds.items()},
        "peak_gib": int(done.stdout.split()[-2]) / 2**20,
    }


if __name__ == "__main__":
    main(tyro.cli(Imagenet))

"""Imports run one way: configs -> tppjax.errors; tppjax -> libraries; convert -> tppjax; train -> tppjax, configs."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"configs": {"tppjax"}, "tppjax": set(), "convert": {"tppjax"}, "train": {"tppjax", "configs"}}
WITHIN_TPPJAX = {  # what the bottom of the core may import of the core
    "errors.py": set(),
    "types.py": set(),
    "files.py": {"errors", "types"},
    "neurons": {"errors", "types"},
    "activations.py": {"neurons", "errors", "types"},
    "checks.py": {"activations", "data", "errors", "types"},
}


def imported(file: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_packages(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        ours = {name.split(".")[0] for name in imported(file)} & ALLOWED.keys()
        assert ours <= ALLOWED[package] | {package}, file


def test_configs_take_only_the_error():
    names = {name for file in (ROOT / "configs").glob("*.py") for name in imported(file)}
    assert all(name.startswith("tppjax.errors.") for name in names if name.startswith("tppjax"))


@pytest.mark.parametrize("file", WITHIN_TPPJAX)
def test_inside_the_core(file):
    path = ROOT / "tppjax" / file
    files = list(path.glob("*.py")) if path.is_dir() else [path]
    names = {name.split(".")[1] for one in files for name in imported(one) if name.startswith("tppjax.")}
    assert names <= WITHIN_TPPJAX[file] | {file}


WITHOUT_EXTRAS = """
import sys
for name in ("optax", "orbax", "tensorflow_datasets", "array_record", "PIL", "sklearn", "matplotlib", "nir", "torch"):
    sys.modules[name] = None  # as if it were not installed
import convert, flax.linen as nn, jax, numpy as np
from tppjax import data, errors

class Mine(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Conv(4, (3, 3))(x)).mean((1, 2)))

x = np.ones((5, 8, 8, 1), np.float32)
module = Mine()
network = convert.calibrate(convert.trace((module, module.init(jax.random.key(0), x)), x), x, T=4)
print(convert.to_snn(network, 4).apply(x, jax.random.key(1)).shape)
snn = convert.to_snn(network, 4, "baseline")
for need in (lambda: data.load("digits", "test"), lambda: convert.export.nir(snn, "a.nir"),
             lambda: __import__("train.cifar"), lambda: __import__("convert.evaluate")):
    try:
        need()
    except errors.InputError as e:
        print(e)
"""


def test_conversion_needs_no_extra(tmp_path):
    """It runs without what training, data sets and pictures need; those name the extra that brings it."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    shape, *refused = done.stdout.splitlines()
    assert shape == "(5, 3)"
    assert [line.partition("pip install ")[2] for line in refused] == [
        f"'tppjax[{extra}]'" for extra in ("data", "export", "train", "plots")
    ]

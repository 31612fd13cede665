"""Imports run one way: configs -> tppjax.errors; tppjax -> libraries; convert -> tppjax; train -> tppjax, configs."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {"configs": {"tppjax"}, "tppjax": set(), "convert": {"tppjax"}, "train": {"tppjax", "configs"}}
WITHIN_TPPJAX = {  # what the bottom of the core may import of the core
    "errors.py": set(),
    "files.py": {"errors"},
    "neurons": {"errors"},
    "activations.py": {"neurons", "errors"},
    "checks.py": {"activations", "data", "errors"},
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
    assert {name for name in names if name.startswith("tppjax")} <= {
        "tppjax.errors.InputError",
        "tppjax.errors.check_number",
    }


@pytest.mark.parametrize("file", WITHIN_TPPJAX)
def test_inside_the_core(file):
    path = ROOT / "tppjax" / file
    files = list(path.glob("*.py")) if path.is_dir() else [path]
    names = {name.split(".")[1] for one in files for name in imported(one) if name.startswith("tppjax.")}
    assert names <= WITHIN_TPPJAX[file] | {file}

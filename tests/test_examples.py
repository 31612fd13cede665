"""The tutorials in examples/ run from beginning to end."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_tutorial(script, request, tmp_path, monkeypatch):
    if "import torch" in script.read_text():
        request.getfixturevalue("torch")
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="needs the extra plots")
    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("Agg")
    runpy.run_path(str(script), run_name="__main__")
    assert pyplot.get_fignums()
    pyplot.close("all")

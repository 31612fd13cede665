"""The Python of README and docs runs, block after block, and their links lead somewhere."""

import json
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(page for folder in ("docs", "examples") for page in sorted((ROOT / folder).rglob("*.md"))),
]


def run(page):
    """Runs the page's Python blocks, one after another, and returns the names that they defined."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    names = {}
    exec("\n".join(blocks), names)
    return names


def test_readme():
    """Its ten lines are whole; and it is short."""
    assert run("README.md")["logits"].shape == (200, 10)
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_python(digits_run, tmp_path, monkeypatch):
    shutil.copytree(digits_run, tmp_path / "runs" / "digits")
    monkeypatch.chdir(tmp_path)
    run("docs/python.md")


def test_streaming(digits_run, tmp_path, monkeypatch, capsys):
    """The page compares with each picture by itself; the first answer takes (layers + 1) T steps, others T."""
    shutil.copytree(digits_run, tmp_path / "runs" / "digits")
    monkeypatch.chdir(tmp_path)
    run("examples/streaming.md")
    said = capsys.readouterr().out
    assert [int(n) for n in re.findall(r"step +(\d+)", said)] == [40, 48, 56, 64, 72, 80]
    assert "(layers + 1) T = 40 steps" in said


def test_folding():
    """The page compares one pass with every step."""
    run("docs/folding.md")


def test_latency(capsys):
    run("docs/latency.md")
    assert f"```text\n{capsys.readouterr().out}```" in (ROOT / "docs/latency.md").read_text()


@pytest.mark.slow
def test_convert_your_network(real_weights, real_cifar10, tmp_path, monkeypatch):
    shutil.copy(real_weights, tmp_path)
    monkeypatch.chdir(tmp_path)
    names = run("docs/convert_your_network.md")
    assert names["accuracy"] > 0.87  # the ANN has 91.7 %
    assert names["report"].worst.site in str(names["report"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_your_own_neuron(digits_relu, tmp_path, monkeypatch):
    """The page's two neurons, saved as it says, in Python and in its commands; ten and fifteen lines at most."""
    shutil.copytree(digits_relu, tmp_path / "runs" / "digits-relu", ignore=shutil.ignore_patterns("snn"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = (ROOT / "docs/your_own_neuron.md").read_text()
    *classes, use = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    (tmp_path / "my_neurons.py").write_text("\n".join(classes))
    for block, most in zip(classes, (10, 15), strict=True):
        assert len(block[re.search("^(@|class)", block, re.M).start() :].strip().splitlines()) <= most
    names = {}
    exec(use, names)
    assert names["snn"].mode == "my_neurons:Steep"
    assert names["ready"].history[-1] == "thresholds: mse at T=8 for my_neurons:Steep per channel, from 300 images"
    for command in re.findall(r"^python -m (.*)", re.search(r"```bash\n(.*?)```", text, re.S)[1], re.M):
        module, *arguments = shlex.split(command)
        monkeypatch.setattr(sys, "argv", [module, *arguments, "--limit", "60", "--seeds", "2"])
        monkeypatch.setattr(sys, "exit", lambda code=0: None)
        runpy.run_module({"convert.studies": "convert.studies.__main__"}.get(module, module), run_name="__main__")
    rows = json.loads((tmp_path / "runs/digits-relu/snn/results.json").read_text())["rows"]
    best = {mode: max(r["mean"] for r in rows if r["mode"] == mode) for mode in {r["mode"] for r in rows}}
    assert best.keys() == {"tpp", "my_neurons:Steep", "my_neurons:Leaky(leak=0.05)"}
    assert best["my_neurons:Steep"] > 90
    assert best["my_neurons:Leaky(leak=0.05)"] > 50
    study = json.loads((tmp_path / "runs/digits-relu/studies/misalignment/results.json").read_text())["rows"]
    assert [r["mode"] for r in study] == ["baseline", "my_neurons:Leaky"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target

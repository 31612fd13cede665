"""The Python of README and docs runs, block after block, and their links lead somewhere."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(page):
    """Runs the page's Python blocks, one after another, and returns the names that they defined."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert blocks
    names = {}
    exec("\n".join(blocks), names)
    return names


def test_readme(digits_run, tmp_path, monkeypatch):
    shutil.copytree(digits_run, tmp_path / "runs" / "digits")
    monkeypatch.chdir(tmp_path)
    run("README.md")


@pytest.mark.slow
def test_convert_your_network(real_weights, real_cifar10, tmp_path, monkeypatch):
    shutil.copy(real_weights, tmp_path)
    monkeypatch.chdir(tmp_path)
    names = run("docs/convert_your_network.md")
    assert names["accuracy"] > 0.87  # the ANN has 91.7 %
    assert names["report"].worst.site in str(names["report"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target

"""Every command that README and docs print runs, as printed but for a tiny size, on made data and random weights."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.convert.torch.torch_states import akamaster_state
from tests.tppjax.data import aedat4_files, pictures
from tests.tppjax.data.test_cifar import make_archive
from tppjax.data import cifar, dvs

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = "your_own_neuron.md"  # its commands need the page's neurons: test_pages runs them
TRAINING = "--epochs 1 --batch_size 8 --validation 8 --limit_train 16"
TINY = {  # what is added to the commands of a module, whose last word counts
    "train.cifar": TRAINING,
    "train.own": f"{TRAINING} --size 16",
    "train.dvs": f"{TRAINING} --size 16 --frames 2",
    "train.imagenet": f"{TRAINING} --size 16 --arch resnet18 --stem cifar --workers 0",
    "convert.evaluate": "--limit 8 --seeds 2 --T 2 --calibration_images 8",
    "convert.studies methods": "--limit 4 --limit_stepped 2 --T 2 --calibration_images 8 --methods tpp snm+bias",
    "convert.studies anytime": "--limit 4 --seeds 2 --T 1 2 --calibration_images 8",
    "convert.studies all": "--limit 4 --seeds 2 --calibration_images 8 --minutes 0.001",
    "convert.export": "--limit 4 --T 2 --calibration_images 8",
    "convert.from_torch": "",
    "tppjax.data.cifar": "",
    "tppjax.data.jpegs": "",
}


def commands(page: Path) -> list[str]:
    """Every `python -m ...` and `-c` of the page, in a block or in the text, in order; none of several hosts."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    found = re.findall(r"(?:^ *|`)(python -[mc] [^`\n]+)", text, re.M)
    left_out = ("--help", "NAME", "--distributed")
    return [c.strip() for c in found if ("--" in c or " -c " in c) and not any(word in c for word in left_out)]


def make_data(folder: Path) -> None:
    """Made data of every kind that commands name, under the names that they have there."""
    original, _ = make_archive(folder / "cifar-10-python.tar.gz", "cifar10", per_file=40)
    cifar.prepare("cifar10", folder / "DIR", folder / "cifar-10-python.tar.gz", original)
    files = pictures.contents()
    files["train"] = {(c, f"{c}_{i}.JPEG"): pictures.jpeg(20 * k + i) for k, c in enumerate(pictures.CLASSES)
                      for i in range(12)}  # fmt: skip
    pictures.in_folders(folder / "SOURCE", files)
    (folder / "PICTURES").symlink_to(folder / "SOURCE")
    for name in dvs.CLASSES:
        for number in range(10):
            events = [(1000 * i, i, number, i % 2) for i in range(20)]
            aedat4_files.write(folder / "DIR" / "cifar10_dvs" / name / f"cifar10_{name}_{number}.aedat4", events)


@pytest.fixture(scope="module")
def made(tmp_path_factory, torch):
    """Folder of the data and weights that commands begin with."""
    folder = tmp_path_factory.mktemp("made")
    make_data(folder)
    state = {f"module.{key}": torch.from_numpy(np.abs(a) / a.size) for key, a in akamaster_state(channels=16).items()}
    torch.save({"state_dict": state}, folder / "resnet20-12fca82f.th")
    shutil.copytree(ROOT / "networks", folder / "networks")
    (folder / "mypackage").mkdir()
    make = "import torch\nfrom benchmarks import pytorch\n\n\ndef make():\n    return pytorch.ResNet20(torch.nn.ReLU)\n"
    (folder / "mypackage" / "models.py").write_text(make)
    torch.save(state, folder / "mine.pth")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if commands(p) and p.name != ELSEWHERE], ids=lambda page: page.name)
def test_commands_run(page, made, monkeypatch, tmp_path):
    for name in made.iterdir():
        (tmp_path / name.name).symlink_to(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(made / "DIR"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for command in commands(page):
        if command.startswith("python -c"):
            exec(shlex.split(command)[2])
            continue
        if "--check" in command:
            pytest.importorskip("sinabs.nir", reason="needs the simulators: .ci/run installs them")
        module = command.split()[2]
        tiny = next(options for name, options in TINY.items() if command.startswith(f"python -m {name}"))
        if "train." in command:
            tiny += " --overwrite"
        monkeypatch.setattr(sys, "argv", [module, *shlex.split(command)[3:], *tiny.split()])
        for name in (module, f"{module}.__main__"):  # runpy warns of what is imported already
            monkeypatch.delitem(sys.modules, name, raising=False)
        runpy.run_module(module, run_name="__main__")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.M)) <= targets

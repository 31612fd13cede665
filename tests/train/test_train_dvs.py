"""CIFAR10-DVS's commands, on small event files."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from configs.dvs import Dvs
from convert import evaluate
from convert.evaluate import Evaluate
from tests.tppjax.data import aedat4_files
from tppjax import data
from tppjax.data import dvs as recordings
from train import dvs

SMALL = {"size": 32, "frames": 4, "epochs": 1, "batch_size": 8, "validation": 2, "L": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten recordings of each class: 200 events at random places, more of them the higher the class; one is damaged."""
    root = tmp_path_factory.mktemp("dvs")
    rng = np.random.default_rng(0)
    for label, name in enumerate(recordings.CLASSES):
        for number in range(10):
            positions = rng.integers(0, 128, (200, 2))
            events = [(1000 * i, x, y, int(i % 10 < label)) for i, (x, y) in enumerate(positions.tolist())]
            aedat4_files.write(root / "cifar10_dvs" / name / f"cifar10_{name}_{number}.aedat4", events)
    (root / "cifar10_dvs" / "dog" / "cifar10_dog_9.aedat4").write_bytes(b"")  # the one that tests
    return root


@pytest.mark.slow
def test_trained_and_evaluated_frame_by_frame(folder, tmp_path, capsys):
    config = Dvs(out=tmp_path / "run", data_dir=folder, **SMALL)
    network = dvs.main(config)
    assert network.preprocessing.shape == (4, 32, 32, 2)
    options = {"ann": config.out, "data_dir": folder, "modes": ("rounded",), "T": (4,)}
    with pytest.raises(ValueError, match=r"1 of 10 recordings .* --skip_damaged: .*cifar10_dog_9"):
        evaluate.main(Evaluate(**options))
    results = evaluate.main(Evaluate(**options, skip_damaged=True))
    assert "left out 1 of 10 recordings" in capsys.readouterr().out
    assert (results["n"], results["rows"][0]["accuracy"]) == (9, [results["ann"]])  # T = L


def test_only_recordings_can_be_left_out(digits_run):
    with pytest.raises(ValueError, match="--skip_damaged is an option of cifar10_dvs; the data set is digits"):
        evaluate.main(Evaluate(ann=digits_run, skip_damaged=True))


@pytest.mark.slow
def test_frames_are_augmented_alike(folder, tmp_path, monkeypatch):
    """The whole recording is shifted and mirrored, so frames add up to what their sum would be."""
    monkeypatch.setattr(dvs, "fit", lambda network, images, config, augment: (network.preprocessing, augment))
    config = Dvs(out=tmp_path / "run", data_dir=folder, **SMALL)
    constant, one_by_one = (dvs.main(replace(config, constant=c)) for c in (True, False))
    assert (constant[0].shape, one_by_one[0].shape) == ((32, 32, 8), (4, 32, 32, 2))
    images = data.load("cifar10_dvs", "train", folder, lambda n: np.arange(8), one_by_one[0]).images
    key = jax.random.key(0)
    moved = np.asarray(one_by_one[1](images, key))
    assert moved.shape == images.shape
    assert (moved != images).any()
    np.testing.assert_array_equal(moved.sum(axis=1), constant[1](images.sum(axis=1, dtype=np.uint8), key))

"""Images of one's own, of any size, in one channel or three, from training to the figures of the spiking network."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from configs.own import Own
from convert import evaluate
from convert.evaluate import Evaluate
from tppjax import models
from tppjax.errors import InputError
from train import cifar, own
from train.initial_network import activation

SMALL = {"act": "relu", "epochs": 1, "batch_size": 8}
MEASURED = {"modes": ("rounded",), "T": (4,), "calibrate": "mse", "calibration_images": 16}


def stripes(n, shape):
    """Images that lie, or stand, in stripes: labels 0 and 1."""
    rng, labels = np.random.default_rng(0), np.arange(n) % 2
    grid = np.indices(shape[:2])
    images = np.stack([grid[label] % 2 * 200 for label in labels])
    images = images + rng.integers(0, 50, images.shape)
    return (images[..., None].repeat(shape[2], -1) if len(shape) == 3 else images).astype(np.uint8), labels


def write_npz(path, shape):
    (x, y), (x_test, y_test) = stripes(40, shape), stripes(10, shape)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=y_test)


def write_folder(root, shape):
    for split, n in (("train", 40), ("val", 10)):
        for i, (pixels, label) in enumerate(zip(*stripes(n, shape), strict=True)):
            file = root / split / ("lying", "upright")[label] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)


@pytest.mark.parametrize(
    ("shape", "given"),
    [((6, 9), {"dataset": "npz"}), ((4, 3, 3), {}), pytest.param((12, 20, 3), {"size": 6}, marks=pytest.mark.slow)],
    ids=["npz, grey, not square", "folder, tiny", "folder, brought to a size"],
)
def test_from_files_to_the_figures_of_the_spiking_network(shape, given, tmp_path, monkeypatch):
    small = {"blocks": (1,), "channels": 4}  # compiles in seconds
    monkeypatch.setattr(cifar, "new", lambda config, n: models.create("resnet20", n, activation(config), **small))
    of_npz = given.get("dataset") == "npz"
    at = tmp_path / ("a.npz" if of_npz else "pictures")
    (write_npz if of_npz else write_folder)(at, shape)
    network = own.main(Own(out=tmp_path / "run", data_dir=at, **given, **SMALL))
    taken = network.preprocessing
    assert taken.input_shape == ((6, 6) if "size" in given else shape[:2]) + ((1,) if len(shape) == 2 else (3,))
    assert taken.class_names == (("0", "1") if of_npz else ("lying", "upright"))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["validation"], config["pad"], config["cutout"]) == (4, min(taken.input_shape[:2]) // 8, 0)
    results = evaluate.main(Evaluate(ann=tmp_path / "run", data_dir=at, **MEASURED))
    assert (results["n"], results["dataset"]) == (10, "npz" if of_npz else "folder")
    assert 0 <= results["rows"][0]["mean"] <= 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "--size is an option of the data set folder; got --dataset npz"),
        ({"autoaugment": True}, r"--autoaugment is for images of three channels; those in .*npz have 1"),
        ({"pad": 7}, "--pad must be at most 6; got 7"),
        ({"cutout": 7}, "--cutout must be at most 6; got 7"),
        ({"arch": "vgg16"}, "images of 6 x 9 pixels can't be halved 5 times"),
        ({"batch_size": 64}, "40 images with --validation 4 leave 36 to train on"),
        ({"data_dir": None}, r"needs data_dir, the path of the \.npz file: give --data_dir"),
    ],
)
def test_refusals(options, message, tmp_path):
    write_npz(tmp_path / "a.npz", (6, 9))
    config = Own(out=tmp_path / "run", dataset="npz", data_dir=tmp_path / "a.npz", **SMALL)
    with pytest.raises(InputError, match=message):
        own.main(replace(config, **options))
    assert not (tmp_path / "run").exists()

"""ImageNet's commands, on a small set of real JPEG files."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from configs.imagenet import Imagenet, recipe
from convert import evaluate
from convert.evaluate import Evaluate
from tests.tppjax.data import pictures
from tppjax import ann, models
from tppjax.activations import QCFS
from tppjax.data import Preprocessing, jpegs
from train import imagenet, loop

SMALL = {"arch": "resnet18", "stem": "cifar", "size": 16, "epochs": 2, "batch_size": 8, "validation": 4, "workers": 0}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Folder of the prepared data: 36 pictures of 3 classes to train, 6 to validate."""
    root = tmp_path_factory.mktemp("imagenet")
    files = pictures.contents()
    files["train"] = {
        (c, f"{c}_{i}.JPEG"): pictures.jpeg(20 * k + i) for k, c in enumerate(pictures.CLASSES) for i in range(12)
    }
    jpegs.prepare(pictures.in_folders(root / "source", files), root)
    return root


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole(prepared):
    """The network of an uninterrupted run, and the run's options."""
    config = Imagenet(out=prepared / "whole", data_dir=prepared, L=4, **SMALL)
    return imagenet.main(config), config


@pytest.mark.slow
def test_a_run_killed_within_an_epoch_goes_on_with_the_very_pictures_and_crops(whole, prepared, monkeypatch):
    network, config = whole
    cut, step = replace(config, out=prepared / "cut", checkpoint_every=3), loop.Run.checkpoint

    def killed(run, state):
        if int(state.step) == 4:  # of 4 steps an epoch; the last checkpoint is that of step 3
            raise Killed
        step(run, state)

    monkeypatch.setattr(loop.Run, "checkpoint", killed)
    with pytest.raises(Killed):
        imagenet.main(cut)
    monkeypatch.undo()
    resumed = imagenet.main(replace(cut, resume=True, workers=None))
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, network.variables)
    assert metrics(cut) == metrics(config)


def metrics(config):
    lines = (config.out / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


@pytest.mark.slow
def test_what_was_trained_is_evaluated_on_validation_pictures(whole, prepared):
    network, config = whole
    assert network.preprocessing.class_names == tuple(pictures.CLASSES)
    assert (network.preprocessing.input_shape, network.preprocessing.resize) == ((16, 16, 3), 18)
    results = evaluate.main(Evaluate(ann=config.out, data_dir=prepared, modes=("rounded",), T=(4,)))
    assert (results["n"], results["dataset"]) == (6, "imagenet2012")
    assert results["rows"][0]["accuracy"] == [results["ann"]]  # T = L


@pytest.mark.slow
def test_training_goes_on_from_another_network_and_thresholds_are_chosen_on_pictures(whole, prepared):
    _, config = whole
    small = {"epochs": 1, "batch_size": 8, "validation": 4, "limit_train": 8, "workers": 0}
    options = {"init_from": config.out, "data_dir": prepared, "act": "relu", **small}
    network = imagenet.main(Imagenet(out=prepared / "on", **options))
    assert network.model.stem == "cifar"
    assert network.preprocessing == ann.load(config.out).preprocessing
    options = {"calibrate": "max", "calibration_images": 10, "modes": ("rounded",), "T": (2,), "limit": 4}
    results = evaluate.main(Evaluate(ann=prepared / "on", data_dir=prepared, **options))
    assert (results["n"], len(results["rows"])) == (4, 1)


def test_recipes_fill_in_what_depends_on_the_network():
    filled = recipe(Imagenet("x"))
    assert (filled.arch, filled.stem, filled.pool, filled.hidden, filled.L) == ("resnet34", "imagenet", "avg", None, 8)
    assert (filled.size, filled.resize, filled.interpolation) == (224, 256, "bilinear")
    assert recipe(Imagenet("x", arch="vgg16")).L == 16
    with pytest.raises(ValueError, match="regnetx_4gf has stem=None; got --stem deep"):
        recipe(Imagenet("x", arch="regnetx_4gf", stem="deep"))
    given = models.create("resnet18", 3, QCFS(), stem="deep")
    preprocessing = Preprocessing("imagenet2012", (32, 32, 3), (0,) * 3, (1,) * 3, ("a", "b", "c"), None, 40, "bicubic")
    filled = recipe(Imagenet("x", init_from="y"), given, preprocessing)
    assert (filled.arch, filled.stem, filled.size, filled.resize, filled.interpolation) == (
        "resnet18",
        "deep",
        32,
        40,
        "bicubic",
    )
    for options, said in (({"size": 0}, "--size must be above 0"), ({"workers": -1}, "--workers must be at least 0")):
        with pytest.raises(ValueError, match=said):
            imagenet.main(Imagenet(Path("x"), **options))
    with pytest.raises(ValueError, match="takes 32 pixels a side; got --size 64"):
        recipe(Imagenet("x", init_from="y", size=64), given, preprocessing)

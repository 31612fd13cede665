"""Training that begins with a network: the same function to begin with, or a refusal."""

from dataclasses import replace

import numpy as np
import pytest

from configs.digits import Digits
from tppjax import ann, data, models
from train import digits
from train.start import activation, start

IMAGES = data.load("digits", "train")


def begin(config):
    return start(config, models.create("vgg_small", 10, activation(config)), data.info("digits"), IMAGES)


def test_the_same_activation_is_the_same_network(digits_run, digits_ann, digits_test):
    begun = begin(Digits(init_from=digits_run))
    np.testing.assert_array_equal(begun.apply(digits_test.images), digits_ann.apply(digits_test.images))
    assert begun.history[-1].startswith("trained on with qcfs from")


def test_from_relu_to_qcfs_thresholds_are_calibrated(tmp_path, digits_test):
    relu = digits.main(Digits(out=tmp_path / "relu", act="relu", epochs=4))
    begun = begin(Digits(init_from=tmp_path / "relu", L=8))
    assert all(theta.shape == () and theta > 0 for theta in ann.thresholds(begun.variables).values())
    scores = [ann.accuracy(n, digits_test) for n in (relu, begun)]
    assert scores[1] > scores[0] - 10  # nothing was trained yet
    bounded = begin(Digits(init_from=tmp_path / "relu", act="clipped_relu", bound=3.0))
    assert set(map(float, ann.thresholds(bounded.variables).values())) == {3.0}
    clipped = begin(Digits(init_from=tmp_path / "relu", act="clipped_relu"))
    assert len(set(map(float, ann.thresholds(clipped.variables).values()))) == 4  # calibrated, each its own
    assert ann.accuracy(clipped, digits_test) > scores[0] - 2


def test_other_networks_are_refused(digits_run, tmp_path, digits_ann):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        begin(Digits(init_from=tmp_path / "nowhere"))
    other = digits_ann.replace(preprocessing=replace(digits_ann.preprocessing, dataset="letters"))
    ann.save(other, tmp_path / "other")
    with pytest.raises(ValueError, match="was trained on letters, other data"):
        begin(Digits(init_from=tmp_path / "other"))
    with pytest.raises(ValueError, match="holds another network"):
        start(
            Digits(init_from=digits_run),
            models.create("resnet20", 10, activation(Digits())),
            data.info("digits"),
            IMAGES,
        )

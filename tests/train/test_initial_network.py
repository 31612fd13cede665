"""What training begins with: thresholds that suit the data, or a network that is the same function or refused."""

from dataclasses import replace

import flax.linen as nn
import numpy as np
import pytest

from configs.digits import Digits
from tppjax import ann, data, models
from tppjax.activations import ReLU, qcfs
from train import loop
from train.initial_network import CALIBRATION, activation, initial_network

IMAGES = data.load("digits", "train")


def inputs(model, variables, batch):
    """What reaches each activation in training, `{path: [B, ...]}`."""
    found = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, ReLU):
            found["/".join(context.module.path)] = args[0]
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        model.apply(variables, batch, train=True, mutable=["batch_stats"])
    return found


def begin(config):
    return initial_network(config, models.create("vgg_small", 10, activation(config)), data.info("digits"), IMAGES)


@pytest.mark.parametrize("L", [2, 8])
@pytest.mark.slow
def test_thresholds_begin_where_the_levels_of_qcfs_are_closest_to_what_reaches_each_site(L):
    begun = begin(Digits(L=L))
    train, _ = loop.split(IMAGES, Digits())
    batches = np.split(begun.input(train.images[:CALIBRATION]), 10)
    params = {
        name: {k: v for k, v in layer.items() if k != "theta"} for name, layer in begun.variables["params"].items()
    }
    variables, plain = {**begun.variables, "params": params}, begun.model.clone(act=ReLU())
    kept = {"train": True, "mutable": ["batch_stats", "intermediates"], "capture_intermediates": True}
    found = [plain.apply(variables, batch, **kept)[1]["intermediates"] for batch in batches]
    thetas = ann.thresholds(begun.variables)
    assert len(thetas) == 4
    for site, theta in thetas.items():
        x = np.concatenate([batch[site]["__call__"][0] for batch in found])  # what ReLU gives there

        def error(height, x=x):
            return float(np.mean((qcfs(x, np.full_like(x, height), L) - x) ** 2))

        least = min(error(height) for height in np.linspace(0.06, 1.0, 95) * x.max())
        assert theta.shape == ()
        assert error(float(theta)) < 1.01 * least
    assert "least error" in begun.history[0]


def test_theta_init_is_the_number_that_all_sites_begin_with(digits_run):
    for config in (Digits(L=8, theta_init=8.0), Digits(L=8, theta_init=8.0, init_from=digits_run)):
        assert list(map(float, ann.thresholds(begin(config).variables).values())) == [8.0] * 4


def test_the_same_activation_is_the_same_network(digits_run, digits_ann, digits_test):
    begun = begin(Digits(init_from=digits_run))
    np.testing.assert_array_equal(begun.apply(digits_test.images), digits_ann.apply(digits_test.images))
    assert begun.history[-1].startswith("trained on with qcfs from")


def test_from_relu_to_qcfs_thresholds_are_calibrated(digits_relu, relu_ann, digits_test):
    begun = begin(Digits(init_from=digits_relu, L=8))
    assert all(theta.shape == () and theta > 0 for theta in ann.thresholds(begun.variables).values())
    scores = [ann.accuracy(n, digits_test) for n in (relu_ann, begun)]
    assert scores[1] > scores[0] - 10  # nothing was trained yet
    bounded = begin(Digits(init_from=digits_relu, act="clipped_relu", bound=3.0))
    assert set(map(float, ann.thresholds(bounded.variables).values())) == {3.0}
    clipped = begin(Digits(init_from=digits_relu, act="clipped_relu"))
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
        initial_network(
            Digits(init_from=digits_run),
            models.create("resnet20", 10, activation(Digits())),
            data.info("digits"),
            IMAGES,
        )

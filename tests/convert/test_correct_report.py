"""Correction layer by layer, and the report that says where a conversion loses."""

from functools import partial

import flax.linen as nn
import jax
import numpy as np
import pytest

import convert
from configs.digits import Digits
from convert import evaluate
from tppjax import ann, data
from tppjax.activations import ReLU
from tppjax.errors import InputError
from train import digits


@pytest.fixture(scope="module")
def relu(tmp_path_factory):
    """A network with plain ReLU, trained on the digits for a few epochs."""
    return digits.main(Digits(out=tmp_path_factory.mktemp("relu") / "run", act="relu", epochs=4))


@pytest.fixture(scope="module")
def images():
    return data.load("digits", "train").images[:300]


def departure(network, images, original, T=3, mode="rounded"):
    return convert.report(convert.to_snn(network, T, mode), images, original).rows[-1].departure


@pytest.mark.parametrize(
    "mode", [pytest.param("rounded", marks=pytest.mark.slow), "tpp", pytest.param("baseline", marks=pytest.mark.slow)]
)
def test_correction_brings_the_snn_nearer(relu, images, mode):
    """On images that it has not seen; least squares more than biases alone."""
    calibrated = convert.calibrate(relu, images, T=3, mode=mode)
    unseen = data.load("digits", "test").images[:200]
    errors = [departure(calibrated, unseen, calibrated, mode=mode)]
    for weights in (False, True):
        corrected = convert.correct(calibrated, images, 3, mode, weights=weights)
        errors.append(departure(corrected, unseen, calibrated, mode=mode))
    assert errors[1] < errors[0]
    assert errors[2] < errors[1]


def test_bias_correction_matches_the_mean_input_of_the_last_layer(relu, images):
    calibrated = convert.calibrate(relu, images, T=3, mode="rounded")
    corrected = convert.correct(calibrated, images, 3, "rounded")
    wanted = np.asarray(relu.apply(images)).mean(axis=0)
    before, after = (
        np.asarray(convert.to_snn(n, 3, "rounded").apply(images)).mean(axis=0) for n in (calibrated, corrected)
    )
    assert np.abs(before - wanted).max() > 0.1
    np.testing.assert_allclose(after, wanted, atol=1e-3)
    assert "biases corrected layer by layer at T=3 for rounded, on 300 images" in corrected.history


def test_report_against_plain_numpy(relu, images):
    calibrated = convert.calibrate(relu, images, "percentile", T=4, percentile=97.0)
    snn, x = convert.to_snn(calibrated, 4, "rounded"), images[:50]
    found = convert.report(snn, x, batch_size=20)
    assert [row.site for row in found.rows] == ["act1_1", "act1_2", "act2_1", "act2_2"]
    _, inputs = ann.site_inputs(relu.model, relu.variables, relu.preprocessing(x))
    counts = snn.activity(x)[1]
    for row in found.rows:
        a, theta = np.maximum(inputs[row.site], 0), np.asarray(ann.thresholds(calibrated.variables)[row.site])
        rate = theta * np.asarray(counts[row.site]) / 4
        own = theta / 4 * np.clip(np.floor(4 * a / theta + 0.5), 0, 4)
        assert row.departure == pytest.approx(np.sqrt(np.sum((rate - a) ** 2) / np.sum(a**2)), rel=1e-3)
        assert row.quantisation == pytest.approx(np.sqrt(np.sum((own - a) ** 2) / np.sum(a**2)), rel=1e-3)
        assert row.clipped == pytest.approx((a > theta).sum() / (a > 0).sum(), abs=1e-3)
        assert row.dead == np.mean(np.asarray(counts[row.site]).sum(axis=(0, 1, 2)) == 0)
        assert row.theta == (theta.min(), theta.max())
        assert row.neurons == a[0].size
    grown = np.diff([0, *(row.departure for row in found.rows)])
    assert found.worst == found.rows[np.argmax(grown)]
    text = str(found)
    assert all(row.site in text for row in found.rows)
    assert "thresholds: percentile 97.0 per channel, from 300 images" in text
    assert "analog: the pixels, and head" in text


def test_evaluate_calibrates_and_corrects(tmp_path, relu):
    ann.save(relu, tmp_path / "net")
    options = {"ann": tmp_path / "net", "modes": ("rounded",), "T": (2,), "calibration_images": 200}
    with pytest.raises(ValueError, match=r"no threshold at .* or --calibrate mse"):
        evaluate.main(evaluate.Evaluate(**options))
    means = []
    for more in ({}, {"correct_bias": True}, {"correct_weights": True}):
        results = evaluate.main(evaluate.Evaluate(**options, calibrate="mse", overwrite=True, **more))
        means.append(results["rows"][0]["mean"])
        assert results["conversion"]["calibrate"] == "mse"
    assert means[0] < means[2]


class Grouped(nn.Module):
    act: nn.Module
    layers: int = 1

    @nn.compact
    def __call__(self, x):
        for i in range(self.layers):
            x = nn.Conv(4 + i, (3, 3), feature_group_count=2 - i, name=f"conv{i}")(x)
        x = self.act.copy(name="fire")(x)
        return nn.Dense(2, name="head")(x.mean(axis=(-3, -2)))


def test_layers_that_cannot_be_corrected_are_named():
    x = np.random.default_rng(0).normal(size=(30, 5, 5, 2)).astype(np.float32)
    for layers, message in (
        (1, r"the weights of conv0: groups"),
        (2, r"feeds fire: outside tppjax\.models that must be one .*, with nothing between; found conv0, conv1"),
    ):
        model = Grouped(ReLU(), layers)
        network = convert.calibrate(ann.Ann(model.init(jax.random.key(0), x), model), x)
        with pytest.raises(ValueError, match=message):
            convert.correct(network, x, 4, "rounded", weights=layers == 1)


def test_refusals(relu, images):
    """None of them computes anything first."""
    calibrated = convert.calibrate(relu, images)
    snn, nan = convert.to_snn(calibrated), np.full((2, 8, 8, 1), np.nan, np.float32)
    correct = partial(convert.correct, calibrated, images, 4, "tpp")
    calls = {
        r"correction needs images \[N, H, W, C\]; got none": lambda: convert.correct(calibrated, images[:0], 4, "tpp"),
        r"a report needs images \[N, H, W, C\]; got none": lambda: convert.report(snn, images[:0]),
        "T is the number of time steps": lambda: convert.correct(calibrated, images, 0, "tpp"),
        "ridge must be a finite number; got nan": lambda: correct(ridge=np.nan),
        "ridge must be at least 1e-06; got 0": lambda: correct(ridge=0),
        "seed must be a whole number of at least 0; got 0.5": lambda: correct(seed=0.5),
        "batch_size must be a whole number of at least 1; got -1": lambda: correct(batch_size=-1),
        "batch_size must be .*; got 0": lambda: convert.report(snn, images, batch_size=0),
        "batch_size must be .*; got 1.5": lambda: convert.report(snn, images, batch_size=1.5),
        "NaN or infinity, first at": lambda: convert.report(snn, nan),
        "one typed PRNG key": lambda: convert.report(snn, images, key=0),
        "a report is on what to_snn gives": lambda: convert.report(calibrated, images),
        "VGG has act=Spiking, which can't be converted": lambda: convert.correct(snn, images, 4, "tpp"),
        "a network is tppjax.ann.Ann.variables, model": lambda: convert.correct(relu.model, images, 4, "tpp"),
        "mode is a name, or .* got 3": lambda: convert.to_snn(calibrated, mode=3),
        "v_init must be a finite number; got nan": lambda: convert.to_snn(calibrated, mode="baseline", v_init=np.nan),
    }
    for message, call in calls.items():
        with pytest.raises(InputError, match=message):
            call()

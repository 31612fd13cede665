"""The report that says where a conversion loses."""

import jax
import numpy as np
import pytest

import convert
from tests.convert.networks import images, mlp
from tppjax.errors import InputError


def test_report_against_plain_numpy(relu_ann, digits_train):
    calibrated = convert.calibrate(relu_ann, digits_train, "percentile", T=4, percentile=97.0)
    snn, x = convert.to_snn(calibrated, 4, "rounded"), digits_train[:50]
    found = convert.report(snn, x, batch_size=20)
    assert [row.site for row in found.rows] == ["conv1_1", "conv1_2", "conv2_1", "conv2_2"]
    inputs, (logits, counts) = calibrated.inputs(x), snn.activity(x)
    for row in found.rows:
        a, theta = np.maximum(inputs[row.site], 0), np.asarray(calibrated.thetas[row.site])
        rate = theta * np.asarray(counts[row.site]) / 4
        own = theta / 4 * np.clip(np.floor(4 * a / theta + 0.5), 0, 4)
        assert row.departure == pytest.approx(np.sqrt(np.sum((rate - a) ** 2) / np.sum(a**2)), rel=1e-3)
        assert row.quantisation == pytest.approx(np.sqrt(np.sum((own - a) ** 2) / np.sum(a**2)), rel=1e-3)
        assert row.clipped == pytest.approx((a > theta).sum() / (a > 0).sum(), abs=1e-3)
        assert row.dead == np.mean(np.asarray(counts[row.site]).sum(axis=(0, 1, 2)) == 0)
        assert row.theta == (theta.min(), theta.max())
        assert row.neurons == a[0].size
        assert row.layers == (row.site,)
    grown = np.diff([0, *(row.departure for row in found.rows)])
    assert found.worst == found.rows[np.argmax(grown)]
    wanted = np.asarray(relu_ann.apply(x))
    assert found.agreement == np.mean(wanted.argmax(-1) == np.asarray(logits).argmax(-1))
    apart = np.sqrt(np.sum((wanted - logits) ** 2) / np.sum(wanted**2))
    assert found.departure == pytest.approx(apart, rel=1e-4)
    text = str(found)
    assert all(row.site in text for row in found.rows)
    assert f"T=4, 50 images; the output departs by {apart:.1%}; the SNN answers as the ANN does on" in text
    assert "thresholds: percentile 97.0 per channel, from 300 images" in text
    assert "analog: the input, and head behind the last site" in text
    assert f"the departure grows most at {found.worst.site}, fed by {found.worst.site}" in text


@pytest.mark.parametrize(
    ("head", "several"),
    [(lambda p, x: {"class": x @ p, "again": (x @ p,)}, True), (lambda p, x: (x @ p).sum(-1), False)],
)
def test_outputs_of_every_kind(head, several):
    """The mean over several of them; what has one entry for an example has no answer to agree on."""
    rng = np.random.default_rng(0)
    p = {"first": np.float32(rng.normal(size=(8, 6))), "head": np.float32(rng.normal(size=(6, 3)))}
    fn = lambda p, x: head(p["head"], jax.nn.relu(x.reshape(len(x), -1) @ p["first"]))  # noqa: E731
    x = images(30)
    snn = convert.to_snn(convert.calibrate((fn, p), x, T=2, mode="rounded"), 2, "rounded")
    found = convert.report(snn, x, batch_size=7)
    pairs = list(zip(*(jax.tree.leaves(f(x)) for f in (snn.network.apply, snn.apply)), strict=True))
    assert found.departure == pytest.approx(
        np.mean([np.sqrt(np.sum((a - b) ** 2) / np.sum(a**2)) for a, b in pairs]), rel=1e-4
    )
    if several:
        assert found.agreement == np.mean([a.argmax(-1) == b.argmax(-1) for a, b in pairs])
    else:
        assert found.agreement is None
        assert "answers" not in str(found)


@pytest.mark.slow
def test_a_capped_neuron_clips_at_theta(relu_ann, digits_train):
    calibrated = convert.calibrate(relu_ann, digits_train, "percentile", T=4, percentile=97.0)
    modes = ("baseline", "burst(capped=True)", "burst(capped=False)")
    reports = (convert.report(convert.to_snn(calibrated, 4, mode), digits_train[:50]) for mode in modes)
    baseline, capped, free = ([row.clipped for row in found.rows] for found in reports)
    assert capped == baseline
    assert all(a < b for a, b in zip(free, capped, strict=True))


def test_noise_does_not_depend_on_the_batch_size():
    snn = convert.to_snn(mlp(), 4, "tpp")
    one, halves = (convert.report(snn, images(30), batch_size=n) for n in (30, 15))
    for a, b in zip(one.rows, halves.rows, strict=True):
        assert a.departure == pytest.approx(b.departure, rel=1e-5)
    assert one.agreement == halves.agreement
    again = convert.report(snn, images(30), key=jax.random.key(1))
    assert again.rows != one.rows


def test_refusals():
    """None of them computes anything first."""
    network, x = mlp(), images(4)
    snn = convert.to_snn(network)
    calls = {
        r"a report needs images \[N, \.\.\.\]; got none": lambda: convert.report(snn, x[:0]),
        "batch_size must be .*; got 0": lambda: convert.report(snn, x, batch_size=0),
        "batch_size must be .*; got 1.5": lambda: convert.report(snn, x, batch_size=1.5),
        "NaN or infinity, first at": lambda: convert.report(snn, np.full_like(x, np.nan)),
        "one typed PRNG key": lambda: convert.report(snn, x, key=0),
        "a report is on a network of to_snn, before for_any_T.*got Network": lambda: convert.report(network, x),
        "a report is on a network of to_snn, .* got Snn": lambda: convert.report(snn.for_any_T(), x),
        "ann is another network .* only one of them has dense0, dense1, head": lambda: convert.report(snn, x, other(x)),
    }
    for message, call in calls.items():
        with pytest.raises(InputError, match=message):
            call()


def other(x):
    p = {"head": np.ones((8, 3), np.float32)}
    return convert.trace((lambda p, x: jax.nn.relu(x.reshape(len(x), -1) @ p["head"]), p), x)

"""Inputs that are no images: sequences [B, L, C] and vectors [B, F], in Python, from tracing to the report."""

import flax.linen as nn
import jax
import numpy as np
import pytest

import convert
from tppjax.errors import InputError


class Sequence(nn.Module):
    """Convolutions along one axis, with a stride and a pool."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (5,), name="conv1")(x))
        x = nn.avg_pool(x, (2,), (2,))
        x = nn.relu(nn.Conv(8, (3,), strides=2, name="conv2")(x))
        return nn.Dense(3, name="head")(x.mean(axis=1))


class Vector(nn.Module):
    """Dense layers."""

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = nn.relu(nn.Dense(16, name=f"dense{i}")(x))
        return nn.Dense(3, name="head")(x)


CASES = {"sequence": (Sequence(), (16, 2)), "vector": (Vector(), (7,))}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Network, inputs."""
    model, shape = CASES[request.param]
    x = np.random.default_rng(0).normal(size=(40, *shape)).astype(np.float32)
    return convert.trace((model, model.init(jax.random.key(0), x[:1])), x), x


@pytest.mark.slow
def test_from_the_network_to_the_report(case, tmp_path):
    network, x = case
    network = convert.calibrate(network, x, T=8, mode="rounded")
    plain = convert.to_snn(network, T=8, mode="rounded")
    by_bias = convert.correct(network, x, T=8, mode="rounded")
    by_weights = convert.correct(network, x, T=8, mode="rounded", method="weights")
    wanted = network.apply(x)
    wrong = [convert.to_snn(n, T=8, mode="rounded").apply(x) - wanted for n in (network, by_bias, by_weights)]
    of_means = [float(np.abs(w.mean(axis=0)).sum()) for w in wrong]
    assert of_means[1] < 0.2 * of_means[0]
    assert np.square(wrong[2]).mean() < np.square(wrong[0]).mean()
    report = convert.report(plain, x)
    assert [row.site for row in report.rows] == list(network.sites)
    assert str(report).startswith("T=8, 40 images")
    many = convert.to_snn(convert.calibrate(case[0], x, "max"), T=256, mode="unbiased").apply(x, jax.random.key(0))
    np.testing.assert_allclose(many, wanted, atol=0.1 * np.abs(wanted).max())
    for mode in ("baseline", "shuffle", "tpp"):
        trace = convert.to_snn(by_weights, T=4, mode=mode).trace(x[:3], jax.random.key(0))
        assert trace.logits.shape == (4, 3, 3)
    by_weights.save(tmp_path / "net")
    np.testing.assert_array_equal(convert.load(tmp_path / "net").apply(x), by_weights.apply(x))


def test_what_does_not_fit(case):
    network, x = case
    shape = ", ".join(map(str, x.shape[1:]))
    for wrong in (x[0], x[..., :1], x[:, None, None]):
        with pytest.raises(InputError, match=rf"takes a batch \[B, {shape}\]; got shape"):
            convert.calibrate(network, wrong)
    with pytest.raises(InputError, match="takes floats, already normalised; got uint8"):
        convert.calibrate(network, x.astype(np.uint8))
    with pytest.raises(InputError, match=r"hold NaN or infinity, first at \[3, "):
        convert.calibrate(network, np.where(np.arange(len(x)).reshape(-1, *[1] * (x.ndim - 1)) == 3, np.nan, x))
    with pytest.raises(InputError, match="calibration needs images"):
        convert.calibrate(network, x[:0])

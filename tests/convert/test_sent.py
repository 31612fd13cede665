"""Corrections of other papers, against plain loops of their equations in float64."""

import numpy as np
import pytest

import convert
from tests.convert.networks import images, layer, mlp
from tppjax.activations import ReLU
from tppjax.neurons import Baseline

T, N = 4, 60
X = np.float32(images(N) + np.random.default_rng(0).uniform(0, 0.1, (N, 2, 2, 2)))  # no potential is exactly theta
MODE = Baseline(shift=0.5)


@pytest.fixture(scope="module")
def network():
    return convert.calibrate(mlp(ReLU()), X, "max", T=T)


def integrate_and_fire(current, theta, offset=0.0, v_init=0.0):
    """`[T, N, C]`, with SNNC's shift of theta / (2 T) a step."""
    v, spikes = np.zeros(current[0].shape) + v_init, []
    for t, x in enumerate(current):
        v = v + x + theta / (2 * T) + (offset[t] if np.ndim(offset) == 2 else offset)
        spikes.append((v >= theta).astype(float))
        v = v - theta * spikes[-1]
    return theta * np.array(spikes)


def site_by_site(network, corrected):
    """`(site, current, activation, theta)`, what reaches each site with those before corrected by `corrected(site)`."""
    x = X.reshape(N, -1).astype(np.float64)
    current, activation = np.broadcast_to(x, (T, *x.shape)), x
    for site, theta in network.thetas.items():
        kernel, bias = layer(network, site)
        current, activation = current @ kernel + bias, np.maximum(activation @ kernel + bias, 0)
        yield site, current, activation, np.float64(theta)
        current = corrected(site, current, theta)


def test_rates(network):
    """SNNC, light: the mean rate of each channel against the mean activation, once."""
    found = convert.correct(network, X, T=T, mode=MODE, method="rates", batch_size=7)
    for site, current, activation, theta in site_by_site(
        network, lambda site, current, theta: integrate_and_fire(current, theta, np.float64(found.offsets[site]))
    ):
        rate = integrate_and_fire(current, theta).mean(axis=0)
        assert np.abs(activation.mean(axis=0) - rate.mean(axis=0)).max() > 0.01
        np.testing.assert_allclose(found.offsets[site], (activation - rate).mean(axis=0), atol=1e-5)
    done = "offsets by rates (SNNC) corrected site by site at T=4 for baseline(shift=0.5), on 60 images"
    assert found.history[-1] == done


def test_potential(network):
    """SNNC on CIFAR: `v_init = T (mean a - mean r)` of each neuron."""
    found = convert.correct(network, X, T=T, mode=MODE, method="potential", batch_size=7)

    def corrected(site, current, theta):
        return integrate_and_fire(current, theta, v_init=theta * np.float64(found.potentials[site]))

    for site, current, activation, theta in site_by_site(network, corrected):
        rate = integrate_and_fire(current, theta).mean(axis=0)
        np.testing.assert_allclose(theta * found.potentials[site], T * (activation - rate).mean(axis=0), atol=1e-5)
        spikes = np.asarray(convert.to_snn(found, T, MODE).trace(X).spikes[site])
        np.testing.assert_allclose(theta * spikes, corrected(site, current, theta), atol=1e-6)


def test_steps(network):
    """FTBC: a bias for each channel and step; the step is done again with its new bias before the next one."""
    found = convert.correct(network, X, T=T, mode=MODE, method="steps", batch_size=N)

    def corrected(site, current, theta):
        return integrate_and_fire(current, theta, np.float64(found.offsets[site]))

    for site, current, activation, theta in site_by_site(network, corrected):
        bias, wanted = np.zeros((T, len(theta))), activation.mean(axis=0)
        for _ in range(10):
            v = np.zeros(current[0].shape)
            for t in range(T):
                x = v + current[t] + theta / (2 * T)
                bias[t] -= 0.5 * ((theta * (x + bias[t] >= theta)).mean(axis=0) - wanted)
                v = x + bias[t]
                v = v - theta * (v >= theta)
        np.testing.assert_allclose(found.offsets[site], bias, atol=1e-5)
        spikes = np.asarray(convert.to_snn(found, T, MODE).trace(X).spikes[site])
        np.testing.assert_allclose(theta * spikes, corrected(site, current, theta), atol=1e-6)


def test_steps_in_batches(network):
    """Each batch by itself, and the mean over all of them: neither order nor a small last batch decides."""

    def offset(x, **options):
        return convert.correct(network, x, T=T, mode=MODE, method="steps", **options).offsets["dense0"]

    parts = [(len(x), offset(x)) for x in (X[:25], X[25:50], X[50:])]
    np.testing.assert_allclose(offset(X, batch_size=25), sum(n * part for n, part in parts) / N, atol=1e-6)
    np.testing.assert_allclose(offset(X[::-1], batch_size=30), offset(X, batch_size=30), atol=1e-5)


def test_potentials_add_up(network):
    """A second correction finds little left, and does not undo the first."""
    once = convert.correct(network, X, T=T, mode=MODE, method="potential")
    twice = convert.correct(once, X, T=T, mode=MODE, method="potential")
    activations = dict(
        zip(network.sites, network.values(X, tuple(s.output for s in network.sites.values())), strict=True)
    )

    def lacking(ready):
        rates = convert.to_snn(ready, T, MODE).rates(X)[1]
        return max(np.abs(np.mean(activations[s] - rates[s], axis=0)).mean() for s in rates)

    assert lacking(twice) < lacking(once) < lacking(network)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rates", "potential", "steps"])
def test_the_snn_comes_nearer_to_the_ann(relu_ann, digits_train, digits_test, method):
    ready = convert.calibrate(relu_ann, digits_train, T=3, mode="baseline")

    def departure(network):
        return convert.report(convert.to_snn(network, 3, "baseline"), digits_test.images[:200], ready).departure

    corrected = convert.correct(ready, digits_train, T=3, mode="baseline", method=method)
    assert departure(corrected) < 0.9 * departure(ready)


def test_refusals(network):
    with pytest.raises(ValueError, match="unknown method 'advanced'; known: bias, weights, rates, potential, steps"):
        convert.correct(network, X, T=T, method="advanced")
    with pytest.raises(ValueError, match=r"method 'steps' is for neurons that fire in the step .* and tpp does not"):
        convert.correct(network, X, T=T, mode="tpp", method="steps")
    with pytest.raises(ValueError, match=r"and srp\(tau=2\) does not, or runs ahead"):
        convert.correct(network, X, T=T, mode="srp(tau=2)", method="steps")
    found = convert.correct(network, X, T=T, mode=MODE, method="steps")
    with pytest.raises(ValueError, match="dense0 was corrected step by step, which 'bias' would undo"):
        convert.correct(found, X, T=T, mode=MODE)
    with pytest.raises(ValueError, match=r"dense0 was corrected step by step for T=4; got T=8"):
        convert.to_snn(found, 8, MODE)


def test_saved_and_folded(network, tmp_path):
    """Offsets of steps and potentials survive a folder; a two-phase neuron takes their sum, folded or not."""
    steps = convert.correct(network, X, T=T, mode=MODE, method="steps")
    both = convert.correct(steps, X, T=T, mode=MODE, method="potential")
    both.save(tmp_path / "saved")
    loaded = convert.load(tmp_path / "saved")
    for mode in (MODE, "rounded"):
        snn = convert.to_snn(both, T, mode)
        np.testing.assert_array_equal(convert.to_snn(loaded, T, mode).apply(X), snn.apply(X))
        np.testing.assert_allclose(snn.trace(X).logits.mean(axis=0), snn.apply(X), rtol=1e-5, atol=1e-5)
    unlike = convert.to_snn(network, T, "rounded").apply(X)
    assert not np.allclose(convert.to_snn(both, T, "rounded").apply(X), unlike)

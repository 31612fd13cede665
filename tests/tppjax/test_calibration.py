"""Thresholds from activations: against brute force on all values, in any order, and for each neuron's own error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.convert.networks import images as floats
from tests.convert.networks import mlp
from tppjax import ann, calibration, data, models, neurons, tracing
from tppjax.activations import ReLU
from tppjax.calibration import calibrate
from tppjax.errors import InputError
from tppjax.histogram import BINS, Histogram
from tppjax.neurons import TPP, Baseline, Ordered, Rounded, TwoPhase, simulate
from tppjax.neurons.base import DRAWS


@pytest.fixture(scope="module")
def values():
    """Activations of 5 channels of very different scale; one fires once, one never."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 5)) * [0.01, 1, 300, 1, 1]
    x[:, 3], x[:, 4] = -1, -np.abs(x[:, 4])
    x[17, 3] = 0.5
    return x.astype(np.float32)


def histogram(*parts):
    found = Histogram(5)
    for part in parts:
        found.add(part)
    return found


def test_histogram_is_that_of_numpy(values):
    found = histogram(values)
    for c in range(5):
        expected, _ = np.histogram(values[:, c][values[:, c] > 0], bins=BINS, range=(0, found.top[c]))
        np.testing.assert_array_equal(found.counts[c], expected)
    np.testing.assert_array_equal(found.largest, np.maximum(values.max(axis=0), 0))
    assert (found.top[:4] <= 2 * found.largest[:4]).all()


def test_order_does_not_matter(values):
    small_first = values[np.abs(values).max(axis=1).argsort()]
    for parts in ([values[2000:], values[:2000]], np.split(small_first, 8), np.split(small_first[::-1], 8)):
        found = histogram(*parts)
        for name in ("n", "largest", "top", "counts"):
            np.testing.assert_array_equal(getattr(found, name), getattr(histogram(values), name))


@pytest.mark.parametrize("q", [50, 90, 99, 99.9, 100])
def test_percentile(values, q):
    found = histogram(values).percentile(q)
    # By rank, in tenths of a percent: in floats 99.9 % of 4,000 comes out above 3,996, so NumPy takes one more.
    rank = -(-len(values) * round(10 * q) // 1000)
    expected = np.maximum(np.sort(values, axis=0)[rank - 1], 0)
    assert (found >= expected * (1 - 1e-6)).all()
    assert (found <= expected + histogram(values).top / BINS).all()


def test_pooled_is_one_histogram_of_all_channels(values):
    pooled = histogram(values).pooled()
    whole = Histogram(1)
    whole.add(values.reshape(-1, 1))
    assert (pooled.n, pooled.largest, pooled.top) == (whole.n, whole.largest, whole.top)
    assert pooled.counts.sum() == whole.counts.sum()
    edges = np.cumsum(pooled.counts - whole.counts)
    assert np.abs(edges).max() == 0


class Dithered(TwoPhase):
    """A random neuron that does not know its expected error."""

    random = True

    def count(self, u, T, key):
        return jnp.clip(jnp.floor(u + jax.random.uniform(key, u.shape)), 0, T)


NEURONS = [kind() for kind in neurons.NEURONS.values() if kind is not Ordered]
NEURONS += [Baseline(v_init=0.5), Baseline(v_init=-2), Dithered()]


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("T", [1, 4])
def test_squared_error_is_that_of_the_neuron(neuron, T):
    """Expected (rate - x)^2, by drawing spikes for a constant input; x from silent to far above the threshold."""
    theta, n = 0.7, 20_000
    x = jnp.array([0.01, 0.1, 0.3, 0.69, 0.71, 1.0])
    weight = theta * neuron.weight
    spikes = simulate(neuron, jnp.broadcast_to(x / weight, (neuron.lead + T, n, 6)), jax.random.key(0))
    errors = (weight * np.asarray(spikes.sum(axis=0), np.float64) / T - np.asarray(x)) ** 2
    tolerance = 5 * errors.std(axis=0) / np.sqrt(DRAWS if isinstance(neuron, Dithered) else n)
    found = neuron.squared_error(x, theta, T)
    np.testing.assert_array_less(np.abs(errors.mean(axis=0) - found), tolerance + 1e-6)


@pytest.mark.parametrize("T", [4, 32])
@pytest.mark.parametrize("neuron", [Baseline(v_init=0), Rounded(), TPP()], ids=str)
def test_mse_is_the_best_of_95_candidates(values, T, neuron):
    """By brute force on the values themselves; the histogram may take a neighbour that is as good within 1 %."""
    found = calibration.least_error(histogram(values), T, neuron)
    for c in range(3):
        x = values[:, c][values[:, c] > 0]

        def error(theta, x=x):
            return float(neuron.squared_error(jnp.array(x), theta, T).sum())

        candidates = x.max() * (1 - 0.01 * np.arange(95))
        best = min(error(theta) for theta in candidates)
        assert np.abs(candidates - found[c]).min() < 1e-5 * x.max()
        assert error(found[c]) <= 1.01 * best


@pytest.fixture(scope="module")
def network():
    """ReLU on the digits, untrained; its first channel of the first layer is dead."""
    model = models.create("vgg_small", 10, ReLU(), stages=((4, 4), (6,)), norm=False)
    variables = jax.device_get(model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))
    variables["params"]["conv1_1"]["bias"] = np.eye(4)[0].astype(np.float32) * -1e6
    return tracing.trace(ann.Ann(variables, model, data.info("digits")))


@pytest.fixture(scope="module")
def images():
    return data.load("digits", "train").images[:50]


def test_calibrate_max_is_the_maximum_of_each_channel_and_leaves_the_network_as_it_is(network, images):
    calibrated = calibrate(network, images, "max")
    kernel, bias = (network.weights[f"params/conv1_1/{leaf}"] for leaf in ("kernel", "bias"))
    layout = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(network.input(images), kernel, (1, 1), "SAME", dimension_numbers=layout)
    expected = np.max(x, (0, 1, 2)) + np.ravel(bias)
    theta = calibrated.thetas["conv1_1"]
    np.testing.assert_allclose(theta[1:], expected[1:], rtol=1e-5)
    assert theta[0] == theta.max()  # dead: never fires, and divides nothing by 0
    assert list(calibrated.thetas) == ["conv1_1", "conv1_2", "conv2_1"]
    assert calibrated.weights is network.weights
    np.testing.assert_array_equal(calibrated.apply(images), network.apply(images))
    assert calibrated.history == ("thresholds: max per channel, from 50 images",)


@pytest.mark.parametrize("method", calibration.METHODS)
def test_calibration_does_not_depend_on_order_or_batches(network, images, method):
    once = calibrate(network, images, method, T=8).thetas
    again = calibrate(network, images[::-1], method, T=8, batch_size=25).thetas
    for site, theta in once.items():
        np.testing.assert_allclose(again[site], theta, rtol=0.011)  # a neighbouring candidate, by rounding at most


def test_observed_once_and_chosen_often(network, images):
    observed = calibration.observe(network, images)
    with pytest.raises(InputError, match=r"observed lacks .*: pass what observe returned for this network"):
        calibrate(network, images, observed={})
    for T in (2, 8):
        a, b = calibrate(network, images, T=T, observed=observed), calibrate(network, images, T=T)
        jax.tree.map(np.testing.assert_array_equal, a.thetas, b.thetas)
        assert a.history == (f"thresholds: mse at T={T} for tpp per channel, from 50 images",)


def test_per_layer(network, images):
    found = calibrate(network, images, "max", per="layer").thetas
    each = calibrate(network, images, "max").thetas
    assert {site: float(theta) for site, theta in found.items()} == {s: float(t.max()) for s, t in each.items()}


def test_channels_first():
    """As PyTorch has them: the thresholds are those of the axis of the channels."""
    rng = np.random.default_rng(0)
    kernel, x = np.float32(rng.normal(size=(3, 2, 3, 3))), np.float32(rng.normal(size=(20, 2, 5, 6)))
    conv = lambda p, x: jax.lax.conv_general_dilated(x, p, (1, 1), "SAME")  # noqa: E731
    fn = lambda p, x: jax.nn.relu(conv(p["layer"]["kernel"], x)).sum((2, 3))  # noqa: E731
    thetas = calibrate((fn, {"layer": {"kernel": kernel}}), x, "max").thetas
    np.testing.assert_allclose(thetas["layer"], conv(kernel, x).max((0, 2, 3)), rtol=1e-5)


def test_a_clip_has_its_bound_until_it_is_calibrated():
    """Beside a ReLU, which has no threshold before; what lies above the bound counts as the bound."""
    fn = lambda p, x: jax.nn.relu(jax.nn.relu6(x @ p["a"]) @ p["b"])  # noqa: E731
    p = {name: np.float32(np.random.default_rng(0).normal(size=(8, 8))) for name in "ab"}
    p["a"] *= np.float32([1, 1, 1, 1, 5, 5, 5, 5])
    x = floats(20).reshape(20, -1)
    network = tracing.trace((fn, p), x)
    assert network.missing == ["b"]
    assert network.thetas["a"] == 6
    thetas, values = calibrate(network, x, "max").thetas, x @ p["a"]
    assert (values > 6).any(0).any()
    assert (values < 6).all(0).any()
    alive = values.max(0) > 0
    np.testing.assert_allclose(thetas["a"][alive], np.minimum(values.max(0), 6)[alive], rtol=1e-5)
    expected = np.max(np.clip(values, 0, 6) @ p["b"], 0)
    np.testing.assert_allclose(thetas["b"][expected > 0], expected[expected > 0], rtol=1e-5)
    assert (calibrate(network, x, "mse", T=4).thetas["a"] <= thetas["a"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "mean"}, "unknown method 'mean'; known: max, percentile, mse"),
        ({"per": "neuron"}, "unknown per 'neuron'; known: channel, layer"),
        ({"mode": "poisson"}, "unknown mode 'poisson'; known: baseline, .*, srp, and"),
        ({"percentile": 150.0}, "percentile must be at most 100; got 150"),
        ({"T": 0}, "T is the number of time steps"),
        ({"percentile": float("nan")}, "percentile must be a finite number; got nan"),
        ({"percentile": "99"}, "percentile must be a finite number; got '99'"),
        ({"T": 4.0}, "T is the number of time steps"),
        ({"batch_size": -1}, "batch_size must be a whole number of at least 1; got -1"),
        ({"batch_size": True}, "batch_size must be a whole number of at least 1; got True"),
        ({"images": np.zeros((0, 8, 8, 1), np.uint8)}, r"calibration needs images \[N, \.\.\.\]; got none"),
        ({"images": np.zeros((8, 8, 1), np.uint8)}, r"takes a batch \[B, 8, 8, 1\]; got shape \(1, 8, 1\)"),
        ({"images": np.full((2, 8, 8, 1), 3e38, np.float32)}, r"the input of conv\w* is not finite"),
    ],
)
def test_refusals(network, images, options, message):
    with pytest.raises(InputError, match=message):
        calibrate(network, **{"images": images, **options})


def test_minus_infinity_at_a_site(network, images, monkeypatch):
    monkeypatch.setattr(calibration, "_at_sites", lambda *_: {"conv1_1": np.float32([[[[-np.inf, 1.0]]]])})
    with pytest.raises(InputError, match="the input of conv1_1 is not finite"):
        calibrate(network, images)


def test_unknown_ways_are_refused():
    for options in ({"method": "mean"}, {"per": "neuron"}):
        with pytest.raises(InputError, match="unknown"):
            calibration.choose({}, **{"method": "max", "per": "layer", "T": 4, "neuron": TPP(), **options})


def test_learned_thresholds_are_not_overwritten():
    for call in (calibrate, calibration.observe):
        with pytest.raises(InputError, match="already has its thresholds: there is nothing to calibrate"):
            call(mlp(), floats(4))


def test_a_corrected_network_is_not_calibrated_anew(network, images):
    ready = calibrate(network, images, "max")
    corrected = ready.replace(offsets={"conv1_2": np.zeros(4, np.float32)})
    with pytest.raises(InputError, match=r"was corrected .*: calibrate the network before correction"):
        calibrate(corrected, images, "max")


def test_a_network_that_never_fires_is_refused(network, images):
    bias = np.full_like(network.weights["params/conv1_1/bias"], -1e6)
    with pytest.raises(InputError, match=r"the percentile 0\.1 of the activations at conv1_1 is 0, since few of them"):
        calibrate(network, images, "percentile", "layer", percentile=0.1)
    with pytest.raises(InputError, match="nothing ever fires at conv1_1 on the calibration images"):
        calibrate(network.replace(weights=network.weights | {"params/conv1_1/bias": bias}), images)

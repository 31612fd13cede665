"""Networks of recordings: one frame after another, and what comes of it over time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from tests.convert.networks import images, layer, mlp
from tppjax.activations import ReLU
from tppjax.data import Preprocessing
from tppjax.neurons import Baseline, simulate

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def network():
    """An `Mlp` that takes recordings of 4 frames, and 5 recordings of uint8 pixels, whose frames differ much."""
    shape = images(1).shape[1:]
    none = (0.0,) * shape[-1]
    info = Preprocessing("made", shape, none, tuple(1.0 for _ in none), ("a", "b"), frames=4)
    recordings = np.random.default_rng(0).integers(0, 256, (5, 4, *shape), dtype=np.uint8)
    return mlp().replace(preprocessing=info), recordings


def test_the_ann_gets_the_mean_frame(network):
    given, recordings = network
    mean = jnp.float32(recordings / 255).mean(axis=1)
    np.testing.assert_allclose(given.apply(recordings), given.apply(mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("T", "shown"), [(4, [0, 1, 2, 3]), (8, [0, 0, 1, 1, 2, 2, 3, 3]), (2, [(0, 1), (2, 3)])])
def test_a_spiking_network_gets_a_frame_a_step(network, T, shown):
    """The first layer's current at each step is that of the frame shown, and its spikes are those of the neuron."""
    given, recordings = network
    trace = convert.to_snn(given, T, "baseline").trace(recordings)
    kernel, bias = layer(given, "dense0")
    frames = np.stack([recordings[:, i].reshape(5, 1 if np.isscalar(i) else len(i), -1).mean(1) for i in shown])
    current = frames.reshape(T, 5, -1) / 255 @ kernel + bias
    np.testing.assert_allclose(trace.currents["dense0"], current, rtol=1e-4, atol=1e-4)
    theta = given.thetas["dense0"]
    expected = simulate(Baseline(v_init=0.5), trace.currents["dense0"] / theta)
    np.testing.assert_array_equal(trace.spikes["dense0"], expected)


@pytest.mark.parametrize("mode", ["tpp", "rounded"])
def test_two_phase_neurons_accumulate_the_whole_recording_first(network, mode):
    given, recordings = network
    snn = convert.to_snn(given, 8, mode)
    mean = np.float32(recordings / np.float32(255)).mean(axis=1)
    np.testing.assert_allclose(snn.apply(recordings, KEY), snn.apply(mean, KEY), atol=1e-5)
    kernel, bias = layer(given, "dense0")
    current = mean.reshape(len(mean), -1) @ kernel + bias
    np.testing.assert_allclose(snn.trace(recordings, KEY).currents["dense0"].mean(0), current, atol=1e-4)


def test_the_order_of_frames_matters_to_neurons_that_fire_at_once(network):
    given, recordings = network
    snn = convert.to_snn(given, 4, "baseline")
    assert (snn.activity(recordings)[1]["dense0"] != snn.activity(recordings[:, ::-1])[1]["dense0"]).any()


def test_frames_must_fit_the_steps(network):
    given, recordings = network
    with pytest.raises(
        ValueError, match=r"recordings of 4 frames can't be spread evenly over T=6 steps: let T be a mul"
    ):
        convert.to_snn(given, 6)
    with pytest.raises(ValueError, match=r"takes recordings of 4 frames; got shape \(5, 3"):
        convert.to_snn(given, 4).apply(recordings[:, :3], KEY)
    raw = convert.to_snn(given.replace(preprocessing=None), 4, "rounded")
    with pytest.raises(ValueError, match="recordings of 3 frames"):
        raw.apply(np.float32(recordings[:, :3]))


def test_calibration_correction_and_report_take_recordings(network):
    given, recordings = network
    bare = given.replace(graph=mlp(ReLU()).graph, thetas={})
    corrected = convert.correct(convert.calibrate(bare, recordings, T=4), recordings, T=4, mode="tpp")
    assert corrected.offsets
    found = convert.report(convert.to_snn(corrected, 4), recordings, ann=given)
    assert [row.site for row in found.rows] == ["dense0", "dense1"]

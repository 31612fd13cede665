"""Networks that see recordings: one frame after another, and what comes of it over time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from tests.convert.networks import images, mlp
from tppjax.ann import Ann
from tppjax.data import Preprocessing
from tppjax.neurons import integrate_and_fire

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def network():
    """An `Mlp` that takes recordings of 4 frames, and 5 recordings of uint8 pixels, whose frames differ much."""
    variables, model = mlp()
    shape = images(1).shape[1:]
    none = (0.0,) * shape[-1]
    info = Preprocessing("made", shape, none, tuple(1.0 for _ in none), ("a", "b"), frames=4)
    recordings = np.random.default_rng(0).integers(0, 256, (5, 4, *shape), dtype=np.uint8)
    return Ann(variables, model, info), recordings


def test_the_ann_sees_the_mean_frame(network):
    ann, recordings = network
    mean = jnp.float32(recordings / 255).mean(axis=1)
    np.testing.assert_allclose(ann.apply(recordings), ann.apply(mean), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("T", "shown"), [(4, [0, 1, 2, 3]), (8, [0, 0, 1, 1, 2, 2, 3, 3]), (2, [(0, 1), (2, 3)])])
def test_a_spiking_network_sees_a_frame_a_step(network, T, shown):
    """The first layer's current at each step is that of the frame shown, and its spikes are those of the neuron."""
    ann, recordings = network
    trace = convert.to_snn(ann, T, "baseline").trace(recordings)
    kernel, bias = (np.asarray(ann.variables["params"]["dense0"][leaf], np.float64) for leaf in ("kernel", "bias"))
    frames = np.stack([recordings[:, i].reshape(5, 1 if np.isscalar(i) else len(i), -1).mean(1) for i in shown])
    current = frames.reshape(T, 5, -1) / 255 @ kernel + bias
    np.testing.assert_allclose(trace.currents["act0"], current, rtol=1e-4, atol=1e-4)
    theta = ann.variables["params"]["act0"]["theta"]
    expected = integrate_and_fire(trace.currents["act0"], jnp.broadcast_to(theta, current.shape[1:]), theta / 2)
    np.testing.assert_array_equal(trace.spikes["act0"], expected)


@pytest.mark.parametrize("mode", ["tpp", "rounded"])
def test_two_phase_neurons_hear_the_whole_recording_first(network, mode):
    ann, recordings = network
    snn = convert.to_snn(ann, 8, mode)
    mean = np.float32(recordings / np.float32(255)).mean(axis=1)
    np.testing.assert_allclose(snn.apply(recordings, KEY), snn.apply(mean, KEY), atol=1e-5)
    np.testing.assert_allclose(snn.trace(recordings, KEY).currents["act0"].mean(0), ann_current(ann, mean), atol=1e-4)


def ann_current(ann, x):
    layer = ann.variables["params"]["dense0"]
    return x.reshape(len(x), -1) @ layer["kernel"] + layer["bias"]


def test_the_order_of_frames_matters_to_neurons_that_fire_at_once(network):
    ann, recordings = network
    snn = convert.to_snn(ann, 4, "baseline")
    assert (snn.activity(recordings)[1]["act0"] != snn.activity(recordings[:, ::-1])[1]["act0"]).any()


def test_frames_must_fit_the_steps(network):
    ann, recordings = network
    with pytest.raises(
        ValueError, match=r"recordings of 4 frames can't be spread evenly over T=6 steps: let T be a mul"
    ):
        convert.to_snn(ann, 6)
    with pytest.raises(ValueError, match=r"takes recordings of 4 frames; got shape \(5, 3"):
        convert.to_snn(ann, 4).apply(recordings[:, :3], KEY)
    raw = convert.to_snn(ann.variables, 4, "rounded", model=ann.model)
    with pytest.raises(ValueError, match="recordings of 3 frames"):
        raw.apply(np.float32(recordings[:, :3]))


def test_calibration_correction_and_report_take_recordings(network):
    ann, recordings = network
    corrected = convert.correct(ann, recordings, 4, "tpp", weights=False)
    text = str(convert.report(convert.to_snn(corrected, 4), recordings, ann=ann))
    assert "act0" in text
    assert (corrected.variables["params"]["dense1"]["bias"] != ann.variables["params"]["dense1"]["bias"]).any()

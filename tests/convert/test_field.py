"""The neurons of other papers against plain loops of their equations, in float64: alone, and through a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from tests.convert.networks import images, layer, mlp
from tppjax.activations import ReLU
from tppjax.neurons import SNM, SRP, Baseline, Burst, Graded, Rounded, simulate


def snm(x, theta):
    """Wang et al., IJCAI 2022: `+` at v >= theta, `-` at v <= -theta if more than none was sent."""
    v, memory, spikes = np.zeros(x[0].shape), np.zeros(x[0].shape), []
    for now in x:
        v = v + now
        s = np.where(v >= theta, 1.0, np.where((v <= -theta) & (memory > 0), -1.0, 0.0))
        v, memory = v - theta * s, memory + s
        spikes.append(s)
    return np.array(spikes)


def burst(gamma):
    """Li & Zeng, IJCAI 2022."""

    def run(x, theta):
        v, spikes = np.zeros(x[0].shape), []
        for now in x:
            v = v + now
            spikes.append(np.clip(np.floor(v / theta), 0, gamma))
            v = v - theta * spikes[-1]
        return np.array(spikes)

    return run


def srp(tau):
    """Hao et al., AAAI 2023: tau steps, a mask from what is left, and T steps from theta/2 again."""

    def run(x, theta):
        trains, v = [], None
        for stage in (x[:tau], x[tau:]):
            mask = np.ones(x[0].shape) if v is None else v > 1e-3 * theta
            v = np.full(x[0].shape, theta / 2)
            for now in stage:
                v = v + now
                s = (v >= theta).astype(float)
                v = v - theta * s
                trains.append(s * mask)
        return np.array(trains)

    return run


def graded(levels):
    """The nearest of T levels + 1 values of the sum, spread evenly; the largest spike weighs theta."""

    def run(x, theta):
        T = len(x)
        count = np.clip(np.floor(x.sum(axis=0) * levels / theta + 0.5), 0, T * levels)
        t = np.arange(T + 1).reshape(-1, *[1] * count.ndim)
        return np.diff(np.floor(t * count / T), axis=0)

    return run


METHODS = [
    *((SNM(), snm), (SRP(tau=3), srp(3)), (Graded(4), graded(4))),
    *((Burst(gamma=2, capped=False), burst(2)), (Burst(capped=False), burst(5))),
]


@pytest.mark.parametrize(("neuron", "loop"), METHODS, ids=lambda m: str(m) if not callable(m) else "")
def test_neurons_are_their_authors(neuron, loop):
    """Inputs are multiples of 1/8, so that the loops are exact and potentials of exactly theta occur."""
    T, n = 16, 500
    x = np.random.default_rng(0).integers(-10, np.where(np.arange(n) < n / 2, 14, 60), (neuron.lead + T, n)) / 8
    expected = loop(x, 1.0)[neuron.lead :]
    np.testing.assert_array_equal(simulate(neuron, jnp.float32(x / neuron.weight)), expected)
    assert expected.max() == neuron.levels
    assert (expected.min() < 0) == neuron.signed


@pytest.mark.parametrize(("neuron", "loop"), METHODS, ids=lambda m: str(m) if not callable(m) else "")
def test_networks_of_them(neuron, loop):
    """Layer by layer: spikes, what they weigh, the mean output and the number of spikes."""
    network, T, x = mlp(), 6, images(20)
    current = np.broadcast_to(x.reshape(20, -1), (neuron.lead + T, 20, 8)).astype(np.float64)
    snn = convert.to_snn(network, T, neuron)
    trace, (logits, fired), rates = snn.trace(x), snn.activity(x), snn.rates(x)[1]
    for site, theta in network.thetas.items():
        kernel, bias = layer(network, site)
        current = current @ kernel + bias
        spikes = loop(current, np.float64(theta))
        counted = spikes[neuron.lead :]
        np.testing.assert_array_equal(trace.spikes[site], counted)
        np.testing.assert_array_equal(fired[site], np.abs(spikes).sum(axis=0))  # those of stage 1 cost, too
        np.testing.assert_allclose(rates[site], theta * neuron.weight * counted.mean(axis=0), rtol=1e-6)
        current = theta * neuron.weight * spikes
    kernel, bias = layer(network, "head")
    expected = (current @ kernel + bias)[neuron.lead :]
    np.testing.assert_allclose(trace.logits, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits, expected.mean(axis=0), rtol=1e-5, atol=1e-5)
    assert fired["dense1"].max() > 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Burst(gamma=1), Baseline(v_init=0)),
        (Burst(1, v_init=0.5), Baseline(v_init=0.5)),
        (Graded(levels=1), Rounded()),
    ],
)
def test_where_methods_meet(one, other):
    network, x = mlp(), images(30)
    found = (convert.to_snn(network, 8, neuron).trace(x) for neuron in (one, other))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_signed_neurons_are_the_baseline_where_no_input_is_negative():
    x = jnp.float32(np.random.default_rng(1).integers(0, 9, (12, 300)) / 8)
    np.testing.assert_array_equal(simulate(SNM(), x), simulate(Baseline(v_init=0), x))


def test_graded_steps_are_as_many_binary_ones():
    network, x = mlp(), images(30)
    graded_, rounded = convert.to_snn(network, 2, Graded(levels=8)), convert.to_snn(network, 16, Rounded())
    np.testing.assert_array_equal(graded_.apply(x), rounded.apply(x))
    assert (graded_.neurons["dense0"].bits, Rounded().bits, SNM().bits) == (np.log2(9), 1, np.log2(3))


def test_recordings_have_no_frames_for_a_lead():
    """A network that takes recordings is converted, and refuses them, since stage 1 of SRP needs some more."""
    snn = convert.to_snn(mlp(), 4, SRP())
    with pytest.raises(ValueError, match=r"mode srp runs ahead of its T steps, for which recordings have no frames"):
        snn.apply(np.zeros((2, 4, 2, 2, 2), np.float32))


def test_bursts_end_where_the_activation_does():
    """Where QCFS saturates, so does the rate; a neuron with room left still fires bursts."""
    x = images(30)
    snn = convert.to_snn(mlp(), 6, "burst")
    fired, free = (convert.to_snn(mlp(), 6, m).activity(x)[1] for m in ("burst", "burst(capped=False)"))
    assert max(n.max() for n in fired.values()) == 6 < max(n.max() for n in free.values())
    assert max(s.max() for s in snn.trace(x).spikes.values()) > 1
    assert not convert.to_snn(mlp(ReLU()).replace(thetas=mlp().thetas), 6, "burst").in_network["dense0"].capped


@pytest.mark.parametrize("T", [7, 4096])
def test_many_levels_in_many_steps(T):
    """`t count` does not fit into 32 bits."""
    neuron = Graded(levels=4095)
    count = np.array([0, 1, T, 4095 * T - 1, 4095 * T])
    u = jnp.float32(count)
    steps = jax.vmap(lambda t: neuron.step(u, 0 * u, t, T, None))(jnp.arange(T))
    np.testing.assert_array_equal(np.sum(np.asarray(steps, np.float64), axis=0), neuron.count(u, T, None))
    assert steps.max() <= neuron.levels + (np.float32(4095 * T) > 4095 * T)


@pytest.mark.parametrize("kind", [SNM, Burst])
def test_numbers_of_fields(kind):
    with pytest.raises(ValueError, match="v_init must be a finite number"):
        kind(v_init="a")

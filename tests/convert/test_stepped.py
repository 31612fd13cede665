"""Networks run step by step: every spike and potential against plain loops, and what the runs cost."""

import re

import jax
import numpy as np
import pytest

import convert
from convert import stepped
from tests.convert.networks import Mlp, cnn, images, layer, mlp, traced
from tppjax.activations import QCFS
from tppjax.neurons import Baseline, Ordered, Shuffle, Unbiased

KEY = jax.random.key(11)


@pytest.mark.parametrize(("v_init", "shift"), [(0.5, 0.0), (0.0, 0.0), (0.0, 0.5)])
def test_baseline_is_a_plain_loop(v_init, shift):
    """Algorithm 1 layer by layer in float64; every spike, potential and logit. RTS adds theta/2 over the T steps."""
    network = mlp()
    T, x = 8, images(9)
    v = {site: np.full((9, *at.shape), v_init * network.thetas[site]) for site, at in network.sites.items()}
    trace = convert.to_snn(network, T=T, mode=Baseline(v_init, shift)).trace(x)
    fired = 0
    for t in range(T):
        s = x.reshape(9, -1).astype(np.float64)
        for site, theta in network.thetas.items():
            kernel, bias = layer(network, site)
            v[site] += s @ kernel + bias + shift * theta / T
            np.testing.assert_array_equal(trace.potentials[site][t], v[site])
            spikes = v[site] >= theta
            np.testing.assert_array_equal(trace.spikes[site][t], spikes)
            v[site] -= theta * spikes
            s = theta * spikes
            fired += spikes.sum()
        kernel, bias = layer(network, "head")
        np.testing.assert_array_equal(trace.logits[t], s @ kernel + bias)
    assert 0 < fired < T * 9 * (6 + 5)


def test_apply_is_the_mean_over_time():
    network = mlp()
    for mode in ("baseline", "shuffle"):
        snn = convert.to_snn(network, T=5, mode=mode)
        np.testing.assert_allclose(snn.apply(images(4), KEY), snn.trace(images(4), KEY).logits.mean(axis=0), rtol=1e-6)


def test_shuffle_moves_spikes_and_keeps_counts():
    network = mlp()
    x = images(50)
    baseline = convert.to_snn(network, T=8, mode="baseline").trace(x)
    for shared in (False, True):
        shuffled = convert.to_snn(network, T=8, mode=Shuffle(shared=shared)).trace(x, KEY)
        before, after = baseline.spikes["dense0"], shuffled.spikes["dense0"]
        np.testing.assert_array_equal(after.sum(axis=0), before.sum(axis=0))
        assert (after != before).any()
        # Whether what all neurons did at one step stays together, in every example.
        together = [np.sort(np.asarray(a) @ 2.0 ** np.arange(6), axis=0) for a in (before, after)]
        assert shared == np.array_equal(*together)


def test_a_given_order_at_every_layer():
    """Layer by layer in NumPy: every neuron integrates and fires, then the layer's steps change places."""
    network = mlp()
    T, order = 5, [3, 0, 4, 1, 2]
    current = np.broadcast_to(images(30).reshape(30, -1), (T, 30, 8)).astype(np.float64)
    for site, theta in network.thetas.items():
        kernel, bias = layer(network, site)
        current = current @ kernel + bias
        v, spikes = np.full(current[0].shape, theta / 2), np.zeros(current.shape)
        for t in range(T):
            v = v + current[t]
            spikes[t] = v >= theta
            v = v - theta * spikes[t]
        current = theta * spikes[order]
    kernel, bias = layer(network, "head")
    logits = current @ kernel + bias
    snn = convert.to_snn(network, T=T, mode=Ordered(order=order))
    assert not snn.random
    np.testing.assert_array_equal(snn.trace(images(30)).logits, logits)
    np.testing.assert_allclose(snn.apply(images(30)), logits.mean(axis=0), rtol=1e-6)
    as_given = convert.to_snn(network, T=T, mode=Ordered(order=range(T))).apply(images(30))
    np.testing.assert_array_equal(as_given, convert.to_snn(network, T=T, mode="baseline").apply(images(30)))
    assert not np.array_equal(as_given, snn.apply(images(30)))
    mixed = convert.to_snn(network, T, {"dense0": Ordered(order=order), "dense1": "tpp"})
    assert mixed.random


def test_one_compilation_serves_every_order():
    network = mlp()
    runs = []

    @jax.jit
    def run(snn):
        runs.append(1)
        return snn.apply(images(2))

    for order in ([0, 1, 2], [2, 1, 0], (1, 2, 0)):
        run(convert.to_snn(network, T=3, mode=Ordered(order=order)))
    assert len(runs) == 1


@pytest.mark.parametrize("mode", ["shuffle", "tpp", "unbiased", "rounded", {"dense0": "tpp", "dense1": "baseline"}])
def test_every_site_does_what_its_input_says(mode):
    """From the spikes that one site sent on, the next one's potentials in float64, and what it may fire of them."""
    network = mlp()
    T = 6
    trace = convert.to_snn(network, T=T, mode=mode).trace(images(30), KEY)
    current = np.broadcast_to(images(30).reshape(30, -1), (T, 30, 8)).astype(np.float64)
    for site, theta in network.thetas.items():
        kernel, bias = layer(network, site)
        current = current @ kernel + bias
        np.testing.assert_array_equal(trace.currents[site], current)
        spikes = np.asarray(trace.spikes[site], np.float64)
        at_site = mode if isinstance(mode, str) else mode[site]
        if at_site in ("baseline", "shuffle"):
            v, fired = np.full(current[0].shape, theta / 2), np.zeros(current[0].shape)
            for t in range(T):
                v = v + current[t]
                np.testing.assert_array_equal(trace.potentials[site][t], v)
                fired += v >= theta
                v = v - theta * (v >= theta)
            np.testing.assert_array_equal(spikes.sum(axis=0), fired)
        else:
            v = current.sum(axis=0)
            before = np.cumsum(spikes, axis=0) - spikes
            np.testing.assert_allclose(trace.potentials[site], v - theta * before, rtol=1e-6, atol=1e-6)
            u = np.clip(v / theta, 0, T)
            assert (np.abs(spikes.sum(axis=0) - u) < 1).all()
        assert len(np.unique(spikes.sum(axis=0))) > 2
        current = theta * spikes
    kernel, bias = layer(network, "head")
    logits = current @ kernel + bias
    np.testing.assert_array_equal(trace.logits, logits)


def silent(n, bias):
    """`n` neurons with a threshold of 1 and `bias` for their only input."""
    network = traced(Mlp(QCFS(L=4), widths=(n,)))
    weights = jax.tree.map(np.zeros_like, network.weights)
    weights["params/dense0/bias"] += np.float32(bias)
    return network.replace(weights=weights, thetas={"dense0": np.float32(1)})


@pytest.mark.parametrize("mode", [Shuffle(v_init=0.01), Unbiased(), Shuffle(v_init=0.01, shared=True)], ids=str)
def test_spikes_fall_on_all_steps_alike_and_independently(mode):
    """For 2,000 neurons of equal input: the mean of every step, and of every two, at 5 sigma; one order, if shared."""
    n, T, count = 2000, 6, 2
    snn = convert.to_snn(silent(n, count / T), T=T, mode=mode)
    spikes = np.asarray(snn.trace(images(2), KEY).spikes["dense0"], np.float64)
    assert (spikes.sum(axis=0) == count).all()
    if mode == Shuffle(v_init=0.01, shared=True):
        assert (spikes == spikes[..., :1]).all()
        return
    together = np.einsum("abn,cbn->ac", spikes, spikes) / (2 * n)
    p, both = count / T, count * (count - 1) / (T * (T - 1))
    expected = np.where(np.eye(T), p, both)
    assert (np.abs(together - expected) < 5 * np.sqrt(expected * (1 - expected) / (2 * n))).all()
    between = np.corrcoef(spikes[:, 0].ravel(), spikes[:, 1].ravel())[0, 1]  # two examples
    assert abs(between) < 5 / np.sqrt(T * n)


def test_more_examples_than_fit_at_once_are_run_in_lots(monkeypatch):
    network = cnn()
    snn = convert.to_snn(network, T=4, mode="shuffle")
    together = snn.activity(images(7, (4, 4, 1)), KEY)
    monkeypatch.setattr("tppjax.sharding.budget", lambda: 3 * 20 * (4 * 4 * 4 + 2 * 2 * 4))
    assert snn.batch_size() == 3
    jax.tree.map(np.testing.assert_array_equal, together, snn.activity(images(7, (4, 4, 1)), KEY))


@pytest.mark.parametrize("T", [8, 41, 55])
def test_rounded_loses_no_spike_step_by_step(T):
    network = mlp()
    snn = convert.to_snn(network, T=T, mode="rounded")
    fired = snn.trace(images(30)).spikes["dense0"].sum(axis=0)
    np.testing.assert_array_equal(fired, snn.activity(images(30))[1]["dense0"])


@pytest.mark.parametrize("mode", ["baseline", "shuffle"])
def test_memory_does_not_grow_with_T(mode):
    network = cnn()
    sizes = []
    for T in (8, 512):
        snn = convert.to_snn(network, T=T, mode=mode)
        compiled = jax.jit(convert.Snn.activity).lower(snn, images(64, (4, 4, 1)), KEY).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[0] > 0
    assert sizes[1] <= 1.1 * sizes[0]


@pytest.mark.parametrize("mode", ["baseline", "shuffle"])
def test_each_layer_is_computed_once_a_step_and_the_first_once_in_all(mode):
    """In `shuffle` the network runs over time once for each site; only the layer that feeds it is needed."""
    snn = convert.to_snn(cnn((8, 8, 1)), T=8, mode=mode)
    text = jax.jit(convert.Snn.apply).lower(snn, images(3, (8, 8, 1)), KEY).compile().as_text()
    assert len(re.findall(r"= \S+ convolution\(", text)) == 2
    outside_the_loops = text[text.index("\nENTRY ") :]
    assert len(re.findall(r"= \S+ convolution\(", outside_the_loops)) == 1


@pytest.mark.parametrize(
    ("n", "chunk_size", "shape"), [(50, 44, (2, 25)), (7, 3, (3, 3)), (101, 50, (3, 34)), (5, 1, (5, 1))]
)
def test_chunks_are_even(n, chunk_size, shape):
    """So that two lots are not paid where one example more than fits is run."""
    chunks = stepped.chunks(n, chunk_size)
    assert chunks.shape == shape
    np.testing.assert_array_equal(np.minimum(np.arange(chunks.size), n - 1), chunks.ravel())

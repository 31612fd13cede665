"""Networks run step by step: every spike and potential against plain loops, and what the runs cost."""

import re

import jax
import numpy as np
import pytest

import convert
from convert import steps
from tests.convert.networks import cnn, exact, images, mlp

KEY = jax.random.key(11)


@pytest.mark.parametrize(("v_init", "shift"), [(0.5, 0.0), (0.0, 0.0), (0.0, 0.5)])
def test_baseline_is_a_plain_loop(v_init, shift):
    """Algorithm 1 layer by layer in float64; every spike, potential and logit. RTS adds theta/2 over the T steps."""
    variables, model = mlp()
    T, x = 8, images(9)
    params = variables["params"]
    v = {i: np.full((9, w), v_init * params[f"act{i}"]["theta"]) for i, w in enumerate(model.widths)}
    trace = convert.to_snn(variables, T=T, mode="baseline", model=model, v_init=v_init, shift=shift).trace(x)
    fired = 0
    for t in range(T):
        s = x.reshape(9, -1).astype(np.float64)
        for i in range(len(model.widths)):
            theta = params[f"act{i}"]["theta"]
            v[i] += s @ params[f"dense{i}"]["kernel"] + params[f"dense{i}"]["bias"] + shift * theta / T
            np.testing.assert_array_equal(trace.potentials[f"act{i}"][t], v[i])
            spikes = v[i] >= theta
            np.testing.assert_array_equal(trace.spikes[f"act{i}"][t], spikes)
            v[i] -= theta * spikes
            s = theta * spikes
            fired += spikes.sum()
        np.testing.assert_array_equal(trace.logits[t], s @ params["head"]["kernel"] + params["head"]["bias"])
    assert 0 < fired < T * 9 * sum(model.widths)


def test_apply_is_the_mean_over_time():
    variables, model = mlp()
    for mode in ("baseline", "shuffle"):
        snn = convert.to_snn(variables, T=5, mode=mode, model=model)
        np.testing.assert_allclose(snn.apply(images(4), KEY), snn.trace(images(4), KEY).logits.mean(axis=0), rtol=1e-6)


def test_shuffle_moves_spikes_and_keeps_counts():
    variables, model = mlp()
    x = images(50)
    baseline = convert.to_snn(variables, T=8, mode="baseline", model=model).trace(x)
    for shared in (False, True):
        shuffled = convert.to_snn(variables, T=8, mode="shuffle", model=model, shared_order=shared).trace(x, KEY)
        before, after = baseline.spikes["act0"], shuffled.spikes["act0"]
        np.testing.assert_array_equal(after.sum(axis=0), before.sum(axis=0))
        assert (after != before).any()
        # Whether what all neurons did at one step stays together, in every example.
        together = [np.sort(np.asarray(a) @ 2.0 ** np.arange(6), axis=0) for a in (before, after)]
        assert shared == np.array_equal(*together)


def test_a_given_order_at_every_layer():
    """Layer by layer in NumPy: every neuron integrates and fires, then the layer's steps change places."""
    variables, model = mlp()
    T, order, params = 5, [3, 0, 4, 1, 2], variables["params"]
    current = np.broadcast_to(images(30).reshape(30, -1), (T, 30, 8)).astype(np.float64)
    for i in range(2):
        current = current @ params[f"dense{i}"]["kernel"] + params[f"dense{i}"]["bias"]
        theta = params[f"act{i}"]["theta"]
        v, spikes = np.full(current[0].shape, theta / 2), np.zeros(current.shape)
        for t in range(T):
            v = v + current[t]
            spikes[t] = v >= theta
            v = v - theta * spikes[t]
        current = theta * spikes[order]
    logits = current @ params["head"]["kernel"] + params["head"]["bias"]
    snn = convert.to_snn(variables, T=T, mode="shuffle", model=model, order=order)
    assert not snn.random
    np.testing.assert_array_equal(snn.trace(images(30)).logits, logits)
    np.testing.assert_allclose(snn.apply(images(30)), logits.mean(axis=0), rtol=1e-6)
    as_given = convert.to_snn(variables, T=T, mode="shuffle", model=model, order=range(T)).apply(images(30))
    np.testing.assert_array_equal(
        as_given, convert.to_snn(variables, T=T, mode="baseline", model=model).apply(images(30))
    )
    assert not np.array_equal(as_given, snn.apply(images(30)))
    mixed = convert.to_snn(variables, T, {"act0": "shuffle", "act1": "tpp"}, model=model, order=order)
    assert mixed.random


def test_one_compilation_serves_every_order():
    variables, model = mlp()
    runs = []

    @jax.jit
    def run(snn):
        runs.append(1)
        return snn.apply(images(2))

    for order in ([0, 1, 2], [2, 1, 0], (1, 2, 0)):
        run(convert.to_snn(variables, T=3, mode="shuffle", model=model, order=order))
    assert len(runs) == 1


@pytest.mark.parametrize("mode", ["shuffle", "tpp", "unbiased", "rounded", {"act0": "tpp", "act1": "baseline"}])
def test_every_site_does_what_its_input_says(mode):
    """From the spikes that one site sent on, the next one's potentials in float64, and what it may fire of them."""
    variables, model = mlp()
    T, params = 6, variables["params"]
    trace = convert.to_snn(variables, T=T, mode=mode, model=model).trace(images(30), KEY)
    current = np.broadcast_to(images(30).reshape(30, -1), (T, 30, 8)).astype(np.float64)
    for i in range(2):
        current = current @ params[f"dense{i}"]["kernel"] + params[f"dense{i}"]["bias"]
        np.testing.assert_array_equal(trace.currents[f"act{i}"], current)
        theta, spikes = params[f"act{i}"]["theta"], np.asarray(trace.spikes[f"act{i}"], np.float64)
        at_site = mode if isinstance(mode, str) else mode[f"act{i}"]
        if at_site in ("baseline", "shuffle"):
            v, fired = np.full(current[0].shape, theta / 2), np.zeros(current[0].shape)
            for t in range(T):
                v = v + current[t]
                np.testing.assert_array_equal(trace.potentials[f"act{i}"][t], v)
                fired += v >= theta
                v = v - theta * (v >= theta)
            np.testing.assert_array_equal(spikes.sum(axis=0), fired)
        else:
            v = current.sum(axis=0)
            before = np.cumsum(spikes, axis=0) - spikes
            np.testing.assert_allclose(trace.potentials[f"act{i}"], v - theta * before, rtol=1e-6, atol=1e-6)
            u = np.clip(v / theta, 0, T)
            assert (np.abs(spikes.sum(axis=0) - u) < 1).all()
        assert len(np.unique(spikes.sum(axis=0))) > 2
        current = theta * spikes
    logits = current @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_array_equal(trace.logits, logits)


@pytest.mark.parametrize("mode", ["shuffle", "unbiased", "shared"])
def test_spikes_fall_on_all_steps_alike_and_independently(mode):
    """For 2,000 neurons of equal input: the mean of every step, and of every two, at 5 sigma; one order, if shared."""
    n, T, count = 2000, 6, 2
    model = mlp()[1].clone(widths=(n,))
    abstract = jax.eval_shape(model.init, KEY, images(1))["params"]
    zero = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), abstract)
    zero["dense0"]["bias"] += np.float32(count / T)
    zero["act0"]["theta"] += np.float32(1)
    options = {"mode": "shuffle", "shared_order": True} if mode == "shared" else {"mode": mode}
    snn = convert.to_snn({"params": zero}, T=T, model=model, v_init=0.01, **options)
    spikes = np.asarray(snn.trace(images(2), KEY).spikes["act0"], np.float64)
    assert (spikes.sum(axis=0) == count).all()
    if mode == "shared":
        assert (spikes == spikes[..., :1]).all()
        return
    together = np.einsum("abn,cbn->ac", spikes, spikes) / (2 * n)
    p, both = count / T, count * (count - 1) / (T * (T - 1))
    expected = np.where(np.eye(T), p, both)
    assert (np.abs(together - expected) < 5 * np.sqrt(expected * (1 - expected) / (2 * n))).all()
    between = np.corrcoef(spikes[:, 0].ravel(), spikes[:, 1].ravel())[0, 1]  # two examples
    assert abs(between) < 5 / np.sqrt(T * n)


def test_more_examples_than_fit_at_once_are_run_in_lots(monkeypatch):
    variables, model = cnn()
    snn = convert.to_snn(variables, T=4, mode="shuffle", model=model)
    together = snn.activity(images(7, (4, 4, 1)), KEY)
    monkeypatch.setattr("tppjax.sharding.budget", lambda: 3 * 16 * (4 * 4 * 4 + 2 * 2 * 4))
    assert snn.batch_size((4, 4, 1)) == 3
    jax.tree.map(np.testing.assert_array_equal, together, snn.activity(images(7, (4, 4, 1)), KEY))


@pytest.mark.parametrize("T", [8, 41, 55])
def test_rounded_loses_no_spike_step_by_step(T):
    variables, model = mlp()
    snn = convert.to_snn(variables, T=T, mode="rounded", model=model)
    fired = snn.trace(images(30)).spikes["act0"].sum(axis=0)
    np.testing.assert_array_equal(fired, snn.activity(images(30))[1]["act0"])


@pytest.mark.parametrize("mode", ["baseline", "shuffle"])
def test_memory_does_not_grow_with_T(mode):
    variables, model = cnn()
    sizes = []
    for T in (8, 512):
        snn = convert.to_snn(variables, T=T, mode=mode, model=model)
        compiled = jax.jit(convert.Snn.activity).lower(snn, images(64, (4, 4, 1)), KEY).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[0] > 0
    assert sizes[1] <= 1.1 * sizes[0]


@pytest.mark.parametrize("mode", ["baseline", "shuffle"])
def test_each_layer_is_computed_once_a_step_and_the_first_once_in_all(mode):
    """In `shuffle` the network runs over time once for each site; all but the layer that feeds it is dead code."""
    _, model = cnn()
    snn = convert.to_snn(exact(model, (8, 8, 1)), T=8, mode=mode, model=model)
    text = jax.jit(convert.Snn.apply).lower(snn, images(3, (8, 8, 1)), KEY).compile().as_text()
    assert len(re.findall(r"= \S+ convolution\(", text)) == 2
    outside_the_loops = text[text.index("\nENTRY ") :]
    assert len(re.findall(r"= \S+ convolution\(", outside_the_loops)) == 1


@pytest.mark.parametrize(
    ("n", "at_once", "shape"), [(50, 44, (2, 25)), (7, 3, (3, 3)), (101, 50, (3, 34)), (5, 1, (5, 1))]
)
def test_lots_are_even(n, at_once, shape):
    """So that two lots are not paid where one example more than fits is run."""
    lots = steps.lots(n, at_once)
    assert lots.shape == shape
    np.testing.assert_array_equal(np.minimum(np.arange(lots.size), n - 1), lots.ravel())

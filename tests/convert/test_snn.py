"""The converted network: against the ANN, folded against step by step, its noise, devices and conversion."""

import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from tests.convert.networks import Mlp, Pooled, cnn, exact, images, mlp, traced
from tppjax import activations, ann, models, prng, sharding
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.graph import Graph
from tppjax.neurons import Baseline

KEY = jax.random.key(11)


def test_rounded_at_T_equal_to_L_is_the_qcfs_network_on_every_digit(digits_ann, digits_test):
    snn = convert.to_snn(digits_ann, T=8, mode="rounded")
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(ann.Ann.apply)(digits_ann, digits_test.images)
        logits = jax.jit(convert.Snn.apply)(snn, digits_test.images)
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_rounded_folded_is_rounded_step_by_step_exactly(make):
    network = make()
    x = images(16, (2, 2, 2) if make is mlp else (4, 4, 1))
    snn = convert.to_snn(network, T=8, mode="rounded")
    logits, counts = snn.activity(x)
    trace = snn.trace(x)
    np.testing.assert_array_equal(trace.logits.mean(axis=0), logits)
    assert list(trace.spikes) == list(counts)
    for site, spikes in trace.spikes.items():
        np.testing.assert_array_equal(spikes.sum(axis=0), counts[site])
        assert len(np.unique(counts[site])) > 2


@pytest.mark.parametrize("mode", ["tpp", "unbiased", {"dense0": "tpp", "dense1": "rounded"}])
def test_folded_and_time_resolved_agree_in_law(mode):
    """Means and variances of every logit and count over 4,000 seeds, at 5 sigma."""
    network = mlp()
    snn, x, n = convert.to_snn(network, T=4, mode=mode), images(3), 4000
    keys = jax.random.split(KEY, (2, n))
    folded = jax.jit(jax.vmap(lambda key: snn.activity(x, key)))(keys[0])

    def step_by_step(key):
        trace = snn.trace(x, key)
        return trace.logits.mean(axis=0), {site: s.sum(axis=0) for site, s in trace.spikes.items()}

    stepped = jax.jit(jax.vmap(step_by_step))(keys[1])
    random = 0
    for a, b in zip(jax.tree.leaves(folded), jax.tree.leaves(stepped), strict=True):
        for power in (1, 2):
            a_p, b_p = np.asarray(a, np.float64) ** power, np.asarray(b, np.float64) ** power
            sigma = np.sqrt((a_p.var(axis=0) + b_p.var(axis=0)) / n)
            random += (sigma > 0).sum()
            assert (np.abs(a_p.mean(axis=0) - b_p.mean(axis=0)) <= 5 * sigma + 1e-6).all()
    assert random > 20


@pytest.mark.parametrize(("act", "beginning"), [(QCFS(L=4), (0.5, 0)), (ClippedReLU(), (0, 0.5)), (ReLU(), (0, 0.5))])
def test_baselines_begin_as_their_authors_have_it(act, beginning):
    network = mlp(act)
    network = network.replace(thetas=dict.fromkeys(network.sites, np.float32(1)))
    found = [convert.to_snn(network, 4, mode).trace(images(9)) for mode in ("baseline", Baseline(*beginning))]
    jax.tree.map(np.testing.assert_array_equal, *found)
    assert Baseline(v_init=0.25).at({"relu"}) == Baseline(v_init=0.25, shift=0.0)
    with pytest.raises(ValueError, match="shift must be a finite number; got nan"):
        Baseline(shift=float("nan"))


@pytest.mark.parametrize("mode", ["shuffle", "tpp", "unbiased"])
def test_an_examples_noise_is_its_own(mode):
    """The same in a batch, alone, at another place, with jit and without; other with another key."""
    network = mlp()
    snn, x = convert.to_snn(network, T=8, mode=mode), images(6)
    keys = convert.example_keys(KEY, np.arange(6))
    together = snn.activity(x, KEY)[1]
    apart = [snn.activity(x[i : i + 1], keys[i : i + 1])[1] for i in range(6)]
    order = np.array([3, 0, 5])
    compiled = jax.jit(snn.activity)(x[order], keys[order])[1]
    for site, counts in together.items():
        np.testing.assert_array_equal(counts, np.concatenate([a[site] for a in apart]))
        np.testing.assert_array_equal(counts[order], compiled[site])
    other = snn.activity(x, jax.random.key(12))[1]
    assert any((other[site] != together[site]).any() for site in other)


def test_sites_and_examples_draw_independently():
    """Two sites of one shape, and two equal images, get different noise."""
    model = Mlp(QCFS(L=4), widths=(400, 400))
    variables = model.init(jax.random.key(0), images(1))
    zero = jax.tree.map(jnp.zeros_like, variables["params"])
    for i in range(2):
        zero[f"dense{i}"]["bias"] = jnp.full(400, 0.5 / 4)
        zero[f"act{i}"]["theta"] = jnp.array(1.0)
    snn = convert.to_snn((model, {"params": zero}), T=4, mode="unbiased", example=images(1))
    counts = snn.activity(np.zeros((2, 2, 2, 2), np.float32), KEY)[1]
    drawn = np.stack([counts["dense0"][0], counts["dense0"][1], counts["dense1"][0], counts["dense1"][1]])
    assert (np.abs(np.corrcoef(drawn) - np.eye(4)) < 5 / np.sqrt(400)).all()


FOUR_DEVICES = """
import jax, numpy as np, convert
from tests.convert.networks import images, mlp
from tppjax import sharding
assert jax.device_count() == {devices}
network = mlp()
snn, x = convert.to_snn(network, T=8, mode="tpp"), images(8)
keys = jax.vmap(jax.random.key)(np.arange(6, dtype=np.uint32))
seeds = sharding.sweep(convert.Snn.activity, keys, snn, x)[1]
by_example = [sharding.split(a, sharding.device_mesh()) for a in (x, convert.example_keys(keys[0], np.arange(8)))]
examples = jax.jit(snn.activity)(*by_example)[1]
def activity(snn, x, index, key):
    return snn.activity(x, convert.example_keys(key, index))[1]
both = sharding.sweep(activity, keys, snn, x, np.arange(8), examples=(1, 2))
assert {{len(a.sharding.device_set) for a in both.values()}} == {{{devices}}}
drawn = {{"seeds": seeds, "examples": examples, "both": both}}
np.savez({file!r}, **{{f"{{over}} {{site}}": v for over, sites in drawn.items() for site, v in sites.items()}})
"""


@pytest.mark.slow
def test_draws_are_the_same_on_four_devices(tmp_path):
    """Seeds spread over devices by `sweep`, examples, or both (6 seeds on 2 x 2); in processes of their own."""
    drawn = []
    for devices in (1, 4):
        file = str(tmp_path / f"{devices}.npz")
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        code = FOUR_DEVICES.format(devices=devices, file=file)
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "XLA_FLAGS": flags}, check=True)
        drawn.append(dict(np.load(file)))
    assert drawn[0].keys() == drawn[1].keys()
    for name, counts in drawn[0].items():
        np.testing.assert_array_equal(counts, drawn[1][name])
    np.testing.assert_array_equal(drawn[0]["seeds dense0"][0], drawn[0]["examples dense0"])
    np.testing.assert_array_equal(drawn[0]["seeds dense1"], drawn[0]["both dense1"])
    assert (drawn[0]["seeds dense0"][0] != drawn[0]["seeds dense0"][1]).any()


def test_sweep_over_seeds_is_vmap_over_keys():
    network = mlp()
    snn, x = convert.to_snn(network, T=8, mode="tpp"), images(4)
    keys = jax.random.split(KEY, 3)
    expected = jax.vmap(snn.apply, (None, 0))(x, keys)
    np.testing.assert_allclose(sharding.sweep(convert.Snn.apply, keys, snn, x), expected, rtol=1e-6)


def test_two_conversions_share_one_trace(digits_ann, digits_test):
    traces = []

    @jax.jit
    def run(snn, x, key):
        traces.append(snn.T)
        return snn.apply(x, key)

    for _ in range(2):
        run(convert.to_snn(digits_ann, T=4, mode="tpp"), digits_test.images[:5], KEY)
    assert traces == [4]


@pytest.mark.parametrize("mode", ["tpp", "rounded", "unbiased"])
def test_one_compilation_serves_every_T(mode):
    network = cnn()
    traces, x = [], images(8, (4, 4, 1))

    @jax.jit
    def run(snn, x, key):
        traces.append(mode)
        return snn.activity(x, key)

    for T in (1, 4, 8, 32):  # powers of two: others may round a tie differently
        snn = convert.to_snn(network, T=T, mode=mode)
        (logits, counts), (own_logits, own_counts) = run(snn.for_any_T(), x, KEY), jax.jit(snn.activity)(x, KEY)
        jax.tree.map(np.testing.assert_array_equal, counts, own_counts)
        np.testing.assert_allclose(logits, own_logits, rtol=1e-6, atol=1e-6)
    assert traces == [mode]
    with pytest.raises(ValueError, match="a network for any T has no number of steps"):
        snn.for_any_T().trace(x, KEY)
    baseline = convert.to_snn(network, T=4, mode="baseline")
    assert baseline.for_any_T() is baseline


def test_each_site_draws_once():
    """In a residual network several layers read what a site sends; each could draw it anew, at the same value."""
    model = models.create("resnet20", 3, QCFS(L=4), blocks=(2, 1), channels=4, shortcut="pad")
    snn = convert.to_snn(traced(model, (8, 8, 1)), T=8, mode="tpp")
    key = jax.random.key(0, impl=prng.HASH)
    text = jax.jit(convert.Snn.activity).lower(snn, images(3, (8, 8, 1)), key).compile().as_text()
    drawing = [part for part in text.split("\n\n") if f"constant({0x7FEB352D})" in part]
    assert len(drawing) == len(snn.network.sites) == 7


def test_conversion_changes_and_copies_nothing(digits_ann):
    snn = convert.to_snn(digits_ann, T=4, mode="tpp")
    kernel = digits_ann.variables["params"]["conv1_1"]["kernel"]
    assert snn.network.weights["params/conv1_1/kernel"] is kernel
    assert (snn.T, snn.mode, snn.random) == (4, "tpp", True)
    assert not convert.to_snn(digits_ann, T=4, mode="rounded").random


def test_a_relu_network_of_ones_own():
    """Calibrated, corrected, converted and reported on."""
    own, x = mlp(ReLU()), images(40)
    with pytest.raises(ValueError, match="no threshold at dense0, dense1: ReLU learns none"):
        convert.to_snn(own)
    ready = convert.correct(convert.calibrate(own, x, T=32, mode="rounded"), x, T=32, mode="rounded")
    snn = convert.to_snn(ready, 32, "rounded")
    found = convert.report(snn, x, ann=own)
    assert [row.site for row in found.rows] == ["dense0", "dense1"]
    assert found.rows[-1].departure < 0.05
    np.testing.assert_allclose(snn.apply(x), own.apply(x), atol=0.1 * float(jnp.abs(own.apply(x)).max()))


def test_max_pool_then_fire():
    """The ANN's max-pool exactly at T = L; folded and step by step the same."""
    model, x = Pooled(QCFS(L=4)), images(20, (4, 4, 1))
    variables = exact(model, (4, 4, 1))
    theta = variables["params"]["act1"]["theta"]
    preactivation = nn.Conv(4, (3, 3)).apply({"params": variables["params"]["conv"]}, x)
    afterwards = nn.max_pool(activations.qcfs(preactivation, theta, 4), (2, 2), (2, 2))
    network = convert.trace((model, variables), x)
    snn = convert.to_snn(network, T=4, mode="rounded")
    logits, counts = snn.activity(x)
    np.testing.assert_array_equal(theta * counts["conv"] / 4, afterwards)
    np.testing.assert_array_equal(logits, model.apply(variables, x))
    trace = snn.trace(x)
    np.testing.assert_array_equal(trace.spikes["conv"].sum(axis=0), counts["conv"])
    np.testing.assert_array_equal(trace.logits.mean(axis=0), logits)
    tpp = convert.to_snn(network, T=4, mode="tpp")
    assert tpp.apply(x, KEY).shape == (20, 3)


@pytest.mark.parametrize("mode", ["tpp", "shuffle"])
def test_equal_networks_share_compilations(mode, monkeypatch):
    """Whatever the weights, by plain calls; and folded ones of every T."""
    runs = []
    original = Graph.run
    monkeypatch.setattr(Graph, "run", lambda *args, **options: runs.append(1) or original(*args, **options))
    model, x = Mlp(QCFS(L=4), widths=(7, 5)), images(2)

    def converted(seed, T=4):
        return convert.to_snn((model, model.init(jax.random.key(seed), x)), T, mode, example=x)

    first, second = converted(0), converted(1)
    calls = (convert.Snn.apply, convert.Snn.activity, convert.Snn.trace)
    for call in calls:
        call(first, x, KEY)
    runs.clear()
    for call in calls:
        call(second, x, jax.random.key(3, impl="rbg"))
    assert runs == []
    convert.to_snn(first.network, 8, mode).apply(x, KEY)
    assert bool(runs) == (mode == "shuffle")
    assert repr(first) == f"Snn(Network(2 sites, 2 thresholds, 123 parameters), mode='{mode}', T=4)"
    assert len(repr(jax.tree.map(lambda leaf: None, first))) < 200


@pytest.mark.parametrize("mode", ["tpp", "unbiased", "shuffle"])
def test_every_kind_of_key_draws_alike_however_it_is_called(mode):
    network = mlp()
    snn, x = convert.to_snn(network, T=8, mode=mode), images(5)
    expected = snn.activity(x, jax.random.key(11, impl=prng.HASH))[1]
    rbg = jax.random.split(jax.random.key(11, impl="unsafe_rbg"), 2)
    one = snn.activity(x, rbg[0])[1]
    over_keys = jax.vmap(snn.activity, (None, 0))
    called = {
        "threefry": (snn.activity(x, KEY)[1], expected),
        "compiled": (jax.jit(convert.Snn.activity)(snn, x, KEY)[1], expected),
        "mapped": (over_keys(x, KEY[None])[1], {site: a[None] for site, a in expected.items()}),
        "rbg by example": (snn.activity(x, convert.example_keys(rbg[0], np.arange(5)))[1], one),
        "rbg mapped": ({site: a[0] for site, a in over_keys(x, rbg)[1].items()}, one),
    }
    for how, (found, wanted) in called.items():
        for site in wanted:
            np.testing.assert_array_equal(found[site], wanted[site], err_msg=how)
    assert any((one[site] != expected[site]).any() for site in one)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("tpp", ([65, 89, 46, 54, 68], [88, 80, 40, 88, 80])),
        ("unbiased", ([65, 89, 46, 60, 67], [88, 80, 40, 88, 80])),
        ("shuffle", ([65, 84, 46, 60, 67], [91, 80, 48, 92, 84])),
    ],
)
def test_what_seed_0_draws_stays(mode, expected):
    """Spikes by neuron and example, the neurons weighted by 1, 2, ...: published figures can be had again."""
    network = mlp()
    counts = convert.to_snn(network, T=8, mode=mode).activity(images(5), jax.random.key(0))[1]
    for site, wanted in zip(("dense0", "dense1"), expected, strict=True):
        assert (counts[site] @ np.arange(1, counts[site].shape[1] + 1)).tolist() == wanted

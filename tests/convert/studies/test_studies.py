"""Each study against a computation in plain NumPy on a small network."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from convert.energy import additions
from convert.studies import (
    accuracy,
    anytime,
    early_exit,
    methods,
    misalignment,
    orders,
    potentials,
    single_layer,
    spikes,
    theorem,
)
from tests.convert.conftest import SHAPE, N
from tests.convert.studies.plain import SITES, convolve, integrate_and_fire, pool
from tppjax import models, prng
from tppjax.activations import QCFS


def rows_of(name, out):
    return json.loads((out / name / "results.json").read_text())["rows"]


def percent(logits, labels):
    return 100 * np.mean(logits.argmax(-1) == labels)


def drawn(known, T, mode, seed):
    """What a seed drew: the trace of the SNN."""
    _, x, _, network = known
    key = jax.random.key(np.uint32(seed), impl=prng.HASH)
    return convert.to_snn(network, T, mode).trace(x.astype("f4"), convert.example_keys(key, np.arange(N)))


@pytest.mark.slow
def test_anytime(setup, known, tmp_path):
    section = anytime.main(anytime.Anytime(**setup, T=(2, 4), out=tmp_path))
    plain, x, labels, _ = known
    rows = {(r["mode"], r["T"]): r for r in rows_of("anytime", tmp_path)}
    assert len(rows) == 6
    logits = plain.run(x, 4)[0]
    by_hand = [percent(logits[:t].sum(axis=0), labels) for t in (1, 2, 3, 4)]
    np.testing.assert_allclose(np.ravel(rows["baseline", 4]["accuracy"]), by_hand)
    assert len(set(by_hand)) > 1
    for mode, seed in itertools.product(("shuffle", "tpp"), (0, 1)):
        sent = np.asarray(drawn(known, 4, mode, seed).spikes[SITES[1]], np.float64)
        logits = plain.logits(plain.thetas[1] * sent)
        for t in (1, 2, 3, 4):
            assert rows[mode, 4]["accuracy"][t - 1][seed] == pytest.approx(percent(logits[:t].sum(axis=0), labels))
    assert f"{by_hand[-1]:.2f}" in section.text


@pytest.mark.slow
def test_methods(setup, known, tmp_path):
    """Accuracy lost, spikes and latency of methods of each kind against plain NumPy, on the images asked for."""
    names = ("baseline(v_init=0.5)", "graded(levels=2)", "srp(tau=2)", "baseline+steps", "tpp", "burst(v_init=1e+16)")
    options = methods.Methods(**setup, methods=names, T=(2, 2), limit_stepped=40, out=tmp_path)
    section = methods.main(options)
    plain, x, labels, network = known
    rows = {r["method"]: r for r in rows_of("methods", tmp_path)}
    assert {name: (r["n"], r["latency"]) for name, r in rows.items()} == {
        "baseline(v_init=0.5)": (40, 2), "srp(tau=2)": (40, 4), "baseline+steps": (40, 2),
        "graded(levels=2)": (60, 6), "tpp": (60, 6), "burst(v_init=1e+16)": (40, 2),
    }  # fmt: skip
    logits, _, _, sent = plain.run(x[:40], 2)
    found = rows["baseline(v_init=0.5)"]
    assert found["accuracy"] == [pytest.approx(percent(logits.mean(axis=0), labels[:40]))]
    neurons = sum(s[0, 0].size for s in sent)
    assert found["spikes_per_neuron"] == pytest.approx(sum(s.sum() for s in sent) / 40 / neurons)
    assert found["ann"] == pytest.approx(percent(np.asarray(network.apply(x[:40].astype("f4"))), labels[:40]))
    snn = convert.to_snn(network, 4, "rounded")
    assert rows["graded(levels=2)"]["accuracy"] == [
        pytest.approx(percent(np.asarray(snn.apply(x.astype("f4"))), labels))
    ]
    assert rows["baseline+steps"]["history"][-1].startswith("offsets of each step (FTBC) corrected")
    assert len(rows["tpp"]["accuracy"]) == 2
    lost = f"{found['ann'] - found['accuracy'][0]:.2f}"
    assert f"| `baseline(v_init=0.5)` | OPI, AAAI 2022; QCFS, ICLR 2022 | 1 | 40 | {lost} |" in section.text
    again = methods.main(dataclasses.replace(options, methods=names[:1]))
    assert again.text.count("`baseline(v_init=0.5)`") >= 2
    with pytest.raises(ValueError, match=r"unknown method 'half'; known: bias, weights, rates"):
        methods.main(dataclasses.replace(options, methods=("tpp+half",)))


def test_corrections_of_a_corrected_network_are_refused_at_once(setup, known, tmp_path):
    _, x, _, network = known
    corrected = convert.correct(network, x[:8].astype("f4"), T=2, mode="rounded", method="weights")
    corrected.save(tmp_path / "corrected")
    options = methods.Methods(**{**setup, "ann": tmp_path / "corrected"}, methods=("tpp", "rounded+weights"), T=(2,))
    with pytest.raises(ValueError, match="the network's weights were corrected"):
        methods.main(dataclasses.replace(options, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_early_exit(setup, known, tmp_path):
    """Where an image leaves, and what that costs, from the outputs of every step in NumPy."""
    section = anytime.main(
        anytime.Anytime(**setup, modes=("baseline", "rounded"), T=(1, 4), exit="confidence", out=tmp_path)
    )
    plain, x, labels, network = known
    rows = {r["mode"]: r for r in rows_of("early_exit", tmp_path)}
    logits = np.cumsum(plain.run(x, 4)[0], axis=0) / np.arange(1, 5).reshape(-1, 1, 1)
    folded = np.stack([np.asarray(convert.to_snn(network, T, "rounded").apply(x.astype("f4"))) for T in (1, 4)])
    for mode, outputs, cost in (("baseline", logits, np.array([1, 2, 3, 4])), ("rounded", folded, np.array([1, 5]))):
        sure = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
        sure = (sure / sure.sum(axis=-1, keepdims=True)).max(axis=-1)
        assert rows[mode]["steps"] == cost.tolist()
        for exit in rows[mode]["exits"]:
            enough = sure.T >= exit["threshold"] - 1e-6
            last = [int(e.argmax()) if e[:-1].any() else len(cost) - 1 for e in enough]
            right = [outputs[i, n].argmax() == labels[n] for n, i in enumerate(last)]
            assert exit["accuracy"] == pytest.approx(100 * np.mean(right))
            assert exit["steps"] == pytest.approx(cost[last].mean())
    right, sure = np.array([[[False, False, False, True]]]), np.array([[[0.9, 0.8, 0.7, 0.6]]])
    never = early_exit.Readings(right, sure, np.arange(1, 5))
    assert never.threshold(0.0) == early_exit.NEVER  # which JSON has, unlike infinity
    assert never.exit(early_exit.NEVER) == (100, 4)
    costs = [exit["steps"] for exit in rows["baseline"]["exits"]]
    assert costs == sorted(costs, reverse=True)
    assert "the steps of all these runs are counted" in section.text
    options = anytime.Anytime(**setup, modes=("baseline", "rounded"), T=(4, 1), exit="confidence", out=tmp_path)
    assert anytime.main(options).text == section.text  # the order of T changes nothing


def test_orders(setup, known, tmp_path):
    orders.main(orders.Orders(**setup, T=3, T_pairs=5, samples=2, out=tmp_path))
    plain, x, labels, _ = known
    rows = rows_of("orders", tmp_path)
    of_pairs = [r for r in rows if "fixed" in r]
    assert len(rows) == 6 + 1 + 20
    assert len(of_pairs) == 20
    assert {tuple(r["fixed"]) for r in of_pairs} == set(itertools.combinations(range(5), 2))
    for r in of_pairs:
        assert all(r["order"][t] == t for t in r["fixed"])
        assert r["order"] != [0, 1, 2, 3, 4]
    for r in rows:
        logits = plain.run(x, r["T"], lambda i, s, order=r["order"]: s[order])[0]
        assert r["accuracy"] == pytest.approx(percent(logits.mean(axis=0), labels)), r
    assert len({r["accuracy"] for r in rows if r["T"] == 3}) > 1


@pytest.mark.slow
def test_single_layer(setup, known, tmp_path):
    single_layer.main(single_layer.SingleLayer(**setup, T=4, out=tmp_path))
    plain, x, labels, _ = known
    rows = {r["site"]: r for r in rows_of("single_layer", tmp_path)}
    assert list(rows) == ["no layer", *SITES, "all layers"]
    assert rows["no layer"]["accuracy"] == [pytest.approx(percent(plain.run(x, 4)[0].mean(axis=0), labels))]
    for i, seed in itertools.product((0, 1), (0, 1)):
        mode = dict.fromkeys(SITES, "baseline") | {SITES[i]: "shuffle"}
        sent = np.asarray(drawn(known, 4, mode, seed).spikes[SITES[i]], np.float64)
        in_order = plain.run(x, 4)[3][i]
        np.testing.assert_array_equal(sent.sum(axis=0), in_order.sum(axis=0))
        assert not np.array_equal(sent, in_order)
        logits = plain.run(x, 4, lambda j, s, i=i, sent=sent: sent if j == i else s)[0]
        assert rows[SITES[i]]["accuracy"][seed] == pytest.approx(percent(logits.mean(axis=0), labels))
    gained = single_layer.gains(list(rows.values()))
    assert gained[SITES[0]] == pytest.approx(np.mean(rows[SITES[0]]["accuracy"]) - rows["no layer"]["accuracy"][0])


@pytest.mark.slow
def test_spikes(setup, known, tmp_path):
    section = spikes.main(spikes.Spikes(**setup, T=(4,), out=tmp_path))
    plain, x, _, network = known
    baseline, tpp = rows_of("spikes", tmp_path)
    counts = [s.sum(axis=0) for s in plain.run(x, 4)[3]]
    for site, count in zip(SITES, counts, strict=True):
        assert baseline["spikes"][site] == pytest.approx(count.sum() / N)
    ones = {name: np.ones_like(layer["kernel"]) for name, layer in plain.params.items() if "kernel" in layer}
    into_head = pool(counts[1]).reshape(N, -1)
    additions = {"conv1_1": 0, "conv2_1": convolve(pool(counts[0]), ones["conv2_1"]).sum() / N,
                 "head": (into_head @ ones["head"]).sum() / N}  # fmt: skip
    assert baseline["additions"] == pytest.approx(additions)
    cost = spikes.energy(convert.trace(network), [baseline])
    analog = convolve(np.ones(SHAPE), ones["conv1_1"]).sum()  # borders, where fewer weights are used, included
    assert analog == 4 * (36 * 9 + 24 * 6 + 4 * 4)
    whole = analog + convolve(np.ones((4, 4, 4)), ones["conv2_1"]).sum() + 24 * 3
    assert cost["analog"] == analog
    assert cost["ann"]["operations"] == whole
    spent = 4.6 * analog + 0.9 * sum(additions.values())
    assert cost["baseline", 4]["energy"] == pytest.approx(spent)
    recordings = dataclasses.replace(network.preprocessing, frames=3)
    for_frames = spikes.energy(convert.trace(network).replace(preprocessing=recordings), [baseline, tpp])
    assert for_frames["baseline", 4]["energy"] == pytest.approx(spent + 2 * 4.6 * analog)  # of each frame
    assert for_frames["tpp", 4]["energy"] == pytest.approx(4.6 * analog + 0.9 * sum(tpp["additions"].values()))
    found = np.mean([np.asarray(drawn(known, 4, "tpp", seed).spikes[SITES[0]]).sum() / N for seed in (0, 1)])
    assert tpp["spikes"][SITES[0]] == pytest.approx(found, rel=0.05)  # the folded network draws in another way
    percents = spikes.difference([baseline, tpp], list(baseline["spikes"]), "tpp", "baseline")[4]
    assert percents[0] == pytest.approx(100 * (tpp["spikes"][SITES[0]] / baseline["spikes"][SITES[0]] - 1))
    assert f"{spent / (4.6 * whole):.2f}" in section.text


@pytest.mark.slow
def test_operations_are_the_same_compiled():
    """XLA (jax 0.10, CPU) once added up wrongly behind a strided convolution whose kernel is a constant."""
    model = models.create("resnet20", 10, QCFS(), blocks=(1, 1, 1))
    x = jnp.zeros((1, 32, 32, 3))
    network, rng = convert.trace((model, model.init(jax.random.key(0), x)), x), np.random.default_rng(0)
    counts = {name: rng.integers(0, 5, (8, *site.shape)).astype(np.float32) for name, site in network.sites.items()}
    jax.tree.map(np.testing.assert_array_equal, jax.jit(additions)(network, counts), additions(network, counts))
    ones = {name: np.ones_like(c) for name, c in counts.items()}
    assert additions(network, ones)["stage1_block1/conv1"][0] == 16 * 16 * (30 * 30 * 9 + 4 * 30 * 6 + 4 * 4)


@pytest.mark.slow
def test_potentials(setup, known, tmp_path):
    config = potentials.Potentials(**setup, T=4, steps=(1, 4), channel=2, out=tmp_path)
    potentials.main(config)
    plain, x, _, _ = known
    rows = {r["mode"]: r["counts"] for r in rows_of("potentials", tmp_path)}
    edges = potentials.EDGES.copy()
    edges[0], edges[-1] = -np.inf, np.inf
    for i, site in enumerate(SITES):
        for j, t in enumerate((1, 4)):
            u = plain.run(x, 4)[2][i][t - 1][..., 2] / plain.thetas[i]
            np.testing.assert_allclose(
                rows["baseline"][site][j], np.histogram(u, edges)[0], atol=1
            )  # an edge may round
            assert sum(rows["baseline"][site][j]) == u.size
            assert sum(rows["tpp"][site][j]) == 2 * u.size  # seeds
    v = np.asarray(drawn(known, 4, "tpp", 0).potentials[SITES[1]])[0][..., 2] / plain.thetas[1]
    assert np.abs(v).max() > np.abs(plain.run(x, 4)[2][1][0][..., 2] / plain.thetas[1]).max()


@pytest.mark.slow
def test_misalignment(setup, known, tmp_path):
    misalignment.main(misalignment.Misalignment(**setup, T=(4, 4, 4), out=tmp_path))
    plain, x, _, _ = known
    rows = {r["mode"]: r for r in rows_of("misalignment", tmp_path)}
    for mode, seeds in (("baseline", [None]), ("shuffle", [0, 1])):
        found = {name: [] for name in misalignment.MEASURES}
        for seed in seeds:
            sent = None if seed is None else drawn(known, 4, mode, seed).spikes[SITES[0]]
            send = lambda i, s, sent=sent: s if sent is None or i else np.asarray(sent, np.float64)  # noqa: E731
            current = plain.run(x, 4, send)[1][1] / plain.thetas[1]
            ahead = np.array([current[: t + 1].sum(axis=0) - (t + 1) / 4 * current.sum(axis=0) for t in range(4)])
            fired = integrate_and_fire(current, 1.0)[0].sum(axis=0)
            even = np.broadcast_to(current.mean(axis=0), current.shape)
            wanted = integrate_and_fire(even, 1.0)[0].sum(axis=0)
            found["unevenness"].append(np.abs(ahead).max(axis=0).mean())
            found["early"].append(ahead.mean())
            found["superfluous"].append(25 * np.maximum(fired - wanted, 0).mean())
            found["missing"].append(25 * np.maximum(wanted - fired, 0).mean())
        for name, values in found.items():
            assert rows[mode][name][SITES[1]] == pytest.approx(np.mean(values), rel=1e-4, abs=1e-6), (mode, name)
            assert name == "early" or np.mean(values) > 0
        # A constant input is even.
        assert rows[mode]["unevenness"][SITES[0]] == pytest.approx(0, abs=1e-5)


@pytest.mark.slow
def test_accuracy(setup, known, tmp_path):
    section = accuracy.main(accuracy.Accuracy(**setup, T=(4,), out=tmp_path))
    plain, x, labels, _ = known
    by_hand = percent(plain.run(x, 4)[0].mean(axis=0), labels)
    assert f"| `baseline` | {by_hand:.2f} |" in section.text
    assert "None of the paper's tables has this network" in section.text
    assert rows_of("accuracy", tmp_path)[0]["command"].startswith("python -m convert.studies")
    assert {p.name for p in (tmp_path / "accuracy").iterdir()} >= {"results.json", "accuracy.csv", "accuracy.png"}


def test_theorem():
    """By all 2^T outcomes of Eq. 7, one after another."""
    T = 4
    u = np.arange(T * theorem.GRID + 1) / theorem.GRID
    mean, outside, within, beyond = np.zeros((T + 1, len(u))), [], [0], [0]
    for k, potential in enumerate(u):
        total = 0
        for outcome in itertools.product((0, 1), repeat=T):
            probability, n = 1.0, 0
            for t, s in enumerate(outcome, 1):
                p = min(max((potential - n) / (T - t + 1), 0), 1)
                if probability > 0 and potential > n:
                    said = (T - t + 1) / T * p + n / T - potential / T
                    (within if potential - n <= T - t + 1 else beyond).append(abs(said))
                probability *= p if s else 1 - p
                n += s
            for t in range(1, T + 1):
                mean[t, k] += probability * sum(outcome[:t])
            total += probability
            outside.append(probability * (n not in (np.floor(potential), np.ceil(potential))))
        assert total == pytest.approx(1)
    found = theorem.check(T, 200)
    t = np.arange(1, T + 1)[:, None]
    assert found["a_printed"] == pytest.approx(np.abs((T - t + 1) / T * mean[1:] - u / T).max())
    assert found["a_mended"] == pytest.approx(np.abs(mean[1:] / t - u / T).max())
    assert found["a_last_step"] == pytest.approx(np.abs(mean[T] / T - u / T).max())
    assert found["a_last_step"] > 0.05
    assert found["a_mended_whole_thresholds"] < 1e-12
    assert found["b_within"] == pytest.approx(max(within), abs=1e-12)
    assert found["b_within"] < 1e-12
    assert found["b_beyond"] == pytest.approx(max(beyond))
    assert found["b_beyond"] > 0.1
    assert found["c_outside"] == pytest.approx(max(outside), abs=1e-12)
    assert found["c_outside"] < 1e-12
    assert found["c_drawn_outside"] == 0
    assert 0 < found["d_ratio"] <= 1
    assert found["g_uneven"] < 1e-12
    np.testing.assert_allclose(theorem.spikes_so_far(u, T)[2] @ np.arange(T + 1), mean[2])

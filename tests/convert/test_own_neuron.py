"""Neurons defined here go through every public function and every study."""

import dataclasses
import importlib
import json
import linecache
import sys
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from convert.studies import accuracy, anytime, methods, misalignment, potentials, single_layer, spikes
from tests.convert.networks import images, mlp
from tppjax.activations import ReLU
from tppjax.neurons import Delayed, OnePhase, TwoPhase, parse, simulate

KEY, T = jax.random.key(3), 4


class Dithered(TwoPhase):
    """Rounds by a uniform random number."""

    random = True

    def count(self, u, T, key):
        return jnp.clip(jnp.floor(u + jax.random.uniform(key, u.shape)), 0, T)


class Both(NamedTuple):
    u: jax.Array
    fast: jax.Array


@dataclass(frozen=True)
class Noisy(OnePhase):
    """Leaks, fires two spikes at most, draws noise, and has a state of two arrays."""

    leak: float = 0.1
    random = True
    levels = 2

    def init(self, shape, T):
        return Both(jnp.full(shape, 0.5), jnp.zeros(shape))

    def step(self, state, x, t, T, key):
        u = (1 - self.leak) * state.u + x + 0.01 * jax.random.normal(key, x.shape)
        spikes = jnp.clip(jnp.floor(u), 0, 2)
        return Both(u - spikes, state.fast + x), spikes

    def potential(self, state):
        return state.u


class Last(Delayed):
    """Fires as many spikes as it had steps with an input above half a threshold, as late as can be."""

    def init(self, shape, T):
        return jnp.zeros(shape)

    def accumulate(self, state, x, t, T, key):
        return state + (x > 0.5)

    def step(self, u, n, t, T, key):
        return (u > T - 1 - t).astype(jnp.float32)


NEURONS = [Dithered(), Noisy(leak=0.2), Last()]
NAMES = [str(neuron) for neuron in NEURONS]


@pytest.mark.slow
@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_corrections(neuron):
    x = images(30)
    ready = convert.calibrate(mlp(ReLU()), x, T=T, mode=neuron)
    for method in ("bias", "weights", "rates", "potential", *(["steps"] if not neuron.waits else [])):
        corrected = convert.correct(ready, x, T=T, mode=neuron, method=method)
        assert not np.allclose(*(convert.to_snn(n, T, neuron).apply(x, KEY) for n in (ready, corrected)))


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
def test_functions(neuron):
    own, x = mlp(ReLU()), images(30)
    assert parse(str(neuron)) == neuron
    ready = convert.calibrate(own, x, T=T, mode=neuron)
    assert ready.history[-1] == f"thresholds: mse at T=4 for {neuron} per channel, from 30 images"
    assert all(np.all(theta > 0) for theta in ready.thetas.values())
    snn = convert.to_snn(ready, T, neuron)
    assert (snn.mode, snn.random, snn.folded) == (str(neuron), neuron.random, neuron.two_phase)
    assert snn.latency == (3 * T if neuron.waits else T)
    (logits, fired), (_, rates), trace = snn.activity(x, KEY), snn.rates(x, KEY), snn.trace(x, KEY)
    for site, theta in ready.thetas.items():
        np.testing.assert_allclose(rates[site], theta * np.asarray(fired[site]) / T, rtol=1e-5)
        assert 0 < fired[site].max() <= neuron.levels * T
        if not neuron.two_phase:
            np.testing.assert_array_equal(np.sum(trace.spikes[site], axis=0), fired[site])
    np.testing.assert_allclose(snn.apply(x, KEY), logits, rtol=1e-6)
    report = convert.report(snn, x)
    assert {row.mode for row in report.rows} == {str(neuron)}
    assert f" {neuron} " in str(report)
    mixed = convert.to_snn(ready, T, {"dense0": neuron, "dense1": "baseline"})
    assert mixed.apply(x, KEY).shape == logits.shape


class Coin(OnePhase):
    """Fires by chance alone, with probability 1/2 at each step."""

    random = True

    def init(self, shape, T):
        return jnp.zeros(shape)

    def step(self, state, x, t, T, key):
        return state, jax.random.bernoulli(key, 0.5, x.shape).astype(jnp.float32)


class Coins(Delayed):
    """Tosses a coin at each step of both phases: it fires where both show the same."""

    random = True

    def init(self, shape, T):
        return jnp.zeros((T, *shape))

    def accumulate(self, state, x, t, T, key):
        return state.at[t].set(jax.random.bernoulli(key, 0.5, x.shape))

    def step(self, u, n, t, T, key):
        return (u[t] == jax.random.bernoulli(jax.random.fold_in(key, t), 0.5, u[t].shape)).astype(jnp.float32)


@pytest.mark.parametrize("neuron", [Coin(), Coins()], ids=str)
def test_every_step_draws_noise_of_its_own(neuron):
    """Other noise at each step, site and example, and in each phase: at 5 sigma, alone and in a network."""
    steps, n = 6, 3000
    alone = np.asarray(simulate(neuron, jnp.zeros((steps, n)), KEY))
    spikes = convert.to_snn(mlp(), steps, neuron).trace(images(400), KEY).spikes
    in_network = np.concatenate([np.asarray(s).reshape(steps, -1) for s in spikes.values()], axis=1)
    for trains in (alone, in_network):
        assert abs(trains.mean() - 0.5) < 2.5 / np.sqrt(trains.size)
        together = np.corrcoef(trains) - np.eye(steps)
        assert np.abs(together).max() < 5 / np.sqrt(trains.shape[1])


def test_fields_tell_neurons_apart():
    """Compilations are shared by equal neurons only."""
    x = images(9)
    found = [convert.to_snn(mlp(), T, Noisy(leak=leak)).apply(x, KEY) for leak in (0.0, 0.9)]
    assert not np.array_equal(*found)


@pytest.mark.slow
def test_rows_of_a_neuron_that_has_changed_are_measured_again(setup, tmp_path, monkeypatch):
    (tmp_path / "changing.py").write_text(VERSION.format(more=0.5))
    monkeypatch.syspath_prepend(tmp_path)
    options = accuracy.Accuracy(**setup, out=tmp_path / "out", modes=("changing:Changing", "rounded"), T=(2,))
    accuracy.main(dataclasses.replace(options, T=(2, 4)))
    file = tmp_path / "out" / "accuracy" / "results.json"
    first = [r for r in json.loads(file.read_text())["rows"] if r["T"] == 2]
    (tmp_path / "changing.py").write_text(VERSION.format(more=0.0) + "\n# another file\n")
    linecache.clearcache()
    importlib.reload(sys.modules["changing"])
    accuracy.main(options)
    second = json.loads(file.read_text())["rows"]
    assert len(second) == 4
    second = [r for r in second if r["T"] == 2]
    at = lambda rows: {r["mode"]: r for r in rows}  # noqa: E731
    table = (file.parent / "accuracy.csv").read_text().splitlines()[1:]  # without the row of the old version at T=4
    assert {tuple(line.split(",")[:2]) for line in table} == {
        ("rounded", "2"),
        ("rounded", "4"),
        ("changing:Changing", "2"),
    }
    assert at(first)["rounded"] == at(second)["rounded"]
    assert at(first)["changing:Changing"]["spikes_per_neuron"] > at(second)["changing:Changing"]["spikes_per_neuron"]


VERSION = """
import jax.numpy as jnp
from tppjax.neurons import TwoPhase

class Changing(TwoPhase):
    def count(self, u, T, key):
        return jnp.clip(jnp.floor(u + {more}), 0, T)
"""


@pytest.mark.slow
def test_studies(setup, tmp_path):
    """QCFS has its thresholds; every study has a row for each neuron."""
    options = {**setup, "out": tmp_path}
    accuracy.main(accuracy.Accuracy(**options, modes=("tpp", *NAMES), T=(2, 4)))
    anytime.main(anytime.Anytime(**options, modes=tuple(NAMES), T=(2, 4)))
    anytime.main(anytime.Anytime(**options, modes=tuple(NAMES), T=(2, 4), exit="confidence"))
    spikes.main(spikes.Spikes(**options, modes=("baseline", *NAMES), T=(4,)))
    misalignment.main(misalignment.Misalignment(**options, modes=tuple(NAMES), T=(4,)))
    potentials.main(potentials.Potentials(**options, modes=tuple(NAMES), T=4))
    methods.main(methods.Methods(**options, methods=(*NAMES, f"{NAMES[1]}+bias"), T=(2, 4)))
    for study in ("accuracy", "anytime", "early_exit", "spikes", "misalignment", "potentials"):
        rows = json.loads((tmp_path / study / "results.json").read_text())["rows"]
        assert {r["mode"] for r in rows} >= set(NAMES), study
    rows = json.loads((tmp_path / "methods" / "results.json").read_text())["rows"]
    assert {r["method"] for r in rows} == {*NAMES, f"{NAMES[1]}+bias"}
    for mode in NAMES:
        single_layer.main(single_layer.SingleLayer(**options, mode=mode, T=4, overwrite=True))


def test_a_potential_that_is_not_there(setup, tmp_path):
    class Hidden(Noisy):
        def potential(self, state):
            return None

    globals()["Hidden"], Hidden.__qualname__ = Hidden, "Hidden"
    with pytest.raises(ValueError, match=r"test_own_neuron:Hidden has no potential to show"):
        potentials.main(potentials.Potentials(**setup, modes=(f"{__name__}:Hidden",), out=tmp_path))

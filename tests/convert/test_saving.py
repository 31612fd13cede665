"""Spiking networks in folders: the same draws from the same key, and nothing that runs code."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from tests.convert import elsewhere
from tests.convert.networks import cnn, images, mlp
from tppjax.errors import InputError
from tppjax.neurons import Baseline, TwoPhase

KEY = jax.random.key(5)


@dataclass(frozen=True)
class Up(TwoPhase):
    """Rounds up."""

    levels: int = 1

    def count(self, u, T, key):
        return jnp.clip(jnp.ceil(u), 0, self.levels * T)


MODES = [
    *("tpp", "baseline", "shuffle(shared=True)", "ordered(order=(2, 0, 1, 3))", "burst(gamma=2)", "srp", "snm"),
    {"dense0": "graded(levels=3)", "dense1": "baseline(v_init=0.25)"},
]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_saved_and_loaded_it_is_the_same(mode, tmp_path):
    snn, x = convert.to_snn(mlp(), 4, mode), images(9)
    snn.save(tmp_path / "snn")
    loaded = convert.load(tmp_path / "snn")
    assert (loaded.T, loaded.modes, loaded.neurons) == (4, snn.modes, snn.neurons)
    assert jax.tree.structure(loaded) == jax.tree.structure(snn)  # they share compilations
    jax.tree.map(np.testing.assert_array_equal, loaded.activity(x, KEY), snn.activity(x, KEY))
    jax.tree.map(np.testing.assert_array_equal, loaded.trace(x, KEY), snn.trace(x, KEY))
    assert sorted(p.name for p in (tmp_path / "snn").iterdir()) == ["graph.json", "weights.safetensors"]


@pytest.mark.slow
def test_calibrated_and_corrected(relu_ann, digits_train, digits_test, tmp_path):
    """With preprocessing, offsets and a history, in another process."""
    network = convert.calibrate(relu_ann, digits_train, T=8)
    snn = convert.to_snn(convert.correct(network, digits_train[:100], T=8), 8)
    snn.save(tmp_path / "snn")
    loaded = convert.load(tmp_path / "snn")
    assert loaded.network.history == snn.network.history
    assert len(loaded.network.history) == 2
    x = digits_test.images[:20]
    np.save(tmp_path / "x.npy", x)
    script = (
        "import convert, jax, numpy as np, sys; folder = sys.argv[1]\n"
        "y = convert.load(folder + '/snn').apply(np.load(folder + '/x.npy'), jax.random.key(5))\n"
        "np.save(folder + '/y.npy', y)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), snn.apply(x, KEY))


def test_the_network_of_a_folder_with_a_spiking_one(tmp_path):
    """Commands and `trace` take it as any saved network; one that was not converted loads as a network."""
    from tppjax import checkpoint

    convert.to_snn(mlp(), 4).save(tmp_path / "snn")
    assert checkpoint.load(tmp_path / "snn").graph == mlp().graph
    mlp().save(tmp_path / "network")
    assert isinstance(convert.load(tmp_path / "network"), convert.Network)
    with pytest.raises(InputError, match="a network for any T has no number of steps"):
        convert.to_snn(mlp(), 4).for_any_T().save(tmp_path / "any")


def test_neurons_of_ones_own_are_given_and_not_imported(tmp_path):
    snn = convert.to_snn(mlp(), 4, Up(levels=2))
    snn.save(tmp_path / "snn")
    refused = r"test_saving:Up is a neuron of your own, which is not in the file: pass neurons=\[its class\]"
    with pytest.raises(InputError, match=refused + "$"):
        convert.load(tmp_path / "snn")
    with pytest.raises(InputError, match=refused + "; given: tppjax.neurons.baseline:Baseline"):
        convert.load(tmp_path / "snn", neurons=[Baseline])
    for wrong in (5, [Up()], ["Up"]):
        with pytest.raises(InputError, match="neurons= takes classes of your own neurons"):
            convert.load(tmp_path / "snn", neurons=wrong)
    assert convert.load(tmp_path / "snn", neurons=Up).mode == convert.load(tmp_path / "snn", neurons=iter([Up])).mode
    loaded = convert.load(tmp_path / "snn", neurons=[Up])
    np.testing.assert_array_equal(loaded.apply(images(5)), snn.apply(images(5)))
    assert loaded.mode == f"{__name__}:Up(levels=2)"


class Nested(TwoPhase):
    """Half a threshold more, from a table within a table."""

    def tables(self, T):
        return {"tables": {"more": np.float32(0.5)}}

    def count(self, u, T, key, tables):
        return jnp.clip(jnp.floor(u + tables["more"]), 0, T)


def test_tables_may_be_nested(tmp_path):
    snn = convert.to_snn(mlp(), 4, Nested())
    snn.save(tmp_path / "snn")
    again = convert.load(tmp_path / "snn", neurons=Nested)
    np.testing.assert_array_equal(again.apply(images(5)), snn.apply(images(5)))


def edit(folder, change):
    """Changes the description, and gives it the digest that fits."""
    content = json.loads((folder / "graph.json").read_text())
    content.pop("sha256")
    change(content["converted"])
    data = (folder / "weights.safetensors").read_bytes()
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode() + data).hexdigest()
    (folder / "graph.json").write_text(json.dumps({**content, "sha256": digest}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(T=0), "T is the number of time steps"),
        (lambda c: c.update(T="4"), "T is the number of time steps"),
        (lambda c: c.pop("T"), "does not describe a spiking network"),
        (lambda c: c["modes"].pop("dense0"), "does not describe a spiking network"),
        (lambda c: c.update(modes=[]), "does not describe a spiking network"),
        (lambda c: c["modes"].update(dense0="poisson"), "at dense0: unknown mode 'poisson'|unknown mode 'poisson'"),
        (lambda c: c["modes"].update(dense0="os:system"), "os:system is a neuron of your own"),
        (
            lambda c: c["modes"].update(dense0="burst(gamma=__import__('os'))"),
            "can't be made: ValueError: malformed node",
        ),
        (lambda c: c["modes"].update(dense0="burst(gamma=0)"), "gamma must be a whole number"),
        (lambda c: c["modes"].update(dense0=3), "a mode is the name of a neuron"),
    ],
)
def test_edited_files_are_refused(change, said, tmp_path):
    convert.to_snn(mlp(), 4).save(tmp_path / "snn")
    edit(tmp_path / "snn", change)
    with pytest.raises(InputError, match=said):
        convert.load(tmp_path / "snn")


def test_damaged_files_are_refused(tmp_path):
    convert.to_snn(cnn(), 4).save(tmp_path / "snn")
    rng = np.random.default_rng(0)
    for file in (tmp_path / "snn" / "graph.json", tmp_path / "snn" / "weights.safetensors"):
        whole = file.read_bytes()
        for torn in (whole[: len(whole) // 2], b"", whole[:-1] + bytes([whole[-1] ^ 1]), rng.bytes(200)):
            file.write_bytes(torn)
            with pytest.raises(InputError, match=r"^[^\n]+(save the network again|update tppjax)"):
                convert.load(tmp_path / "snn")
        file.write_bytes(whole)
    assert convert.load(tmp_path / "snn").T == 4


SAVED = sorted(elsewhere.FOLDER.glob("*/*"))


@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_networks_saved_by_another_python_draw_the_same(folder):
    """Python 3.11 with jax 0.10 and Python 3.13 with jax 0.12, each with the draws that it made."""
    with np.load(folder / "draws.npz") as expected:
        found = elsewhere.draws(convert.load(folder / "snn"))
        assert found.keys() == set(expected)
        for name, numbers in found.items():
            np.testing.assert_array_equal(numbers, expected[name], err_msg=name)


def test_there_are_networks_of_two_pythons():
    assert len({json.loads(f.read_text())["versions"]["python"][:4] for f in elsewhere.FOLDER.rglob("graph.json")}) == 2

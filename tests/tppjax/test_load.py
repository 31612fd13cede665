"""The folders that commands take are read as what they hold."""

import jax
import numpy as np
import pytest

import convert
from tests.convert import networks
from tppjax import ann, checkpoint, data, models
from tppjax.activations import QCFS
from tppjax.ann import Ann
from tppjax.errors import InputError

X = networks.images(3, (4, 4, 1))


@pytest.fixture(scope="module")
def network():
    """With every part: weights, thresholds, offsets, preprocessing and a history."""
    made = networks.cnn()
    like = data.Preprocessing("mine", (4, 4, 1), (0.5,), (0.25,), ("a", "b", "c"))
    offsets = {"conv1_1": np.float32([0, 1, 0, 0.5])}
    return made.replace(offsets=offsets, preprocessing=like, history=("made", "by hand"))


@pytest.fixture(scope="module")
def trained():
    model = models.create("vgg_small", 3, QCFS(L=4), stages=((4,), (4,)), norm=False)
    variables = jax.device_get(model.init(jax.random.key(0), X))
    return Ann(variables, model, data.Preprocessing("mine", (4, 4, 1), (0.5,), (0.25,), ("a", "b", "c")))


def test_fingerprints_tell_networks_apart(network, tmp_path):
    network.save(tmp_path / "net")
    loaded = convert.load(tmp_path / "net")
    assert ann.fingerprint(loaded) == ann.fingerprint(network)
    other = loaded.replace(thetas=jax.tree.map(lambda a: 2 * a, loaded.thetas))
    assert ann.fingerprint(other) != ann.fingerprint(network)


def test_an_ann_is_traced_wherever_it_lies(trained, network, tmp_path):
    ann.save(trained, tmp_path / "run" / "ann")
    for folder in (tmp_path / "run", tmp_path / "run" / "ann"):
        loaded = convert.load(folder)
        assert loaded.graph == convert.trace(trained).graph
        assert isinstance(checkpoint.stored(folder), Ann)
    network.save(tmp_path / "other" / "network")
    assert convert.load(tmp_path / "other").graph == network.graph
    network.save(tmp_path / "run" / "network")
    with pytest.raises(InputError, match="run holds two networks, ann and network: give one of these"):
        convert.load(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"other holds a traced network, without the model .*: convert\.load"):
        ann.load(tmp_path / "other")


def test_nothing_there(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name, message in (
        ("none", "there is no folder "),
        ("file", "file is a file, not a folder"),
        ("empty", r"empty holds no network: neither ann\.json nor graph\.json in it, in ann/ or in network/"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            convert.load(tmp_path / name)

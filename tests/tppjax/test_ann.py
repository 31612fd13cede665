"""A saved network is the network, and a failed save leaves the old one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tppjax import ann, data, models, sharding
from tppjax.activations import QCFS, ClippedReLU
from tppjax.ann import Ann


@pytest.fixture(scope="module")
def network():
    model = models.create("resnet20", 10, ClippedReLU(bound=1.5), blocks=(1, 1), channels=2, shortcut="pad")
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    return Ann(jax.device_get(variables), model, data.info("digits"))


def test_saved_and_loaded_it_is_the_same(network, tmp_path, digits_test):
    ann.save(network, tmp_path / "net")
    loaded = ann.load(tmp_path / "net")
    assert (loaded.model, loaded.preprocessing) == (network.model, network.preprocessing)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, network.variables)
    assert ann.accuracy(loaded, digits_test) == ann.accuracy(network, digits_test, batch_size=7)


def test_what_training_leaves_is_found_by_its_run_folder(digits_run):
    assert ann.load(digits_run).model.act == QCFS(L=8)


def test_a_save_replaces_the_old_network_whole_or_not_at_all(network, tmp_path, monkeypatch):
    ann.save(network, tmp_path / "net")
    other = network.replace(variables=jax.tree.map(lambda a: a + 1, network.variables))
    monkeypatch.setattr(ann.files, "write_json", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ann.save(other, tmp_path / "net")
    monkeypatch.undo()
    jax.tree.map(np.testing.assert_array_equal, ann.load(tmp_path / "net").variables, network.variables)
    ann.save(other, tmp_path / "net")
    jax.tree.map(np.testing.assert_array_equal, ann.load(tmp_path / "net").variables, other.variables)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_other_things_are_not_overwritten(network, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match="something other than a saved network"):
        ann.save(network, tmp_path)
    ann.save(network, tmp_path / "net")
    (tmp_path / "net" / "snn").mkdir()
    with pytest.raises(FileExistsError, match="something other than a saved network"):
        ann.save(network, tmp_path / "net")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "net" / "snn").is_dir()


def test_preprocessing_normalises_pixels_and_refuses_what_does_not_fit(network):
    take = network.preprocessing
    pixels = np.full((2, 8, 8, 1), 255, np.uint8)
    np.testing.assert_allclose(take(pixels), (1 - take.mean[0]) / take.std[0], rtol=1e-6)
    floats = np.zeros((2, 8, 8, 1), np.float32)
    assert take(floats) is floats
    with pytest.raises(
        ValueError, match=r"takes images of shape \(8, 8, 1\) \(trained on digits\); got \(2, 32, 32, 3\)"
    ):
        take(np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8 pixels, or floats already normalised; got int64"):
        take(np.zeros((2, 8, 8, 1), np.int64))


def test_images_a_call_keep_within_the_budget(network, digits_test, monkeypatch):
    """An image has four times the largest array on the way: the stem's 8 x 8 x 2; with a border in jax 0.7."""
    sizes = []
    monkeypatch.setattr(ann, "map_examples", lambda fn, images, batch_size: sizes.append(batch_size) or [1.0])
    for budget in (10 * 4 * 4 * 8 * 8 * 2, 1):
        monkeypatch.setattr(sharding, "budget", lambda budget=budget: budget)
        ann.accuracy(network, digits_test)
    assert sizes in ([10, 1], [8, 1])

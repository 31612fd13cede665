"""A small network that the studies run on, as options and in plain NumPy."""

import jax
import numpy as np
import pytest

from tests.convert.studies.plain import Network
from tppjax import ann, models
from tppjax.activations import QCFS
from tppjax.data import npz

N, SHAPE = 60, (8, 8, 1)


@pytest.fixture(scope="session")
def setup(tmp_path_factory):
    """Options that name a small network with random weights and 60 random images, which it tells apart somewhat."""
    folder = tmp_path_factory.mktemp("studies")
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (N, *SHAPE), dtype=np.uint8), np.arange(N) % 3
    np.savez(folder / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    model = models.create("vgg_small", 3, QCFS(L=4), stages=((4,), (6,)), norm=False)
    abstract = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, *SHAPE), np.float32))
    draw = lambda path, a: np.float32(0.7) if path[-1].key == "theta" else rng.normal(0, 0.4, a.shape).astype("f4")  # noqa: E731
    variables = jax.tree_util.tree_map_with_path(draw, abstract)
    network = ann.Ann(variables, model, npz.info("npz", folder / "a.npz"))
    # What it says itself of most images is the truth, so that accuracies mean something.
    said = np.asarray(network.apply(images)).argmax(-1)
    labels = np.where(rng.random(N) < 0.8, said, labels)
    np.savez(folder / "a.npz", x_train=images, y_train=np.arange(N) % 3, x_test=images, y_test=labels)
    ann.save(network, folder / "ann")
    return {"ann": folder / "ann", "dataset": "npz", "data_dir": folder / "a.npz", "seeds": 2}


@pytest.fixture(scope="session")
def known(setup):
    """The network in NumPy, its input, its labels, and the `Ann`."""
    network, images = ann.load(setup["ann"]), npz.load("npz", "test", setup["data_dir"])
    x = np.asarray(network.input(images.images), np.float64)
    return Network(network.variables), x, images.labels, network

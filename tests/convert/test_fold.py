"""Folding changes the parameters and not the function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from tests.convert.networks import exact, mlp
from tppjax import ann, data, models, thresholds
from tppjax.activations import QCFS, ReLU
from tppjax.ann import Ann
from tppjax.errors import InputError

MODELS = {
    "vgg": ("vgg_small", {"hidden": (9,)}),
    "vgg max": ("vgg_small", {"pool": "max"}),
    "resnet": ("resnet20", {"blocks": (1, 2), "channels": 4}),
    "resnet option A": ("resnet20", {"blocks": (2, 2), "channels": 4, "shortcut": "pad"}),
    "resnet deep stem": ("resnet18", {"blocks": (1, 1), "channels": 4, "stem": "deep"}),
    "regnet": ("regnetx_4gf", {"blocks": (1, 2), "widths": (4, 8), "group": 2, "stem": 3}),
}


def network(kind, act=None):
    """With random batch norm statistics, and thresholds of its own for each channel."""
    name, options = MODELS[kind]
    model = models.create(name, 10, act or QCFS(L=4), **options)
    rng = np.random.default_rng(0)

    def positive(path, leaf):
        of_norm = any("norm" in getattr(p, "key", "") for p in path)
        return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32) if of_norm else np.asarray(leaf)

    variables = jax.tree_util.tree_map_with_path(positive, model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1))))
    untrained = Ann(variables, model, data.info("digits"))
    thetas = {site: rng.uniform(0.5, 3, shape[-1]) for site, (shape, _) in ann.sites(model, (8, 8, 1)).items()}
    return thresholds.with_thresholds(untrained, jax.tree.map(np.float32, thetas), "made up")


IMAGES = data.load("digits", "test").images[:40]


@pytest.mark.parametrize("kind", MODELS)
def test_batch_norm(kind):
    unfolded = network(kind, ReLU())
    folded = convert.fold_batch_norm(unfolded)
    assert set(folded.variables) == {"params"}
    assert not folded.model.norm
    np.testing.assert_allclose(folded.apply(IMAGES), unfolded.apply(IMAGES), rtol=1e-4, atol=1e-4)
    assert convert.fold_batch_norm(folded) is folded


@pytest.mark.parametrize("kind", MODELS)
def test_thresholds(kind):
    """Every logit of the ANN and of the SNN, and nearly every count: rounding may tip one over."""
    unfolded = network(kind)
    folded = convert.fold_thresholds(unfolded)
    assert all((theta == 1).all() for theta in ann.thresholds(folded.variables).values())
    with jax.default_matmul_precision("highest"):
        a, b = (convert.to_snn(n, T=4, mode="rounded").activity(IMAGES) for n in (unfolded, folded))
    for site, counts in a[1].items():
        assert (counts != b[1][site]).mean() < 2e-3, site
        assert len(np.unique(counts)) > 1, site
    assert np.median(np.abs(a[0] - b[0])) < 1e-4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {"blocks": (1, 1), "channels": 2, "shortcut": "pad"}),
        ("resnet20", {"blocks": (1, 1), "channels": 2, "shortcut": "projection"}),
        ("regnetx_4gf", {"blocks": (2,), "widths": (4,), "group": 2, "stem": 2}),
    ],
)
def test_thresholds_exactly(name, options):
    """With powers of two nothing is rounded, and everything agrees to the last bit."""
    model = models.create(name, 10, QCFS(L=4), norm=False, **options)
    unfolded = Ann(exact(model, (8, 8, 1)), model, data.info("digits"))
    folded = convert.fold_thresholds(unfolded)
    x = np.random.default_rng(0).integers(0, 9, (20, 8, 8, 1)).astype(np.float32) / 8
    for mode in ("rounded", "tpp"):
        a, b = (convert.to_snn(n, T=4, mode=mode).activity(x, jax.random.key(0)) for n in (unfolded, folded))
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_thresholds_refusals():
    variables, model = mlp()
    with pytest.raises(ValueError, match=r"folded into models\.MODELS; got Mlp"):
        convert.fold_thresholds(Ann(variables, model, data.info("digits")))
    bare = network("vgg", ReLU())
    params = {k: v for k, v in bare.variables["params"].items() if not k.startswith("act")}
    with pytest.raises(InputError, match="no threshold at act1_1: calibrate the network first"):
        convert.fold_thresholds(bare.replace(variables={**bare.variables, "params": params}))
    statistics = jax.tree.map(lambda leaf: -leaf, bare.variables["batch_stats"])
    with pytest.raises(InputError, match=r"batch_stats/norm1_1/var has a negative variance"):
        convert.fold_batch_norm(bare.replace(variables={**bare.variables, "batch_stats": statistics}))

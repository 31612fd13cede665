"""Folding changes the weights and not the function."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from convert.thresholds import fold_thresholds
from tests.convert.networks import Mlp, Pooled, images, mlp, traced
from tppjax import models
from tppjax.activations import QCFS, ReLU
from tppjax.errors import InputError

MODELS = {
    "vgg": ("vgg_small", {"hidden": (9,), "stages": ((4, 4), (6,))}),
    "vgg max": ("vgg_small", {"pool": "max", "stages": ((4,), (6, 6))}),
    "resnet": ("resnet20", {"blocks": (1, 2), "channels": 4}),
    "resnet option A": ("resnet20", {"blocks": (2, 2), "channels": 4, "shortcut": "pad"}),
    "resnet deep stem": ("resnet18", {"blocks": (1, 1), "channels": 4, "stem": "deep"}),
    "regnet": ("regnetx_4gf", {"blocks": (1, 2), "widths": (4, 8), "group": 2, "stem": 3}),
}
X = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype(np.float32)


def random(model, x=X):
    """Variables with batch norm statistics and scales that do something."""
    rng, abstract = np.random.default_rng(0), jax.eval_shape(model.init, jax.random.key(0), x[:1])

    def draw(path, leaf):
        scales = path[-1].key in ("var", "scale", "theta")
        values = rng.uniform(0.5, 1.5, leaf.shape) if scales else rng.normal(0, 0.3, leaf.shape)
        return np.float32(values)

    return jax.tree_util.tree_map_with_path(draw, abstract)


def network(model, x=X):
    """With thresholds of its own for each channel."""
    found, rng = convert.trace((model, random(model, x)), x), np.random.default_rng(1)
    thetas = {name: np.float32(rng.uniform(0.5, 3, site.channels)) for name, site in found.sites.items()}
    return found.replace(thetas=thetas)


@pytest.fixture(scope="module", params=MODELS)
def unfolded(request):
    name, options = MODELS[request.param]
    return network(models.create(name, 10, ReLU(), **options))


def normed(n):
    return [name for name in n.weights if name.startswith("batch_stats") or "/norm" in name]


def test_batch_norm(unfolded):
    folded = convert.fold_batch_norm(unfolded)
    assert normed(unfolded)
    assert not normed(folded)
    assert len(folded.graph.items) < len(unfolded.graph.items)
    np.testing.assert_allclose(folded.apply(X), unfolded.apply(X), rtol=1e-4, atol=1e-4)
    assert convert.fold_batch_norm(folded) is folded


def test_thresholds(unfolded):
    """Every count and logit of the SNN, but where rounding tips one over."""
    folded = fold_thresholds(unfolded)
    assert all((theta == 1).all() for theta in folded.thetas.values())
    with jax.default_matmul_precision("highest"):
        a, b = (convert.to_snn(n, T=4, mode="rounded").activity(X) for n in (unfolded, folded))
    for site, counts in a[1].items():
        assert (counts != b[1][site]).mean() < 2e-3, site
        assert len(np.unique(counts)) > 1, site
    assert np.median(np.abs(a[0] - b[0])) < 1e-4
    assert folded.history[-1] == "thresholds folded into the weights"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet20", {"blocks": (1, 1), "channels": 2, "shortcut": "pad"}),
        ("resnet20", {"blocks": (1, 1), "channels": 2, "shortcut": "projection"}),
        ("regnetx_4gf", {"blocks": (2,), "widths": (4,), "group": 2, "stem": 2}),
        ("vgg_small", {"stages": ((4,), (4,)), "hidden": (3,), "pool": "max"}),
    ],
)
def test_thresholds_exactly(name, options):
    """With powers of two nothing is rounded, and everything agrees to the last bit; the ANN's own activation, too."""
    unfolded = traced(models.create(name, 10, QCFS(L=4), norm=False, **options), (8, 8, 1))
    folded = fold_thresholds(unfolded)
    x = images(20, (8, 8, 1))
    np.testing.assert_array_equal(folded.apply(x), unfolded.apply(x))
    for mode in ("rounded", "tpp"):
        a, b = (convert.to_snn(n, T=4, mode=mode).activity(x, jax.random.key(0)) for n in (unfolded, folded))
        jax.tree.map(np.testing.assert_array_equal, a, b)


class Shared(nn.Module):
    """One layer for two places."""

    @nn.compact
    def __call__(self, x):
        layer = nn.Dense(4, name="shared")
        return nn.Dense(3, name="head")(nn.relu(layer(nn.relu(layer(nn.relu(nn.Dense(4, name="first")(x[:, 0, 0])))))))


class Joined(nn.Module):
    """Channels of two sites side by side, shuffled, and a grouped convolution of them; upsampled, and a skip."""

    @nn.compact
    def __call__(self, x):
        a, b = nn.relu(nn.Conv(4, (3, 3), name="a")(x)), nn.relu(nn.Conv(2, (3, 3), name="b")(x))
        y = jnp.concatenate([a, b], -1).reshape(len(x), 8, 8, 2, 3).swapaxes(-1, -2).reshape(len(x), 8, 8, 6)
        y = nn.relu(nn.Conv(6, (3, 3), feature_group_count=2, strides=2, name="c")(y))
        y = y.repeat(2, axis=1).repeat(2, axis=2)
        y = nn.relu(nn.Conv(4, (1, 1), name="d")(jnp.concatenate([y, a], -1)) - 2.0 * a)
        return {"image": nn.relu6(y), "logits": nn.Dense(3, name="head")(y.mean((1, 2)))}


class OtherAxes(nn.Module):
    """A product over pixels, and one with several axes of outputs."""

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.Conv(4, (3, 3), name="a")(x))
        mixed = self.param("mix", nn.initializers.normal(), (8, 6))
        y = nn.relu(jnp.einsum("bhwc,wv->bhvc", y, mixed))
        y = nn.relu(nn.DenseGeneral((2, 3), axis=(-2, -1), name="b")(y))
        return nn.DenseGeneral(3, axis=(1, 2, 3), name="head")(y)


@pytest.mark.parametrize("model", [Shared(), Joined(), OtherAxes()])
def test_networks_of_any_wiring(model):
    """Where no layer of weights can take a threshold, a scale stays in the graph."""
    unfolded = network(model)
    folded = fold_thresholds(unfolded)
    for a, b in zip(*(jax.tree.leaves(n.apply(X)) for n in (unfolded, folded)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    a, b = (convert.to_snn(n, T=4, mode="rounded").activity(X) for n in (unfolded, folded))
    for site, counts in a[1].items():
        assert (counts != b[1][site]).mean() < 2e-3, site
    for output, same in zip(jax.tree.leaves(a[0]), jax.tree.leaves(b[0]), strict=True):
        assert np.median(np.abs(output - same)) < 1e-4


def test_offsets_of_a_correction_are_folded_too():
    corrected = convert.correct(mlp(), images(40), T=4, mode="rounded")
    a, b = (convert.to_snn(n, T=4, mode="rounded").apply(images(40)) for n in (corrected, fold_thresholds(corrected)))
    np.testing.assert_allclose(a, b, atol=1e-4)


class Normed(nn.Module):
    """Batch norm with an epsilon of its own, behind or before the layer."""

    epsilon: float = 1e-3
    before: bool = False

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=True, epsilon=self.epsilon, name="norm")
        conv = nn.Conv(8, (3, 3), name="conv")
        x = conv(norm(x)) if self.before else norm(conv(x))
        return nn.Dense(3, name="head")(nn.relu(x).mean((-3, -2)))


@pytest.mark.parametrize("model", [Normed(), Normed(1e-1), Normed(before=True)])
def test_batch_norm_of_any_epsilon_and_place(model):
    unfolded = convert.trace((model, random(model)), X)
    folded = convert.fold_batch_norm(unfolded)
    np.testing.assert_allclose(folded.apply(X), unfolded.apply(X), rtol=1e-4, atol=1e-5)
    assert bool(normed(folded)) == model.before


def test_shifts_do_not_take_each_others_names():
    """Parameters without layers, one of them called as a shift would be."""
    rng = np.random.default_rng(0)
    p = {name: np.float32(rng.normal(size=(4, 4) if name in "ac" else (1, 4))) for name in "abcd"}
    p |= {"a/shift": np.float32(rng.normal(size=(1, 4)))}

    def fn(p, x):
        x = jax.nn.relu((x @ p["a"] + p["d"]) * p["b"])
        return jax.nn.relu((x @ p["c"] + p["d"]) * p["b"]) + p["a/shift"]

    x = np.float32(rng.normal(size=(5, 4)))
    folded = convert.fold_batch_norm((fn, p), x)
    assert sorted(folded.weights) == ["a", "a/shift", "a/shift~2", "c", "c/shift"]
    np.testing.assert_allclose(folded.apply(x), fn(p, x), rtol=1e-5, atol=1e-5)


def test_what_another_reads_is_not_folded():
    """The layer's output is used beside its batch norm, or its weights are."""

    def beside(p, x):
        y = x @ p["layer"]["kernel"]
        return jax.nn.relu(y * p["scale"][None]) + y

    def twice(p, x):
        return jax.nn.relu(x @ p["layer"]["kernel"] * p["scale"][None]) @ p["layer"]["kernel"]

    p = {"layer": {"kernel": np.float32(np.eye(4) + 1)}, "scale": np.float32([1, 2, 3, 4])}
    x = np.float32(np.arange(8).reshape(2, 4))
    for fn in (beside, twice):
        found = convert.trace((fn, p), x)
        assert convert.fold_batch_norm(found) is found


def test_max_pool_before_the_site():
    unfolded = traced(Pooled(QCFS(L=4)), (4, 4, 1))
    x = images(20, (4, 4, 1))
    a, b = (convert.to_snn(n, T=4, mode="rounded").activity(x) for n in (unfolded, fold_thresholds(unfolded)))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_refusals():
    with pytest.raises(InputError, match="trace needs example="):
        convert.fold_batch_norm((Mlp(ReLU()), {}))


class Product(nn.Module):
    """A layer that sums over all axes of an image, which stand in its weights in another order."""

    spec: str
    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        x, w = nn.relu(nn.Conv(8, (3, 3))(x)), self.param("own", nn.initializers.normal(), self.shape)
        return jnp.einsum(self.spec, *((x, w) if self.spec[0] == "b" else (w, x)))


@pytest.mark.parametrize(
    ("spec", "shape"),
    [("bhwc,chwo->bo", (8, 8, 8, 5)), ("ohcw,bhwc->bo", (5, 8, 8, 8)), ("bhwc,wcoh->bo", (8, 8, 5, 8))],
)
def test_a_product_over_several_axes(spec, shape):
    """Thresholds of channels go along the axis of the weights that the channels have there."""
    before = network(Product(spec, shape))
    np.testing.assert_allclose(fold_thresholds(before).apply(X), before.apply(X), rtol=1e-4, atol=1e-5)

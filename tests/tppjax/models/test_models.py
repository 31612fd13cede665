"""Networks: their sizes by hand, their sites, and what stays the same whatever the activation."""

import math
from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tppjax import models
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.ann import thresholds
from tppjax.models.layers import conv


def abstract(name, num_classes=10, act=None, shape=(32, 32, 3), **options):
    model = models.create(name, num_classes, act or QCFS(L=8), **options)
    return model, jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))


def outputs(model, variables, shape):
    """Shape of what each module gives, for one image."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    kept = {"capture_intermediates": True, "mutable": ["intermediates"]}
    _, found = jax.eval_shape(lambda variables, x: model.apply(variables, x, **kept), variables, x)
    flat = flatten_dict(found["intermediates"]).items()
    return {"/".join(path[:-1]): y.shape[1:] for path, (y,) in flat if path[-1] == "__call__"}


def vgg16_size(hidden):
    """By hand: 3x3 kernels with bias, batch norm's scale and bias, one threshold each; then dense layers."""
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    convs = sum(9 * i * o + 3 * o + 1 for i, o in pairwise(channels))
    widths = [512, *hidden, 10]
    return convs + sum(i * o + o for i, o in pairwise(widths)) + len(hidden)


# ResNet-20: 269,722 parameters with option A (He et al. count 0.27 M), projections add 16*32 + 32*64 weights and two
# norms of 32 and 64 channels; 19 thresholds. Width 4 is SNNC's 4.35 M. He et al.'s 0.46 M, 0.66 M and 0.85 M are the
# deeper ones: six more 3x3 convolutions and norms in each stage per step.
@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("vgg16", {}, vgg16_size((4096, 4096))),
        ("vgg16", {"hidden": ()}, vgg16_size(())),
        ("resnet20", {"shortcut": "pad"}, 269_722 + 19),
        ("resnet20", {}, 269_722 + 16 * 32 + 32 * 64 + 2 * (32 + 64) + 19),
        ("resnet20", {"width": 4}, 4_327_754 + 19),
        ("resnet32", {"shortcut": "pad"}, 464_154 + 31),
        ("resnet44", {"shortcut": "pad"}, 658_586 + 43),
        ("resnet56", {"shortcut": "pad"}, 853_018 + 55),
    ],
)
def test_sizes(name, options, size):
    _, variables = abstract(name, **options)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == size


IMAGENET = {"shape": (224, 224, 3), "num_classes": 1000}


@pytest.mark.parametrize(
    ("name", "options", "size", "sites"),
    [
        ("resnet18", {"stem": "imagenet"}, 11_689_512, 17),
        ("resnet34", {"stem": "imagenet"}, 21_797_672, 33),
        ("resnet34", {"stem": "deep"}, 21_797_672 - 49 * 3 * 64 + 9 * (3 + 32 + 64) * 32 + 4 * 32, 35),
        ("vgg16", {"norm": False, "pool": "max"}, 138_357_544, 15),
        ("vgg16", {"norm": True, "pool": "max"}, 138_365_992, 15),
        ("regnetx_4gf", {}, 22_118_248, 70),
    ],
)
def test_sizes_of_the_published_imagenet_networks(name, options, size, sites):
    """As torchvision and timm (regnetx_040) count their own; pooling has no parameters."""
    _, variables = abstract(name, act=QCFS(L=8), **IMAGENET, **options)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == size + sites
    assert len(thresholds(variables)) == sites


@pytest.mark.parametrize(
    ("name", "options", "billions"),
    [("resnet34", {"stem": "imagenet"}, 3.66), ("vgg16", {}, 15.47), ("regnetx_4gf", {}, 3.96)],
)
def test_multiply_adds_of_the_imagenet_networks(name, options, billions):
    """Kernel elements times places of the output, borders counted in full, as the field counts them."""
    model, variables = abstract(name, **IMAGENET, **options)
    kernels = {path[:-1]: leaf for path, leaf in flatten_dict(variables["params"]).items() if path[-1] == "kernel"}
    places = outputs(model, variables, (224, 224, 3))
    count = [math.prod(kernel.shape) * math.prod(places["/".join(path)][:-1]) for path, kernel in kernels.items()]
    assert sum(count) == pytest.approx(billions * 1e9, rel=2e-3)


def test_groups_of_regnet_read_their_own_channels():
    model = models.create("regnetx_4gf", 3, ReLU(), blocks=(1,), widths=(4,), group=2, stem=4, norm=False)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert variables["params"]["stage1_block1"]["conv2"]["kernel"].shape == (3, 3, 2, 4)
    with pytest.raises(ValueError, match="a width divisible by 40; got"):
        models.create("regnetx_4gf", 3, ReLU(), widths=(80, 250, 560, 1360))


@pytest.mark.parametrize("stem", ["imagenet", "deep"])
def test_stem_of_imagenet_divides_by_four_whatever_the_pool(stem):
    """The maximum is taken at the site, the mean behind it."""
    for pool, at_site in (("avg", 32), ("max", 16)):
        model, variables = abstract("resnet18", stem=stem, pool=pool, shape=(64, 64, 3))
        found = outputs(model, variables, (64, 64, 3))
        assert (found["act_stem"], found["stage1_block1/act1"]) == ((at_site, at_site, 64), (16, 16, 64))


def test_max_pool_is_taken_at_the_last_site_of_a_stage():
    found = [outputs(*abstract("vgg16", pool=pool), (32, 32, 3)) for pool in ("max", "avg")]
    pooled = [site for site in found[0] if found[0][site] != found[1][site]]
    assert pooled == ["act1_2", "act2_2", "act3_3", "act4_3", "act5_3"]
    assert [found[0][site][0] for site in pooled] == [16, 8, 4, 2, 1]


def test_average_pool_of_the_stem_counts_padding():
    """With the identity as kernel, the corner window of a constant image has 4 of its 9 pixels inside."""
    model = models.create("resnet18", 1, ReLU(), blocks=(), channels=1, stem="imagenet", norm=False)
    x = jnp.ones((1, 8, 8, 1))
    variables = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), x))
    variables["params"]["conv_stem"]["kernel"] = jnp.zeros((7, 7, 1, 1)).at[3, 3].set(1.0)
    variables["params"]["head"]["kernel"] = jnp.ones((1, 1))
    np.testing.assert_allclose(model.apply(variables, x), [[np.mean([4 / 9, 6 / 9, 6 / 9, 1])]], rtol=1e-6)


LARGE = ("resnet44", "resnet56", "regnetx_4gf")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in models.MODELS])
def test_every_activation_has_the_same_tree_but_for_theta(name):
    def without_theta(act):
        _, variables = abstract(name, act=act)
        leaves = jax.tree_util.tree_leaves_with_path(variables)
        return [(jax.tree_util.keystr(p), leaf.shape) for p, leaf in leaves if "theta" not in jax.tree_util.keystr(p)]

    assert without_theta(QCFS(L=8)) == without_theta(ClippedReLU()) == without_theta(ReLU())


@pytest.mark.parametrize("options", [{"shortcut": "pad"}, {"shortcut": "projection"}, {"norm": False}])
@pytest.mark.slow
def test_only_trailing_axes_are_touched(options):
    model = models.create("resnet20", 10, QCFS(L=8), blocks=(1, 1), channels=4, **options)
    x = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 3))
    variables = model.init(jax.random.key(1), x[0])
    together = model.apply(variables, x)
    np.testing.assert_allclose(together[1], model.apply(variables, x[1]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(together[1, 2], model.apply(variables, x[1, 2]), rtol=1e-5, atol=1e-6)


def test_option_a_takes_every_second_pixel_and_pads_channels():
    """With all weights 0, a block passes its shortcut on."""
    model = models.create("resnet20", 4, ReLU(), blocks=(1, 1), channels=2, shortcut="pad", norm=False)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    variables = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), x))
    stem = variables["params"]["conv_stem"]["kernel"]
    variables["params"]["conv_stem"]["kernel"] = stem.at[1, 1, 0].set(jnp.array([1.0, 10.0]))
    variables["params"]["head"]["kernel"] = jnp.eye(4)
    mean = np.mean([0, 2, 8, 10])
    np.testing.assert_allclose(model.apply(variables, x), [[0, mean, 10 * mean, 0]])


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown model 'resnet21'; known: vgg16, .*resnet20"):
        models.create("resnet21", 10, ReLU())
    with pytest.raises(ValueError, match=r"resnet20 has no option hidden; known: blocks, channels"):
        models.create("resnet20", 10, ReLU(), hidden=())
    with pytest.raises(ValueError, match=r"has no option parent; known: blocks, channels, norm, pool, shortcut, stem"):
        models.create("resnet20", 10, ReLU(), parent=None)
    with pytest.raises(ValueError, match="shortcut is 'projection' or 'pad'"):
        models.create("resnet20", 10, ReLU(), shortcut="zero")
    with pytest.raises(ValueError, match="stem is 'cifar', 'imagenet' or 'deep'; got 'wide'"):
        models.create("resnet18", 10, ReLU(), stem="wide")
    for name in ("vgg16", "resnet18"):
        with pytest.raises(ValueError, match="pool is 'avg' or 'max'; got 'sum'"):
            models.create(name, 10, ReLU(), pool="sum")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_convolution_of_images_smaller_than_the_kernel(size, stride):
    x = jax.random.normal(jax.random.key(0), (5, size, size, 4))
    ours = conv(6, strides=stride)
    variables = ours.init(jax.random.key(1), x)
    theirs = nn.Conv(6, (3, 3), strides=stride, padding=1)
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), atol=1e-5)


def test_small_images_are_not_taken_for_the_kernel():
    """VGG-16's last stage has 2 x 2 pixels; XLA would reverse the images and convolve the kernel with them."""
    model = models.create("vgg16", 10, ReLU(), hidden=())
    x = jnp.zeros((2, 32, 32, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    text = jax.jit(model.apply).lower(variables, x).compile().as_text()
    assert " reverse(" not in text

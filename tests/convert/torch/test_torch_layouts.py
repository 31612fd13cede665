"""Imported networks against the PyTorch networks they come from, layout by layout."""

import json

import jax
import numpy as np
import pytest

from convert.torch import files, import_state_dict
from convert.torch.command import FromTorch, main
from tppjax import ann, data
from tppjax.activations import QCFS, ClippedReLU, ReLU


@pytest.fixture
def networks(torch):
    from tests.convert.torch import torch_networks

    torch.manual_seed(3)
    return torch_networks


def state_of(network):
    return {key: tensor.detach().numpy() for key, tensor in network.state_dict().items()}


def logits_of_both(torch, network, imported, n=4):
    """Ours and PyTorch's on the same random images, and the standard deviation over images of the widest logit."""
    rng = np.random.default_rng(1)
    colours = rng.normal(size=(n, 1, 1, imported.preprocessing.input_shape[-1]))
    images = (2 * colours + rng.normal(size=(n, *imported.preprocessing.input_shape))).astype(np.float32)
    with torch.no_grad():
        theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    spread = theirs.std(axis=0).max()
    assert spread > 0.01
    return np.asarray(jax.jit(type(imported).apply)(imported, images)), theirs, spread


def resnet(blocks, channels, pool=None, **options):
    def make(n):
        pooling = {"avg": n.nn.AvgPool2d, "max": n.nn.MaxPool2d, None: n.nn.Identity}[pool](3, 2, 1)
        return n.ResNet(blocks, channels, pool=pooling, **options)

    return make


# Layout, our name, the network in PyTorch. Where a flatten is, the last map has several pixels.
SMALL = {
    "akamaster resnet20": ("akamaster", "resnet20", resnet((3, 3, 3), 16, shortcut="pad", head="linear"), 16),
    "akamaster resnet32": ("akamaster", "resnet32", resnet((5, 5, 5), 4, shortcut="pad", head="linear"), 16),
    "akamaster option B": ("akamaster", "resnet20", resnet((3, 3, 3), 4, shortcut="shortcut", head="linear"), 16),
    "snnc resnet20": ("snnc", "resnet20", resnet((3, 3, 3), 64), 8),
    "snnc vgg16": ("snnc", "vgg16", lambda n: n.SnncVgg(pixels=4), 64, "avg"),
    "snnc vgg16 of wide images": ("snnc", "vgg16", lambda n: n.SnncVgg(pixels=2), (32, 64), "avg"),
    "snnc vgg16 without norm": ("snnc", "vgg16", lambda n: n.SnncVgg(norm=False), 32, "avg"),
    "kuangliu vgg16": ("kuangliu", "vgg16", lambda n: n.SnncVgg(pool=n.nn.MaxPool2d), 32, "max"),
    "kuangliu resnet18": ("kuangliu", "resnet18", resnet((2,) * 4, 4, shortcut="shortcut", head="linear"), 16),
    "chenyaofo resnet44": ("snnc", "resnet44", resnet((7, 7, 7), 4), 8),
    "3x3 stem without pool": ("torchvision", "resnet18", resnet((2,) * 4, 4), 16, "none"),
}
DEEP, SEVEN = {"stem": "deep", "pool": "avg", "classes": 1000}, {"stem": "imagenet", "pool": "max", "classes": 1000}
IMAGENET = {
    "snnc resnet34": ("snnc", "resnet34", resnet((3, 4, 6, 3), 4, **DEEP), None),
    "snnc vgg16": ("snnc", "vgg16", lambda n: n.TorchvisionVgg(True, n.nn.AvgPool2d, classes=1000), "avg"),
    "resnet18": ("torchvision", "resnet18", resnet((2, 2, 2, 2), 8, **SEVEN), None),
    "resnet34": ("torchvision", "resnet34", resnet((3, 4, 6, 3), 4, **SEVEN), None),
    "vgg16": ("torchvision", "vgg16", lambda n: n.TorchvisionVgg(norm=False, classes=1000), "max"),
    "vgg16_bn": ("torchvision", "vgg16", lambda n: n.TorchvisionVgg(norm=True, classes=1000), "max"),
    "timm": ("timm", "regnetx_4gf", lambda n: n.RegNet(n.TimmBlock, classes=1000), None),
    "pycls": ("pycls", "regnetx_4gf", lambda n: n.RegNet(n.PyclsBlock, bgr=True, classes=1000), None),
}
UNKNOWN_IMAGES = {"dataset": "mine", "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def check_relu(torch, network, layout, arch, **options):
    """Imports it, once with the layout recognised, and compares the logits."""
    imported = import_state_dict(state_of(network), arch, **options)
    assert imported.model == import_state_dict(state_of(network), arch, layout, **options).model
    assert imported.model.act == ReLU()
    assert ann.thresholds(imported.variables) == {}
    ours, theirs, spread = logits_of_both(torch, network, imported)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * spread)
    return imported


@pytest.mark.parametrize("case", SMALL)
def test_logits_are_those_of_pytorch(torch, networks, case):
    layout, arch, make, size, *pool = SMALL[case]
    pool = {"pool": pool[0]} if pool else {}
    check_relu(torch, networks.drawn(make(networks)), layout, arch, size=size, **pool, **UNKNOWN_IMAGES)


@pytest.mark.parametrize("case", IMAGENET)
def test_networks_for_imagenet(torch, networks, case):
    """Narrow, with images of 224 pixels and 1000 classes, by which they are recognised."""
    layout, arch, make, pool = IMAGENET[case]
    imported = check_relu(torch, networks.drawn(make(networks)), layout, arch, pool=pool)
    images = imported.preprocessing
    assert (images.dataset, images.input_shape, len(images.class_names)) == ("imagenet2012", (224, 224, 3), 1000)
    assert (images.mean, images.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_blue_is_first_in_pycls_and_last_in_ours(networks):
    network = networks.drawn(networks.RegNet(networks.PyclsBlock))
    network.stem.conv.weight.data[:, 1:] = 0
    imported = import_state_dict(state_of(network), "regnetx_4gf", size=32, **UNKNOWN_IMAGES)
    red, green, blue = np.moveaxis(imported.variables["params"]["conv_stem"]["kernel"], 2, 0)
    assert not red.any()
    assert not green.any()
    np.testing.assert_array_equal(blue, network.stem.conv.weight[:, 0].detach().numpy().transpose(1, 2, 0))


# Our name, the network in PyTorch, side of the images; None: the data set's.
LEARNED = {
    "resnet20, old": ("resnet20", lambda n: n.QcfsResNet((3, 3, 3), 16, "up", L=8), 16),
    "resnet18, new": ("resnet18", lambda n: n.QcfsResNet((2, 2, 2, 2), 8, "thresh", L=8), 16),
    "resnet34, old, ImageNet": ("resnet34", lambda n: n.QcfsResNet((3, 4, 6, 3), 4, "up", L=8, classes=1000), 32),
    "vgg16, old": ("vgg16", lambda n: n.QcfsVgg("up", L=8, side=2), 64),
    "vgg16, new": ("vgg16", lambda n: n.QcfsVgg("thresh", L=8, side=2), 64),
    "vgg16, old, ImageNet": ("vgg16", lambda n: n.QcfsVgg("up", L=8, side=7, classes=1000), None),
    "vgg16 without norm, new": ("vgg16", lambda n: n.QcfsVgg("thresh", L=8, norm=False, side=2), 64),
}


@pytest.mark.parametrize("case", LEARNED)
def test_learned_thresholds_are_those_of_pytorch(torch, networks, case):
    """A sum that rounds to the other side of a level moves an image's logits; most images have none."""
    arch, make, size = LEARNED[case]
    network = networks.drawn(make(networks))
    imported = import_state_dict(state_of(network), arch, act=QCFS(L=8), size=size)
    assert imported.preprocessing.dataset == {10: "cifar10", 1000: "imagenet2012"}[imported.model.num_classes]
    thetas = [float(value[0]) for key, value in state_of(network).items() if key.endswith((".up", ".thresh"))]
    assert sorted(map(float, ann.thresholds(imported.variables).values())) == sorted(thetas)
    ours, theirs, spread = logits_of_both(torch, network, imported, n=12)
    assert np.mean(np.abs(ours - theirs).max(axis=1) < 1e-4 * spread) > 0.7


def test_trainable_clip_takes_its_bounds_from_the_file(torch, networks):
    """QCFS's old repository with L = 0 has the same keys and no levels; very many levels are nearly that."""
    network = networks.drawn(networks.QcfsResNet((3, 3, 3), 4, "up", L=10**5))
    imported = import_state_dict(state_of(network), "resnet20", act=ClippedReLU(), size=8)
    ours, theirs, spread = logits_of_both(torch, network, imported)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * spread)


def test_published_resnet20_has_the_logits_of_pytorch(torch, networks, real_weights):
    network = networks.ResNet((3, 3, 3), 16, shortcut="pad", head="linear").eval()
    weights = torch.load(real_weights, map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()}, strict=False)
    imported = import_state_dict(files.read(real_weights), "resnet20")
    ours, theirs, _ = logits_of_both(torch, network, imported)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_published_resnet20_has_its_published_accuracy(real_weights, real_cifar10, tmp_path):
    main(FromTorch(real_weights, arch="resnet20", out=tmp_path / "net"))
    test = data.load("cifar10", "test", real_cifar10)
    imported = ann.load(tmp_path / "net")
    assert json.loads((tmp_path / "net" / "ann" / "ann.json").read_text())["model"]["options"]["shortcut"] == "pad"
    assert ann.accuracy(imported, test) == pytest.approx(91.73, abs=0.02)

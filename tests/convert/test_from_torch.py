"""Imported networks against the PyTorch networks they come from, layout by layout; every refusal."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from numpy.lib.stride_tricks import sliding_window_view

from convert import to_snn, torch_files
from convert.from_torch import FromTorch, import_state_dict, main
from tests.convert.torch_states import POOLED, QCFS_VGG, SNNC_VGG, akamaster_state, qcfs_vgg_state, snnc_vgg_state
from tppjax import ann, cli, data, models
from tppjax.activations import QCFS, ClippedReLU, ReLU


@pytest.fixture
def networks(torch):
    from tests.convert import torch_networks

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
    "snnc vgg16": ("snnc", "vgg16", lambda n: n.SnncVgg(side=2), 64),
    "snnc vgg16 without norm": ("snnc", "vgg16", lambda n: n.SnncVgg(norm=False), 32),
}
DEEP, SEVEN = {"stem": "deep", "pool": "avg", "classes": 1000}, {"stem": "imagenet", "pool": "max", "classes": 1000}
IMAGENET = {
    "snnc resnet34": ("snnc", "resnet34", resnet((3, 4, 6, 3), 4, **DEEP), None),
    "snnc vgg16": ("torchvision", "vgg16", lambda n: n.TorchvisionVgg(True, n.nn.AvgPool2d, classes=1000), "avg"),
    "resnet18": ("torchvision", "resnet18", resnet((2, 2, 2, 2), 8, **SEVEN), None),
    "resnet34": ("torchvision", "resnet34", resnet((3, 4, 6, 3), 4, **SEVEN), None),
    "vgg16": ("torchvision", "vgg16", lambda n: n.TorchvisionVgg(norm=False, classes=1000), None),
    "vgg16_bn": ("torchvision", "vgg16", lambda n: n.TorchvisionVgg(norm=True, classes=1000), None),
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
    layout, arch, make, size = SMALL[case]
    check_relu(torch, networks.drawn(make(networks)), layout, arch, size=size, **UNKNOWN_IMAGES)


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


# Without PyTorch.


def conv_norm(x, state, conv, norm):
    """PyTorch's 3x3 convolution with padding 1 and its batch norm at inference, on `[C, H, W]`."""
    windows = sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1))), (3, 3), axis=(1, 2))
    y = np.einsum("ihwkl,oikl->ohw", windows, state[f"{conv}.weight"]) + state[f"{conv}.bias"][:, None, None]
    scale, bias, mean, var = (
        state[f"{norm}.{leaf}"][:, None, None] for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    return (y - mean) / np.sqrt(var + 1e-5) * scale + bias


def halved(x):
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean((2, 4))


def test_command_imports_safetensors_without_pytorch(tmp_path, monkeypatch, capsys):
    """Against PyTorch's arithmetic by hand."""
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    state = snnc_vgg_state()
    safetensors.numpy.save_file(state, tmp_path / "vgg.safetensors")
    config = FromTorch(tmp_path / "vgg.safetensors", arch="vgg16", out=tmp_path / "vgg", size=64)
    main(config)
    said = capsys.readouterr().out
    assert "vgg16 of layout snnc" in said
    assert "mean (0.4914, 0.4822, 0.4465), std (0.2023, 0.1994, 0.201)" in said
    assert "yours to change: --pool, --dataset, --mean, --std\n" in said
    imported = ann.load(tmp_path / "vgg")
    assert imported.history == ("imported from vgg.safetensors: vgg16 of layout snnc",)
    (tmp_path / "vgg" / "snn").mkdir()
    main(config)  # again, beside what was evaluated
    assert (tmp_path / "vgg" / "snn").is_dir()
    (tmp_path / "vgg" / "config.json").touch()
    with pytest.raises(FileExistsError, match="holds a training run"):
        main(config)
    image = np.random.default_rng(2).normal(size=(3, 64, 64)).astype(np.float32)
    x = image
    for at in SNNC_VGG:
        x = np.maximum(conv_norm(x, state, f"features.{at}", f"features.{at + 1}"), 0)
        x = halved(x) if at in POOLED else x
    expected = state["classifier.weight"] @ x.ravel() + state["classifier.bias"]
    np.testing.assert_allclose(imported.apply(image.transpose(1, 2, 0)[None])[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threshold", ["up", "thresh"])
def test_thresholds_find_their_sites_without_pytorch(threshold):
    state = qcfs_vgg_state(threshold)
    imported = import_state_dict(state, "vgg16", act=QCFS(L=4))
    found = {site: float(theta) for site, theta in ann.thresholds(imported.variables).items()}
    expected = {
        f"act{stage}_{j}": float(state[f"layer{stage}.{at + 2}.{threshold}"][0])
        for stage, places in QCFS_VGG.items()
        for j, at in enumerate(places, 1)
    }
    dense = {f"act_dense{i}": float(state[f"classifier.{at}.{threshold}"][0]) for i, at in ((1, 2), (2, 5))}
    assert found == expected | dense
    assert imported.model == models.create(
        "vgg16", 10, QCFS(L=4), stages=((3, 3), (3, 3), (3,) * 3, (3,) * 3, (3,) * 3), hidden=(5, 4)
    )


def test_imported_network_converts_without_loss_at_as_many_steps_as_levels():
    """Away from rounding borders, that is: the images whose every sum stays on its side."""
    imported = import_state_dict(qcfs_vgg_state(), "vgg16", act=QCFS(L=4))
    images = np.random.default_rng(4).normal(size=(8, 32, 32, 3)).astype(np.float32)
    ours, spiking = (jax.jit(type(n).apply)(n, images) for n in (imported, to_snn(imported, T=4, mode="rounded")))
    assert np.mean(np.abs(ours - spiking).max(axis=1) < 1e-4) > 0.7


def test_wrappers_prefixes_and_counters_are_taken_off():
    state = akamaster_state()
    counted = state | {"bn1.num_batches_tracked": np.array(7)}
    prefixed = {f"_orig_mod.module.{key}": value for key, value in counted.items()}
    again = {f"module.{key}": value for key, value in counted.items()}
    plain, *others = (import_state_dict(s, "resnet20") for s in (state, counted, prefixed, again))
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, other.variables, plain.variables)


def test_without_norm_and_biases_the_biases_are_zero():
    """SNNC's ResNets without batch norm have none at all."""
    state = {key: value for key, value in akamaster_state().items() if ".bn" not in key and not key.startswith("bn")}
    imported = import_state_dict(state, "resnet20")
    assert not imported.model.norm
    assert "batch_stats" not in imported.variables
    np.testing.assert_array_equal(imported.variables["params"]["conv_stem"]["bias"], np.zeros(2))
    with pytest.raises(ValueError, match=r"missing: layer1\.0\.conv1\.bias, "):
        import_state_dict(state | {"conv1.bias": np.ones(2)}, "resnet20")


def test_what_the_images_are():
    imported = import_state_dict(akamaster_state(), "resnet20")
    assert imported.preprocessing.class_names == data.info("cifar10").class_names
    assert imported.preprocessing.mean == (0.485, 0.456, 0.406)
    assert import_state_dict(akamaster_state(classes=100), "resnet20").preprocessing.dataset == "cifar100"
    own = import_state_dict(
        akamaster_state(classes=7), "resnet20", dataset="mine", mean=(0.5,) * 3, std=(0.2,) * 3, size=9
    )
    assert own.preprocessing == data.Preprocessing("mine", (9, 9, 3), (0.5,) * 3, (0.2,) * 3, tuple("0123456"))
    qcfs = import_state_dict(qcfs_vgg_state(), "vgg16", act=QCFS(L=4)).preprocessing
    assert (qcfs.mean, qcfs.std) == (data.info("cifar10").mean, data.info("cifar10").std)


def test_clipped_relu_with_a_bound_of_ones_own():
    imported = import_state_dict(akamaster_state(), "resnet20", act=ClippedReLU(bound=2.5))
    assert set(map(float, ann.thresholds(imported.variables).values())) == {2.5}
    assert len(ann.thresholds(imported.variables)) == 19


def changed(state, **changes):
    """Keys have dots, so they come with __ instead; None takes a key away."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in (state | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"bn1__bias": None, "linear__bias": None}, r"resnet20 of layout akamaster: missing: bn1\.bias, linear\.bias$"),
        ({"layer1__7__conv1__weight": np.ones(3)}, r": unknown: layer1\.7\.conv1\.weight$"),
        ({"conv1__weight": np.ones((2, 1, 3, 3))}, r"misshapen: conv1\.weight is \(2, 1, 3, 3\), not \(2, 3, 3, 3\)$"),
        ({"bn1__weight": np.array([1.0, np.nan])}, r"weights must be finite; bn1\.weight is \[ ?1\. +nan\]"),
        ({"conv1__bias": np.ones(2)}, r"unknown: conv1\.bias"),
    ],
)
def test_keys_that_do_not_fit_are_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        import_state_dict(changed(akamaster_state(), **changes), "resnet20")


def test_another_depth_is_refused_with_the_first_keys():
    with pytest.raises(ValueError, match=r"missing: layer1\.3\.bn1\.bias, .* and 52 more$"):
        import_state_dict(akamaster_state(), "resnet32")
    with pytest.raises(ValueError, match=r"unknown: layer1\.3\.bn1\.bias, .* and 52 more$"):
        import_state_dict(akamaster_state(blocks=5), "resnet20")


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_thresholds_that_cannot_be_are_refused_by_name(value):
    state = changed(qcfs_vgg_state(), layer3__6__thresh=np.array([value], np.float32))
    with pytest.raises(ValueError, match=r"positive and finite; layer3\.6\.thresh is"):
        import_state_dict(state, "vgg16", act=QCFS(L=4))


@pytest.mark.parametrize(
    ("state", "arguments", "said"),
    [
        (akamaster_state, {"arch": "vgg16"}, "layout akamaster has resnet20, resnet32, resnet44, resnet56; got vgg16"),
        (
            akamaster_state,
            {"layout": "his"},
            "unknown layout 'his'; known: akamaster, pycls, qcfs, snnc, timm, torchvision",
        ),
        (dict, {}, "the file holds no weights"),
        (lambda: {"stem.weight": np.ones(1)}, {}, r"no known layout has these keys: stem\.weight, .*--layout"),
        (akamaster_state, {"act": QCFS(L=4)}, "the file has no thresholds for qcfs"),
        (akamaster_state, {"act": ClippedReLU(bound=-1.0)}, "positive and finite; bound is -1"),
        (qcfs_vgg_state, {"arch": "vgg16", "act": QCFS(L=0)}, "--L must be at least 1; got 0"),
        (qcfs_vgg_state, {"arch": "vgg16"}, r"learned thresholds \(\.thresh\): give act=QCFS"),
        (qcfs_vgg_state, {"arch": "vgg16", "act": ReLU()}, r"learned thresholds \(\.thresh\): give act=QCFS"),
        (akamaster_state, {"dataset": "cifar100"}, "the file has 10 classes, cifar100 100; give another --dataset"),
        (akamaster_state, {"dataset": "mine"}, "10 classes .* give --mean and --std and --size"),
        (lambda: akamaster_state(classes=7), {}, "7 classes .* give --dataset and --mean and --std and --size"),
        (akamaster_state, {"mean": (0.5,)}, "one number a channel, std above 0"),
        (akamaster_state, {"std": (1.0, 1.0, 0.0)}, "one number a channel, std above 0"),
        (akamaster_state, {"size": 0}, "--size must be at least 1; got 0"),
        (akamaster_state, {"mean": (0.5,), "std": (0.5,)}, r"misshapen: conv1\.weight is \(2, 3, 3, 3\), not \(2, 1,"),
        (akamaster_state, {"pool": "sum"}, "pool is 'avg' or 'max'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(state, arguments, said):
    with pytest.raises(ValueError, match=said):
        import_state_dict(state(), **({"arch": "resnet20"} | arguments))


@pytest.fixture
def saved(tmp_path):
    def save(state):
        safetensors.numpy.save_file(state, tmp_path / "net.safetensors")
        return tmp_path / "net.safetensors"

    return save


@pytest.mark.parametrize(
    ("state", "options", "said"),
    [
        (qcfs_vgg_state, {"arch": "vgg16"}, "--L, the number of levels, is not in the file: give it for qcfs"),
        (akamaster_state, {"L": 4}, "--L, .* act is relu"),
        (akamaster_state, {"act": "clipped_relu"}, "give --bound for clipped_relu"),
        (qcfs_vgg_state, {"arch": "vgg16", "act": "clipped_relu", "bound": 1.0}, "give --bound .* without thresholds"),
    ],
)
def test_options_that_do_not_fit_are_refused(saved, tmp_path, state, options, said):
    with pytest.raises(ValueError, match=said):
        main(FromTorch(saved(state()), **({"arch": "resnet20", "out": tmp_path / "net"} | options)))
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("options", "act"),
    [
        ({"act": "relu"}, ReLU()),
        ({"act": "clipped_relu", "bound": 2.0}, ClippedReLU(bound=2.0)),
        ({"state": qcfs_vgg_state, "arch": "vgg16", "L": 4}, QCFS(L=4)),
        ({"state": qcfs_vgg_state, "arch": "vgg16", "act": "clipped_relu"}, ClippedReLU()),
    ],
)
def test_options_choose_the_activation(saved, tmp_path, options, act):
    options = {"arch": "resnet20", "state": akamaster_state} | options
    state = options.pop("state")()
    assert main(FromTorch(saved(state), out=tmp_path / "net", **options)).model.act == act
    assert ann.load(tmp_path / "net").model.act == act


def test_bad_input_ends_the_command_with_a_sentence(tmp_path, monkeypatch, capsys):
    argv = ["from_torch", str(tmp_path / "none.th"), "--arch", "resnet20", "--out", str(tmp_path / "net")]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit, match="2"):
        cli.run(main, FromTorch)
    assert capsys.readouterr().err == f"error: there is no file {tmp_path / 'none.th'}\n"


def test_published_resnet20_has_the_logits_of_pytorch(torch, networks, real_weights):
    network = networks.ResNet((3, 3, 3), 16, shortcut="pad", head="linear").eval()
    weights = torch.load(real_weights, map_location="cpu", weights_only=True)["state_dict"]
    network.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()}, strict=False)
    imported = import_state_dict(torch_files.read(real_weights), "resnet20")
    ours, theirs, _ = logits_of_both(torch, network, imported)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def test_published_resnet20_has_its_published_accuracy(real_weights, real_cifar10, tmp_path):
    main(FromTorch(real_weights, arch="resnet20", out=tmp_path / "net"))
    test = data.load("cifar10", "test", real_cifar10)
    imported = ann.load(tmp_path / "net")
    assert json.loads((tmp_path / "net" / "ann" / "ann.json").read_text())["model"]["options"]["shortcut"] == "pad"
    assert ann.accuracy(imported, test) == pytest.approx(91.73, abs=0.02)

"""`convert.from_torch`: modules of PyTorch as networks, against PyTorch, through files, and what is refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import convert  # noqa: E402
from convert.torch import TABLE, import_state_dict  # noqa: E402
from tests.convert.torch import torch_networks  # noqa: E402
from tests.convert.torch.test_torch_modules import of  # noqa: E402
from tests.convert.torch.test_torch_operations import images, randomise  # noqa: E402
from tppjax import checkpoint, data  # noqa: E402
from tppjax.data import Preprocessing  # noqa: E402
from tppjax.errors import InputError  # noqa: E402

IMAGE = (3, 8, 8)


def test_it_is_the_function_whatever_is_imported():
    code = (
        "import importlib, pkgutil, sys, convert.torch; f = convert.from_torch\n"
        "for module in pkgutil.walk_packages(convert.torch.__path__, 'convert.torch.'):\n"
        "    importlib.import_module(module.name)\n"
        "import convert.from_torch\nfrom convert import from_torch\n"
        "assert from_torch is convert.from_torch is f and callable(f) and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def conv(i, o, size=3, stride=1, groups=1, act=nn.ReLU):
    norm = nn.Conv2d(i, o, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(o)
    return nn.Sequential(*norm, *([act(inplace=True)] if act else []))


def head(channels, classes=5):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(channels, classes))


class Bottleneck(nn.Module):
    """ResNet-50's, where one ReLU is called three times."""

    def __init__(self, i, o):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            conv(i, o, 1, act=None),
            conv(o, o, 3, 2, act=None),
            conv(o, o, 1, act=None),
        )
        self.relu, self.downsample = nn.ReLU(inplace=True), conv(i, o, 1, 2, act=None)

    def forward(self, x):
        y = self.conv3(self.relu(self.conv2(self.relu(self.conv1(x)))))
        y += self.downsample(x)
        return self.relu(y)


class Inverted(nn.Module):
    """MobileNetV2's, whose one ReLU6 is called twice."""

    def __init__(self, c):
        super().__init__()
        self.expand, self.depth = conv(c, 2 * c, 1, act=None), conv(2 * c, 2 * c, groups=2 * c, act=None)
        self.project, self.act = conv(2 * c, c, 1, act=None), nn.ReLU6(inplace=True)

    def forward(self, x):
        return x + self.project(self.act(self.depth(self.act(self.expand(x)))))


class Dense(nn.Module):
    """DenseNet's: batch norm and ReLU first, over all that came before."""

    def __init__(self, c, more):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c + i * more) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(c + i * more, more, 3, padding=1, bias=False) for i in range(3))

    def forward(self, x):
        features = [x]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(F.relu(norm(torch.cat(features, 1)), inplace=True)))
        return torch.cat(features, 1)


class Fire(nn.Module):
    """SqueezeNet's, with a max-pool whose last window reaches past the end."""

    def __init__(self, c):
        super().__init__()
        self.squeeze, self.one = nn.Conv2d(c, 3, 1), nn.Conv2d(3, 4, 1)
        self.three, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return self.pool(torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1))


class Shuffle(nn.Module):
    """ShuffleNetV2's: halves of the channels, one of which goes on as it is, then shuffled."""

    def __init__(self, c):
        super().__init__()
        self.branch = nn.Sequential(conv(c, c, 1), conv(c, c, groups=c, act=None), conv(c, c, 1))

    def forward(self, x):
        a, b = x.chunk(2, dim=1)
        return F.channel_shuffle(torch.cat([a, self.branch(b)], 1), 2)


class UNet(nn.Module):
    """Skip connections, upsampling of two kinds, padding by reflection, and an output for each pixel."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(4, 6), conv(6, 8)
        self.up, self.d, self.e = nn.ConvTranspose2d(8, 6, 2, 2), conv(12, 6), conv(10, 4)
        self.out = nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        x = self.d(torch.cat([self.up(self.c(F.max_pool2d(b, 2))), b], 1))
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return {"masks": self.out(self.e(torch.cat([x, a], 1)))}


NETWORKS = {  # and their numbers of sites; a ReLU that is read with and without max-pool is two
    "bottleneck": (lambda: nn.Sequential(conv(3, 4), Bottleneck(4, 6), head(6)), 4),
    "inverted residual": (lambda: nn.Sequential(conv(3, 4, act=nn.ReLU6), Inverted(4), head(4)), 3),
    "dense": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Dense(4, 2), nn.BatchNorm2d(10), nn.ReLU(), head(10)), 4),
    "fire": (lambda: nn.Sequential(conv(3, 4), Fire(4), head(8)), 5),
    "shuffle": (lambda: nn.Sequential(conv(3, 4), Shuffle(2), Shuffle(2), head(4)), 5),
    "groups and dilation": (lambda: nn.Sequential(nn.Conv2d(3, 6, 3, 2, 2, 2, 3), nn.Hardtanh(0, 2), head(6)), 1),
    "unet": (UNet, 7),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_come_back_from_a_folder_bit_for_bit(name, tmp_path):
    make, sites = NETWORKS[name]
    module, x = randomise(make()), images(IMAGE, 2)
    network = convert.from_torch(module, x[:1])
    assert len(network.sites) == sites
    assert network.graph.shape == IMAGE
    with torch.no_grad():
        expected = jax.tree.map(lambda y: y.numpy(), module(torch.from_numpy(x)))
    apply = jax.jit(type(network).apply)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), apply(network, x), expected)
    checkpoint.save(network, tmp_path / "network")
    loaded = checkpoint.load(tmp_path / "network")
    jax.tree.map(np.testing.assert_array_equal, apply(loaded, x), apply(network, x))
    assert loaded.thetas.keys() == network.thetas.keys()


def test_one_relu6_called_twice_is_two_sites_with_thresholds():
    network = convert.from_torch(randomise(NETWORKS["inverted residual"][0]()), images(IMAGE, 1))
    thetas = {site: float(theta) for site, theta in network.thetas.items()}
    assert thetas == {"0/0": 6, "1/expand/0": 6, "1/depth/0": 6}
    snn = convert.to_snn(network, T=64, mode="rounded")
    x = images(IMAGE, 4)
    np.testing.assert_allclose(snn.apply(x), network.apply(x), atol=0.3)


def resnet20(real_weights=None):
    module = torch_networks.ResNet((3, 3, 3), 16, shortcut="pad", head="linear")
    if real_weights is None:
        return torch_networks.drawn(module)
    weights = torch.load(real_weights, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()}, strict=False)
    return module.eval()


@pytest.mark.parametrize("source", ["random", "published"])
@pytest.mark.slow
def test_resnet20_is_the_same_by_its_layout(source, request):
    """As a module in NCHW and by our own model: the same thresholds and spikes."""
    module = resnet20(request.getfixturevalue("real_weights") if source == "published" else None)
    ours = import_state_dict({key: value.numpy() for key, value in module.state_dict().items()}, "resnet20")
    theirs = convert.from_torch(module, None, replace(ours.preprocessing, channels_first=True))
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    networks = [convert.calibrate(n, pixels, "max") for n in (ours, theirs)]
    assert len(theirs.sites) == 19
    for a, b in zip(*(n.thetas.values() for n in networks), strict=True):
        np.testing.assert_allclose(a, b, 1e-4, 1e-6 * a.max())
    logits = [np.asarray(n.apply(pixels)) for n in networks]
    np.testing.assert_allclose(*logits, atol=1e-4 * np.abs(logits[0]).max())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    module = randomise(NETWORKS["bottleneck"][0]())
    network = convert.from_torch(module.to(dtype), images(IMAGE, 1))
    x = images(IMAGE, 2)
    with torch.no_grad():
        expected = module.float()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(network.apply(x).astype(np.float32), expected, atol=5e-2 * np.abs(expected).max())


def test_thresholds_of_qcfs_are_those_of_the_module():
    module = torch_networks.drawn(torch_networks.QcfsResNet((1, 1), 4, "thresh", L=8))
    network = convert.from_torch(module, images(IMAGE, 1))
    assert {(site.kind, site.levels) for site in network.sites.values()} == {("qcfs", 8)}
    learned = [float(value) for key, value in module.state_dict().items() if key.endswith("thresh")]
    assert sorted(float(theta) for theta in network.thetas.values()) == pytest.approx(sorted(learned))


def test_the_module_stays_in_training_mode_and_is_read_in_eval_mode():
    module = randomise(nn.Sequential(conv(3, 4), nn.Dropout(0.9), head(4)))
    x = images(IMAGE, 2)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    module.train()
    network = convert.from_torch(nn.DataParallel(module), torch.from_numpy(x[:1]))
    np.testing.assert_allclose(network.apply(x), expected, 1e-4, 1e-5)
    assert all(part.training for part in module.modules())


@pytest.mark.parametrize(
    ("make", "what", "module"),
    [
        (nn.GELU, "GELU", "1"),
        (nn.SiLU, "SiLU", "1"),
        (nn.Hardswish, "hard swish", "1"),
        (nn.Sigmoid, "a sigmoid", "1"),
        (nn.ELU, "ELU", "1"),
        (lambda: nn.Softmax(1), "softmax", "1"),
        (lambda: nn.LayerNorm((8, 8)), "layer norm", "1"),
        (lambda: nn.GroupNorm(2, 4), "group norm", "1"),
        (lambda: of(lambda self, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))), "a sigmoid", "1"),
        (lambda: nn.Sequential(nn.Flatten(2), nn.LSTM(64, 4)), "a recurrent layer|tanh", "1.1"),
        (lambda: nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(64, 2, 8)), "layer norm|attention", "1.1"),
        (lambda: nn.LeakyReLU(0.1), "leaky ReLU at", "1"),
        (lambda: of(lambda self, x: x * F.hardsigmoid(x.mean((2, 3), keepdim=True))), "both depend .* gate", "1"),
        (lambda: of(lambda self, x: x @ x.transpose(2, 3)), "both depend .* attention", "1"),
    ],
)
def test_what_has_no_spikes_is_refused_by_name_line_and_module(make, what, module):
    network = randomise(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), make()))
    with pytest.raises(InputError, match=rf"({what})(.|\n)*replace the rest") as e:
        convert.from_torch(network, images(IMAGE, 1))
    assert ".py:" in str(e.value)
    assert f" in {module}" in str(e.value).replace("/", ".")


def test_all_places_are_in_one_message_with_the_users_lines():
    def forward(self, x):
        x = F.gelu(self.a(x))  # line A
        return torch.tanh(self.b(x))  # line B

    lines = Path(__file__).read_text().splitlines()
    a, b = (next(i for i, line in enumerate(lines, 1) if line.endswith(f"# line {k}")) for k in "AB")
    with pytest.raises(InputError) as e:
        convert.from_torch(of(forward, conv(3, 4), conv(4, 4)), images(IMAGE, 1))
    here = "tests/convert/torch/test_from_torch.py"
    assert f"GELU at {here}:{a} in the network itself\n  tanh at {here}:{b} in the network itself\n" in str(e.value)


def test_what_the_output_does_not_need_is_not_refused():
    def forward(self, x):
        self.seen = torch.sigmoid(self.a(x)).mean()
        y = F.leaky_relu(self.a(x), 0)
        return y * (y > 0) * torch.sigmoid(self.b.weight.sum()) * torch.ones_like(y[..., :1])

    convert.from_torch(of(forward, conv(3, 4), nn.Linear(2, 2)), images(IMAGE, 1))


def test_a_network_without_activation_is_refused():
    with pytest.raises(InputError, match="no activation that spiking neurons can take the place of"):
        convert.from_torch(nn.Sequential(nn.Conv2d(3, 4, 3), head(4)), images(IMAGE, 1))


def test_a_network_that_mixes_examples_is_refused_and_one_for_a_single_example_is_not():
    with pytest.raises(InputError, match="depends on the others in its batch"):
        convert.from_torch(of(lambda self, x: self.a(x - x.mean(0)), conv(3, 4)), images(IMAGE, 1))
    single = of(lambda self, x: self.a(x).view(1, 256), conv(3, 4))
    network, x = convert.from_torch(single, images(IMAGE, 1)), images(IMAGE, 3)
    with torch.no_grad():
        expected = torch.cat([single(torch.from_numpy(x[i : i + 1])) for i in range(3)]).numpy()
    np.testing.assert_allclose(network.apply(x), expected, 1e-4, 1e-5)


def test_a_wrong_translation_is_found(monkeypatch):
    right = TABLE["linear"]
    monkeypatch.setitem(TABLE, "linear", lambda x, w, b: right(x, w, b) * 1.001)
    with pytest.raises(InputError, match=r"other outputs than Sequential in PyTorch, by 0\.001 of"):
        convert.from_torch(randomise(nn.Sequential(conv(3, 4), head(4))), images(IMAGE, 1))


def test_numbers_that_are_not_finite_are_compared_too(monkeypatch):
    """Masked logits must not hide an error in the others, and NaN is no agreement."""
    module = randomise(nn.Sequential(conv(3, 4), head(4)))
    masked = of(lambda self, x: self.m(x).masked_fill(torch.arange(5) == 2, -torch.inf))
    masked.m = module
    network = convert.from_torch(masked, images(IMAGE, 1))
    assert np.isneginf(network.apply(images(IMAGE, 2))[:, 2]).all()
    right = TABLE["linear"]
    for wrong, by in ((lambda y: y * 1.001, r"0\.001"), (lambda y: y * np.nan, "inf")):
        monkeypatch.setitem(TABLE, "linear", lambda x, w, b, wrong=wrong: wrong(right(x, w, b)))
        with pytest.raises(InputError, match=f"other outputs than .* in PyTorch, by {by} of"):
            convert.from_torch(masked, images(IMAGE, 1))


def test_a_body_in_half_precision_with_a_head_in_float32():
    module = of(lambda self, x: self.head(self.body(x.half()).float().mean((2, 3))))
    module.body, module.head = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).half(), nn.Linear(4, 3)
    x = 20 * images((3, 160, 160), 2)  # sums over the image are beyond float16
    network = convert.from_torch(module, x[:1])
    assert len(network.sites) == 1
    np.testing.assert_allclose(network.apply(x), module(torch.from_numpy(x)).detach(), rtol=1e-2, atol=1e-2)


def test_batch_norm_of_half_precision_does_not_overflow():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), head(4)).eval()
    module[1].running_mean += 200
    module[1].running_var *= 1e-8
    module[0].weight.data *= 0.1
    x = images(IMAGE, 2)
    network = convert.from_torch(module.half(), x[:1])
    expected = module(torch.from_numpy(x).half()).detach().float()
    np.testing.assert_allclose(network.apply(x).astype(np.float32), expected, rtol=1e-2, atol=1e-2)


CIFAR = data.info("cifar10")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((nn.Sequential(), None), "needs an example, .* or a preprocessing"),
        ((nn.ReLU, images(IMAGE, 1)), "must be a torch.nn.Module, .*; got a class: make an instance"),
        (({"weight": 0}, images(IMAGE, 1)), "must be a torch.nn.Module, .*; got a dict"),
        ((nn.ReLU(), images(IMAGE, 2)), r"must be one input, \[1, ...\]; got \(2, 3, 8, 8\)"),
        ((nn.ReLU(), "image.png"), "must be an array of numbers, .*; got a str"),
        ((nn.ReLU(), np.full((1, 3), np.nan, np.float32)), "the example has numbers that are not finite"),
        ((nn.Sequential(nn.LazyLinear(3), nn.ReLU()), images((4,), 1)), "has lazy layers, .* run it once on the exam"),
        ((nn.Linear(4, 3, device="meta"), images((4,), 1)), "has weights without numbers, .* load its weights"),
        ((nn.ReLU(), images((3, 32, 32), 1), CIFAR), "set its channels_first=True"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, said):
    with pytest.raises(InputError, match=said):
        convert.from_torch(*arguments)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_what_torch_jit_compiled_is_refused():
    with pytest.raises(InputError, match=r"is compiled by torch\.jit: give the torch\.nn\.Module"):
        convert.from_torch(torch.jit.script(nn.ReLU()), images((4,), 1))


def test_pixels_stay_as_they_are_and_the_module_gets_its_own_axes():
    module = randomise(nn.Sequential(conv(3, 4), head(4)))
    info = Preprocessing("mine", (8, 6, 3), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), ("a",) * 5, channels_first=True)
    network = convert.from_torch(module, None, info)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), dtype=np.uint8)
    x = ((pixels / 255 - info.mean) / info.std).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(network.apply(pixels), expected, 1e-4, 1e-5)
    np.testing.assert_allclose(network.apply(jnp.asarray(x)), expected, 1e-4, 1e-5)

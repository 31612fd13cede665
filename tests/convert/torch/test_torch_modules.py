"""PyTorch modules as functions: their trees, batches, names and lines, and what is refused."""

import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import convert  # noqa: E402
from convert.torch import TABLE, to_jax  # noqa: E402
from tests.convert.torch.test_torch_operations import check, images, randomise  # noqa: E402
from tppjax.errors import InputError  # noqa: E402

IMAGE = (3, 8, 8)
Pair = namedtuple("Pair", "mean rest")


def of(f, *parts):
    """A module with the parts, called a, b, ..., that computes `f(module, x)`."""
    module = type("Network", (nn.Module,), {"forward": f})()
    for name, part in zip("abc", parts, strict=False):
        setattr(module, name, part)
    return randomise(module)


def conv():
    return nn.Conv2d(3, 3, 3, padding=1)


def lines(fn, params, x):
    """Every scope of the function, each once, in order."""
    jaxpr = jax.make_jaxpr(fn)(params, x).jaxpr
    return list(dict.fromkeys(str(eqn.source_info.name_stack) for eqn in jaxpr.eqns))


def test_importing_convert_leaves_pytorch_out():
    code = "import convert, convert.torch, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_any_tree_of_outputs():
    def forward(self, x):
        y = self.a(x)
        return {"out": y, "more": [Pair(y.mean((1, 2, 3)), None), (y.max(1),)], "ordered": OrderedDict(z=y + 1)}

    fn, params = to_jax(of(forward, conv()), images(IMAGE, 1))
    tree = fn(params, images(IMAGE, 2))
    assert isinstance(tree["more"][0], Pair)
    assert type(tree["ordered"]) is dict
    assert jax.tree.structure(tree) == jax.tree.structure(
        {"out": 0, "more": [Pair(0, None), ((0, 0),)], "ordered": {"z": 0}}
    )


def test_data_classes_are_dictionaries():
    @dataclass
    class Output:
        logits: torch.Tensor
        loss: torch.Tensor | None = None

    torch.export.register_dataclass(Output, serialized_type_name="tests.Output")
    fn, params = to_jax(of(lambda self, x: Output(self.a(x)), conv()), images(IMAGE, 1))
    tree = fn(params, images(IMAGE, 2))
    assert tree["logits"].shape == (2, *IMAGE)
    assert tree["loss"] is None


def test_params_are_by_key_each_once_and_copies():
    shared = conv()
    module = of(lambda self, x: self.b(self.a(x)) + self.own * self.other, shared, nn.Sequential(shared))
    module.own = nn.Parameter(torch.ones(8))
    module.register_buffer("other", torch.full((8,), 2.0), persistent=False)
    module.register_buffer("unused", torch.ones(3))
    fn, params = to_jax(module, images(IMAGE, 1))
    assert params.keys() == {"a.weight", "a.bias", "own", "other"}
    x = images(IMAGE, 2)
    before = np.asarray(fn(params, x))
    with torch.no_grad():
        shared.weight.zero_()
    np.testing.assert_array_equal(fn(params, x), before)
    assert not np.array_equal(fn(params | {"own": params["own"] * 2}, x), before)


def test_the_module_stays_as_it_was():
    module = of(lambda self, x: self.b(F.relu(self.a(x))), conv(), nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3)))
    module.train()
    module.b[1].eval()
    called = []
    module.a.register_forward_hook(lambda *_: called.append(1))
    before = {name: (part.training, len(part._forward_hooks)) for name, part in module.named_modules()}
    state = {key: value.clone() for key, value in module.state_dict().items()}
    to_jax(module, images(IMAGE, 1))
    assert before == {name: (part.training, len(part._forward_hooks)) for name, part in module.named_modules()}
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert module.a.weight.requires_grad
    assert module(torch.zeros(1, *IMAGE)).requires_grad


class Last(nn.Module):
    """The last output of a recurrent network."""

    def __init__(self, kind):
        super().__init__()
        self.layers = kind(5, 7, 2, batch_first=True)

    def forward(self, x):
        return self.layers(x)[0][:, -1]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_are_unrolled(kind):
    check(randomise(Last(kind)), images((4, 5), 2))


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_parametrised_weights(wrap):
    check(of(lambda self, x: self.a(x), wrap(conv())), images(IMAGE, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own
@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_wrappers_are_taken_off(wrap):
    module = of(lambda self, x: self.a(x), conv())
    _, params = to_jax(wrap(module), images(IMAGE, 1))
    assert params.keys() == {"a.weight", "a.bias"}


@pytest.mark.parametrize("convert", [torch.tensor, jax.numpy.asarray, np.float64])
def test_examples_of_any_library(convert):
    module = of(lambda self, x: self.a(x), conv())
    fn, params = to_jax(module, convert(images(IMAGE, 1)))
    assert fn(params, np.float64(images(IMAGE, 2))).dtype == np.float32


def test_whole_numbers_as_input():
    check(of(lambda self, x: self.a(x).mean(1), nn.Embedding(5, 4)), np.array([[0, 4, 2]]).repeat(2, 0))


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.a(x).view(1, 192),
        lambda self, x: {
            "a": self.a(x).view(1, 64, 3).mean(1),
            "b": torch.stack([self.a(y) for y in x]),
        },
    ],
)
def test_networks_for_one_batch_are_mapped(forward):
    module = of(forward, conv())
    fn, params = to_jax(module, images(IMAGE, 1))
    x = images(IMAGE, 3)
    tree = jax.vmap(lambda x: jax.tree.map(lambda y: y[0], fn(params, x[None])))(x)
    with torch.no_grad():
        single = [module(torch.tensor(x[i : i + 1])) for i in range(3)]
    for name in tree if isinstance(tree, dict) else [...]:
        got, expected = (tree, single) if name is ... else (tree[name], [one[name] for one in single])
        np.testing.assert_allclose(got, torch.cat(expected).numpy(), 1e-4, 1e-5)


def test_scopes_have_module_and_line():
    def helper(x):
        return F.relu(x)  # line A

    def forward(self, x):
        x = self.b(self.a(x))  # line B
        return helper(x) + 1  # line C

    source = Path(__file__).read_text().splitlines()
    a, b, c = (next(i for i, line in enumerate(source, 1) if line.endswith(f"# line {k}")) for k in "ABC")
    fn, params = to_jax(of(forward, conv(), nn.Sequential(nn.ReLU())), images(IMAGE, 1))
    here = "tests/convert/torch/test_torch_modules.py"
    assert lines(fn, params, images(IMAGE, 2)) == [
        f"a@{here}:{b}",
        f"b/0@{here}:{b}",
        f"@{here}:{a}",
        f"@{here}:{c}",
    ]


def test_all_that_is_missing_is_in_one_error(monkeypatch):
    def forward(self, x):
        x = F.grid_sample(self.a(x), torch.zeros(len(x), 4, 4, 2), align_corners=False)
        x, places = F.max_pool2d(x, 2, return_indices=True)
        return self.c(x) + places

    with pytest.raises(InputError) as e:
        to_jax(of(forward, conv(), None, nn.Sequential(nn.PixelShuffle(1), nn.RReLU())), images(IMAGE, 1))
    text = str(e.value)
    for part in (
        r"aten::grid_sampler_2d at tests/convert/torch/test_torch_modules.py:",
        "aten::max_pool2d_with_indices",
        "in c.1",
        "convert.torch.TABLE",
    ):
        assert part in text
    monkeypatch.setitem(TABLE, "grid_sampler_2d", lambda x, grid, *options: x[:, :, :4, :4])
    with pytest.raises(InputError) as e:
        to_jax(of(forward, conv(), None, nn.Identity()), images(IMAGE, 1))
    assert "grid_sampler" not in str(e.value)


def test_dropout_that_is_on():
    with pytest.raises(InputError, match=r"at tests/.*\.py:\d+ in the network itself.*random operations must be off"):
        to_jax(of(lambda self, x: F.dropout(self.a(x)), conv()), images(IMAGE, 1))


def test_what_torch_export_cannot_trace(capfd):
    def forward(self, x):
        if x.sum() > 0:
            x = x + 1
        return self.a(x)

    with pytest.raises(
        InputError, match=r"can't trace Network .* at tests/convert/torch/test_torch_modules.py:\d+: .*torch.where"
    ):
        to_jax(of(forward, conv()), images(IMAGE, 1))
    assert capfd.readouterr() == ("", "")


def test_buffers_that_change_are_refused():
    def forward(self, x):
        self.n.add_(1)
        return self.a(x) * self.n

    module = of(forward, conv())
    module.register_buffer("n", torch.ones(()))
    with pytest.raises(InputError, match=r"changes its buffers in eval mode \(n\)"):
        to_jax(module, images(IMAGE, 1))
    with pytest.raises(InputError, match=r"changes its buffers in eval mode \(n\)"):
        convert.from_torch(module, images(IMAGE, 1))
    assert module.n == 1


def test_buffers_of_any_kind_stay():
    module = of(lambda self, x: self.b(F.relu(self.a(x))), conv(), conv())
    module.register_buffer("sparse", torch.eye(3).to_sparse())
    module.register_buffer("elsewhere", torch.ones(3, device="meta"))
    network = convert.from_torch(module, images(IMAGE, 1))
    assert len(network.sites) == 1
    assert (module.sparse.is_sparse, module.elsewhere.is_meta) == (True, True)


def test_what_a_module_keeps_for_later_is_its_own():
    def forward(self, x):
        if self.kernel is None:
            self.kernel = torch.ones(3, 1, 3, 3) / 9
        return F.conv2d(F.relu(self.a(x)), self.kernel, groups=3)

    module, x = of(forward, conv()), images(IMAGE, 3)
    module.kernel = None
    network = convert.from_torch(module, x[:1])
    assert module.kernel is None
    np.testing.assert_allclose(network.graph.apply(network.weights, x), module(torch.tensor(x)).detach(), atol=1e-5)


@pytest.mark.parametrize(("module", "example"), [(np.zeros, images(IMAGE, 1)), (None, images(IMAGE, 2))])
def test_arguments_that_are_none(module, example):
    with pytest.raises(InputError):
        to_jax(module or of(lambda self, x: self.a(x), conv()), example)


ZOO = """alexnet vgg11 vgg16_bn resnet18 resnet50 resnext50_32x4d wide_resnet50_2 densenet121 squeezenet1_0
squeezenet1_1 googlenet inception_v3 mobilenet_v2 mnasnet0_5 mnasnet1_0 shufflenet_v2_x1_0 regnet_x_400mf regnet_x_8gf
mobilenet_v3_small efficientnet_b0 convnext_tiny regnet_y_400mf vit_b_32 swin_t maxvit_t fcn_resnet50 r3d_18""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_networks_of_torchvision(name):
    models = pytest.importorskip("torchvision.models", exc_type=Exception)
    options = {"weights_backbone": None} if name.startswith("fcn") else {}
    options |= {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    module = models.get_model(name, weights=None, **options)
    side = {"inception_v3": 299, "r3d_18": 64}.get(name, 224 if name.startswith(("vit", "swin", "maxvit")) else 96)
    x = images((3, 8, side, side) if name == "r3d_18" else (3, side, side), 2)
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    module.eval()
    for part in norms:  # statistics of a batch, so that activations keep their size
        part.momentum = 1.0
        part.train()
    with torch.no_grad():
        module(torch.tensor(x))
    module.eval()
    check(module, x, atol=1e-4)

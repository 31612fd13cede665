"""`python -m convert.from_torch --module`: the user's own module, with weights out of files as people have them."""

import runpy
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
import safetensors.torch  # noqa: E402
from torch import nn  # noqa: E402

import convert  # noqa: E402
from convert.torch import files, user_module  # noqa: E402
from convert.torch.command import FromTorch, main  # noqa: E402
from tests.convert.torch.test_torch_operations import randomise  # noqa: E402
from tppjax import checkpoint, data  # noqa: E402
from tppjax.errors import InputError  # noqa: E402

CODE = """
from torch import nn

def make(channels=3, classes=10, act="ReLU6"):
    norm = nn.Conv2d(channels, 4, 3, bias=False), nn.BatchNorm2d(4), getattr(nn, act)(inplace=True)
    head = nn.Sequential(nn.Dropout(), nn.Linear(4, classes))
    return nn.Sequential(*norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

number, dict = 3, dict
net = nn.Sequential(nn.ReLU())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with the package mine.models in it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "models.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
        del sys.modules[name]


def made():
    return randomise(user_module.make("mine.models:make"))


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def other(state):
    return {key: value + 1 for key, value in state.items()}


WRAPPED = {  # what is saved of a state dict, and --entry
    "plain": (lambda s: s, None),
    "DataParallel": (lambda s: {"state_dict": prefixed("module.", s), "epoch": 3}, None),
    "torch.compile": (lambda s: prefixed("_orig_mod.", s), None),
    "both": (lambda s: prefixed("_orig_mod.module.", s), None),
    "Lightning, model": (lambda s: {"state_dict": prefixed("model.", s), "pytorch-lightning_version": "2.4"}, None),
    "Lightning, net and a loss": (lambda s: {"state_dict": prefixed("net.", s) | {"loss.weight": torch.ones(2)}}, None),
    "averaged by swa_utils": (lambda s: {"n_averaged": torch.tensor(5), **prefixed("module.", s)}, None),
    "timm's EMA": (lambda s: {"state_dict": other(s), "state_dict_ema": s}, "state_dict_ema"),
    "torchvision's EMA": (
        lambda s: {"model": other(s), "model_ema": {"n_averaged": torch.tensor(5), **prefixed("module.", s)}},
        "model_ema",
    ),
    "ema_pytorch": (lambda s: prefixed("online_model.", other(s)) | prefixed("ema_model.", s), "ema_model"),
    "without counters": (lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")}, None),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_weights_are_found_through_wrappers(case, folder):
    wrap, entry = WRAPPED[case]
    state = made().state_dict()
    torch.save(wrap(state), folder / "net.pth")
    module = user_module.make("mine.models:make")
    left = user_module.load(module, files.read(folder / "net.pth", entry))
    assert left == (["loss.weight"] if "loss" in case else [])
    for key, value in module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    "name", ["half.pth", "half.safetensors", "bfloat16.safetensors", "float.safetensors", "double.npz"]
)
def test_weights_of_every_precision_and_format(name, folder):
    state = {key: value for key, value in made().state_dict().items() if value.is_floating_point()}
    kind = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32, "double": torch.float64}
    state = {key: value.to(kind[name.split(".")[0]]) for key, value in state.items()}
    if name.endswith("npz"):
        np.savez(folder / name, **{key: value.numpy() for key, value in state.items()})
    elif name.endswith("pth"):
        torch.save(state, folder / name)
    else:
        safetensors.torch.save_file(state, folder / name)
    module = user_module.make("mine.models:make")
    user_module.load(module, files.read(folder / name))
    for key, value in state.items():
        assert torch.equal(module.state_dict()[key], value.float())


def test_a_shared_weight_needs_one_of_its_keys(folder):
    module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    module[2].weight = module[0].weight
    state = {
        key: np.full(value.shape, 2, np.float32) for key, value in module.state_dict().items() if key != "2.weight"
    }
    assert user_module.load(module, state) == []
    assert module[2].weight.eq(2).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "0.weight"}, r"missing: 0\.weight$"),
        (lambda s: prefixed("module.", {k: v for k, v in s.items() if k != "1.bias"}), r"missing: 1\.bias$"),
        (lambda s: s | {"9.weight": np.ones(1)}, r"unknown: 9\.weight$"),
        (lambda s: s | {"1.bias": np.ones(5)}, r"misshapen: 1\.bias is \(5,\), not \(4,\)$"),
        (lambda s: s | {"1.bias": np.ones(4, np.int8)}, r"not of floating-point numbers: 1\.bias \(int8\)$"),
        (
            lambda s: prefixed("a.", s) | prefixed("ema.", s),
            r"several times, under a\., ema\.: say which with --entry ema",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, said, folder):
    state = {key: value.numpy() for key, value in made().state_dict().items()}
    with pytest.raises(InputError, match=said):
        user_module.load(user_module.make("mine.models:make"), change(state))


class Copied(nn.Sequential):
    """Gives copies of its weights."""

    def state_dict(self, *args, **kwargs):
        return {key: value.clone() for key, value in super().state_dict(*args, **kwargs).items()}


class Stubborn(nn.Sequential):
    """Takes no weights."""

    def load_state_dict(self, *args, **kwargs):
        pass


class WithMore(nn.Linear):
    def get_extra_state(self):
        return {"version": 2}


def test_weights_arrive_in_the_module_or_are_refused():
    state = {"0.weight": np.full((2, 2), 3, np.float32), "0.bias": np.zeros(2, np.float32)}
    for module in (Copied(nn.Linear(2, 2)), nn.Sequential(WithMore(2, 2))):
        user_module.load(module, state)
        assert module[0].weight.eq(3).all()
    with pytest.raises(InputError, match=r"Stubborn does not take weights into 0\.weight, 0\.bias"):
        user_module.load(Stubborn(nn.Linear(2, 2)), state)


def test_ema_weights_without_names_are_refused(folder):
    torch.save({"decay": 0.9, "shadow_params": [torch.ones(2, 2)]}, folder / "ema.pth")
    with pytest.raises(InputError, match="weights without names in shadow_params, which can't be told apart"):
        files.read(folder / "ema.pth")


def test_the_command_saves_a_network_that_needs_no_code(folder, capsys, monkeypatch):
    module = made()
    torch.save({"state_dict": prefixed("model.", module.state_dict()) | {"loss.weight": torch.ones(2)}}, "net.ckpt")
    argv = "from_torch --module mine.models:make --weights net.ckpt --dataset cifar10 --std 0.2 0.2 0.2 --out nets/mine"
    monkeypatch.setattr("sys.argv", argv.split())
    runpy.run_module("convert.from_torch", run_name="__main__")
    said = capsys.readouterr().out
    assert "imported net.ckpt by mine.models:make: 1 sites, " in said
    assert "left out: loss.weight" in said
    assert "determined by --dataset cifar10, and yours to change: --mean, --size\n" in said
    network = checkpoint.load(folder / "nets" / "mine" / "network")
    cifar = data.info("cifar10")
    assert network.preprocessing == data.Preprocessing(
        "cifar10", (32, 32, 3), cifar.mean, (0.2,) * 3, cifar.class_names, channels_first=True
    )
    assert network.history == ("imported from net.ckpt by mine.models:make",)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    x = ((pixels / 255 - cifar.mean) / 0.2).astype(np.float32).transpose(0, 3, 1, 2)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(network.apply(pixels), expected, 1e-4, 1e-5)
    snn = convert.to_snn(network, T=64, mode="rounded")
    np.testing.assert_allclose(snn.apply(pixels), expected, atol=0.3)


def test_grey_images_and_arguments_of_the_function(folder):
    images = {"dataset": "mnist", "mean": (0.13,), "std": (0.31,), "size": (28, 24)}
    made = {"module": "mine.models:make", "module_args": '{"channels": 1, "classes": 7}', "out": folder / "net"}
    network = main(FromTorch(**made, **images))
    assert network.graph.shape == (1, 28, 24)
    assert network.preprocessing.input_shape == (28, 24, 1)
    assert network.preprocessing.class_names == tuple("0123456")
    main(FromTorch(**made, **images))  # again, in its place
    with pytest.raises(InputError, match="the network has 7 classes, digits 10; give another --dataset"):
        main(FromTorch(**made, dataset="digits"))


IMAGES = {"dataset": "cifar10"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give --module pkg.models:make and --weights FILE, or, without code, FILE and --arch"),
        ({"file": "a.pth"}, "give --module"),
        ({"file": "a.pth", "arch": "resnet20", "weights": "a.pth"}, "--weights: only with --module"),
        ({"module": "mine.models:make", "file": "a.pth"}, "the weights are given as --weights a.pth"),
        ({"module": "mine.models:make", "arch": "resnet20", "L": 4}, "--arch, --L: only for files of known layouts"),
        ({"module": "mine.models:make", "entry": "ema"}, "--entry .* give --weights, too"),
        ({"module": "mine.models:make"}, "channels are prepared .*: give --dataset and --mean and --std and --size"),
        ({"module": "mine.models:make", "dataset": "own"}, "give --mean and --std and --size"),
        ({"module": "mine.models", **IMAGES}, "--module is pkg.models:make, .*; got mine.models$"),
        (
            {"module": "mine.modells:make", **IMAGES},
            "there is no module mine.modells here; run the command in its folder",
        ),
        ({"module": "mine.models:maker", **IMAGES}, "mine.models has no maker"),
        ({"module": "mine.models:number", **IMAGES}, "number is a int; name a function that makes the network"),
        ({"module": "mine.models:dict", **IMAGES}, "must be a torch.nn.Module, with its weights loaded; got a dict"),
        ({"module": "mine.models:make", "module_args": "{depth: 20}", **IMAGES}, "--module_args is JSON, such as"),
        ({"module": "mine.models:make", "module_args": "[3]", **IMAGES}, "--module_args is an object"),
        ({"module": "mine.models:net", **IMAGES}, "net is a Sequential; name a function that makes the network"),
        (
            {"module": "mine.models:make", "module_args": '{"depth": 20}', **IMAGES},
            "make does not take these --module_args: .* unexpected keyword argument 'depth'",
        ),
        ({"module": "mine.models:make", "weights": "none.pth", **IMAGES}, "there is no file .*none.pth"),
        ({"module": "mine.models:make", "module_args": '{"act": "SiLU"}', **IMAGES}, "SiLU at .* in 2"),
        ({"module": "mine.models:nn.ReLU", **IMAGES}, r"for networks that return logits \[B, classes\]"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, said, folder):
    with pytest.raises((InputError, FileNotFoundError), match=said):
        main(FromTorch(out=folder / "net", **options))
    assert not (folder / "net").exists()


def test_errors_in_the_users_own_file_keep_their_traceback(folder):
    (folder / "mine" / "broken.py").write_text("import not_installed_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        user_module.make("mine.broken:make")

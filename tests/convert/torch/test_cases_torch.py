"""Files of weights as people have them: what they can't tell is asked for, and what is refused is named."""

import numpy as np
import pytest

import convert
from convert.torch import files, import_state_dict
from convert.torch.command import FromTorch, main
from tests.convert.torch.torch_states import akamaster_state, qcfs_vgg_state, snnc_vgg_state
from tppjax import models
from tppjax.activations import ReLU
from tppjax.errors import InputError

UNKNOWN_IMAGES = {"dataset": "mine", "mean": (0.5,) * 3, "std": (0.2,) * 3}


def test_01_vgg16_with_one_linear_asks_for_its_pool():
    with pytest.raises(InputError, match=r"--pool avg if it is SNNC's .*, --pool max if it is kuangliu/"):
        import_state_dict(snnc_vgg_state(), "vgg16")
    for pool in ("avg", "max"):
        assert import_state_dict(snnc_vgg_state(), "vgg16", pool=pool, size=64).model.pool == pool


def test_01_other_vggs_that_share_their_keys_ask_too():
    torchvision = {"features.0.weight": np.ones((4, 3, 3, 3)), "classifier.6.weight": np.ones((10, 4))}
    relu = {key: value for key, value in qcfs_vgg_state().items() if not key.endswith("thresh")}
    for state in (torchvision, relu):
        with pytest.raises(InputError, match="give --pool"):
            import_state_dict(state, "vgg16")


def test_02_a_pool_behind_a_3x3_stem_is_refused_or_asked_for():
    with pytest.raises(InputError, match="the stem 'cifar' has no pool"):
        models.create("resnet18", 10, ReLU(), stem="cifar", pool="max", channels=8)
    state = {"conv1.weight": np.ones((64, 3, 3, 3)), "layer4.0.conv1.weight": np.ones((512, 256, 3, 3))}
    state |= {"fc.weight": np.ones((10, 512))}
    with pytest.raises(InputError, match=r"in huyvnphan/PyTorch_CIFAR10, .* give --pool none"):
        import_state_dict(state, "resnet18")
    with pytest.raises(InputError, match="--pool max has no place"):
        import_state_dict(state, "resnet18", pool="max")


@pytest.mark.parametrize("layout", [None, "akamaster"])
@pytest.mark.parametrize("prefix", ["model.", "net.", "module.model."])
def test_03_prefixes_of_every_key_are_taken_off(prefix, layout):
    state = akamaster_state()
    prefixed = {prefix + key: value for key, value in state.items()}
    imported = import_state_dict(prefixed, "resnet20", layout)
    np.testing.assert_array_equal(imported.variables["params"]["head"]["bias"], state["linear.bias"])


def test_03_04_05_checkpoints_of_the_published_weights(torch, real_weights, tmp_path):
    """Lightning's, an averaged model, and averaged weights beside the raw ones."""
    weights = torch.load(real_weights, map_location="cpu", weights_only=True)["state_dict"]
    averaged = {key: value / 2 if value.is_floating_point() else value for key, value in weights.items()}
    lightning = {key.replace("module.", "model."): value for key, value in weights.items()}
    contents = {
        "l.ckpt": {"state_dict": lightning, "pytorch-lightning_version": "2.4.0"},
        "swa.pth": {"n_averaged": torch.tensor(5), **weights},
        "ema.pth": {"state_dict": weights, "state_dict_ema": averaged},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
    bias = weights["module.linear.bias"].numpy()
    for name, entry, expected in (
        ("l.ckpt", None, bias),
        ("swa.pth", None, bias),
        ("ema.pth", "state_dict_ema", bias / 2),
    ):
        network = import_state_dict(files.read(tmp_path / name, entry), "resnet20")
        np.testing.assert_array_equal(network.variables["params"]["head"]["bias"], expected)
    config = FromTorch(tmp_path / "ema.pth", arch="resnet20", out=tmp_path / "net")
    with pytest.raises(InputError, match="several sets of weights: state_dict, state_dict_ema; say which with --entry"):
        main(config)


@pytest.mark.parametrize("options", [{}, {"dataset": "cifar10", "mean": (0.5,) * 3, "std": (0.2,) * 3}])
def test_07_a_head_of_another_name_is_named(options):
    state = {"conv1.weight": np.zeros((64, 3, 3, 3)), "layer4.0.conv1.weight": np.zeros((512, 256, 3, 3))}
    state |= {"fc.1.weight": np.zeros((10, 512)), "fc.1.bias": np.zeros(10)}
    with pytest.raises(InputError, match=r"called fc\.weight .* none; similar keys: fc\.1\.weight; rename one"):
        import_state_dict(state, "resnet18", **options)


def test_18_grey_weights_say_what_is_missing():
    state = akamaster_state()
    state["conv1.weight"] = state["conv1.weight"].sum(1, keepdims=True)
    with pytest.raises(InputError, match=r"1 channel .*: give --dataset and --mean and --std and --size; .* one"):
        import_state_dict(state, "resnet20")
    with pytest.raises(InputError, match="--mean and --std need one number each"):
        import_state_dict(state, "resnet20", **UNKNOWN_IMAGES, size=28)
    imported = import_state_dict(state, "resnet20", dataset="mnist", mean=(0.1307,), std=(0.3081,), size=28)
    assert imported.preprocessing.input_shape == (28, 28, 1)


def conv(nn, i, o, stride=1):
    return [nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU()]


OF_CODE = {  # the cases' networks, narrow, with the channels of their input and the number of their sites
    "01 max-pool": (lambda nn: [*conv(nn, 3, 4), nn.MaxPool2d(2), *conv(nn, 4, 4)], 3, 2),
    "02 max-pool behind a 3x3 stem": (lambda nn: [*conv(nn, 3, 4), nn.MaxPool2d(3, 2, 1), *conv(nn, 4, 6, 2)], 3, 2),
    "07 a head of another name": (lambda nn: [*conv(nn, 3, 4), nn.Sequential(nn.Dropout(), nn.Conv2d(4, 3, 1))], 3, 1),
    "10 ReLU6": (lambda nn: [nn.Conv2d(3, 4, 3), nn.ReLU6()], 3, 1),
    "18 one channel": (lambda nn: conv(nn, 1, 4), 1, 1),
}


@pytest.mark.parametrize("case", OF_CODE)
def test_with_their_code_they_convert_as_they_are(torch, case):
    layers, channels, sites = OF_CODE[case]
    module = torch.nn.Sequential(*layers(torch.nn), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    x = np.random.default_rng(0).normal(size=(4, channels, 8, 8)).astype(np.float32)
    network = convert.from_torch(module, x[:1])
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(network.apply(x), expected, 1e-4, 1e-5)
    assert len(network.sites) == sites
    network = convert.calibrate(network, x, "max") if network.missing else network
    spiking = convert.to_snn(network, T=64, mode="rounded").apply(x)
    np.testing.assert_allclose(spiking, expected, atol=0.1 * np.ptp(expected))

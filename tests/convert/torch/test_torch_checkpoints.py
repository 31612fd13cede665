"""The importer and its command without PyTorch: what files tell, what options say, and every refusal."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from numpy.lib.stride_tricks import sliding_window_view

from convert import to_snn
from convert.torch import import_state_dict
from convert.torch.command import FromTorch, main
from tests.convert.torch.torch_states import POOLED, QCFS_VGG, SNNC_VGG, akamaster_state, qcfs_vgg_state, snnc_vgg_state
from tppjax import ann, cli, data, models
from tppjax.activations import QCFS, ClippedReLU, ReLU
from tppjax.errors import InputError


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
    config = FromTorch(tmp_path / "vgg.safetensors", arch="vgg16", out=tmp_path / "vgg", pool="avg", size=64)
    main(config)
    said = capsys.readouterr().out
    assert "vgg16 of layout snnc" in said
    assert "mean (0.4914, 0.4822, 0.4465), std (0.2023, 0.1994, 0.201)" in said
    assert "avg-pooling" in said
    assert "yours to change: --layout, --dataset, --mean, --std\n" in said
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


@pytest.mark.slow
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
        akamaster_state(classes=7), "resnet20", dataset="mine", mean=np.float32([0.5] * 3), std=(0.2,) * 3, size=9
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
        (
            {"conv1__weight": np.ones((2, 1, 3, 3))},
            r"nothing tells .* 1 channel are .*: give --dataset and --mean",
        ),
        ({"bn1__weight": np.array([1.0, np.nan])}, r"bn1\.weight has a number that is not finite"),
        ({"bn1__running_var": np.array([1.0, -1.0])}, r"bn1\.running_var has a negative variance, -1\.0"),
        ({"bn1__bias": np.ones(2, int)}, r"not of floating-point numbers: bn1\.bias \(int64\)$"),
        ({"bn1__bias": np.ones(0)}, r"empty arrays: bn1\.bias$"),
        ({"linear__weight": None}, r"called fc\.weight in this layout, .*; no key is similar"),
        ({"conv1__bias": np.ones(2)}, r"unknown: conv1\.bias"),
    ],
)
def test_keys_that_do_not_fit_are_refused_by_name(changes, said):
    with pytest.raises(ValueError, match=said):
        import_state_dict(changed(akamaster_state(), **changes), "resnet20")


def test_another_depth_is_refused_with_the_first_keys():
    with pytest.raises(ValueError, match=r"missing: layer1\.3\.bn1\.bias, .*, 52 more$"):
        import_state_dict(akamaster_state(), "resnet32")
    with pytest.raises(ValueError, match=r"unknown: layer1\.3\.bn1\.bias, .*, 52 more$"):
        import_state_dict(akamaster_state(blocks=5), "resnet20")


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_thresholds_that_cannot_be_are_refused_by_name(value):
    state = changed(qcfs_vgg_state(), layer3__6__thresh=np.array([value], np.float32))
    with pytest.raises(ValueError, match=r"layer3\.6\.thresh has a .* not (positive, |finite)"):
        import_state_dict(state, "vgg16", act=QCFS(L=4))


@pytest.mark.parametrize(
    ("state", "arguments", "said"),
    [
        (akamaster_state, {"arch": "vgg16"}, "layout akamaster has ResNet; got vgg16"),
        (
            akamaster_state,
            {"layout": "his"},
            "unknown layout 'his'; known: akamaster, kuangliu, pycls, qcfs, snnc, timm, torchvision",
        ),
        (dict, {}, "the file holds no weights"),
        (lambda: {"stem.weight": np.ones(1)}, {}, r"no known layout has these keys: stem\.weight, .*--layout"),
        (akamaster_state, {"act": QCFS(L=4)}, "the file has no thresholds for qcfs"),
        (qcfs_vgg_state, {"arch": "vgg16"}, r"learned thresholds \(\.thresh\): give act=QCFS"),
        (qcfs_vgg_state, {"arch": "vgg16", "act": ReLU()}, r"learned thresholds \(\.thresh\): give act=QCFS"),
        (akamaster_state, {"dataset": "cifar100"}, "the network has 10 classes, cifar100 100; give another --dataset"),
        (akamaster_state, {"dataset": "mine"}, "10 classes .* give --mean and --std and --size"),
        (lambda: akamaster_state(classes=7), {}, "7 classes .* give --dataset and --mean and --std and --size"),
        (akamaster_state, {"mean": (0.5,)}, "need 3 numbers each, as many as"),
        (akamaster_state, {"std": (1.0, 1.0, 0.0)}, "need 3 numbers each, as many as"),
        (akamaster_state, {"mean": (123.0, 117.0, 104.0)}, r"pixels in \[0, 1\]"),
        (akamaster_state, {"std": (np.nan,) * 3}, "std above 0; got .*nan"),
        (akamaster_state, {"mean": ()}, "need 3 numbers each"),
        (
            akamaster_state,
            {"size": 0},
            "--size is a whole number of pixels from 1 to 16384, or height and width; got 0",
        ),
        (akamaster_state, {"size": 10**19}, "--size is a whole number of pixels from 1 to 16384"),
        (akamaster_state, {"pool": "max"}, "--pool max has no place"),
        (snnc_vgg_state, {"arch": "vgg16", "pool": "avg", "size": 8}, "8 x 8 pixels can't be halved 5 times"),
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


def test_a_folder_that_cannot_be_made_is_refused_before_the_file_is_read(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"net can't be made, since .*file is no folder"):
        main(FromTorch(tmp_path / "none.th", arch="resnet20", out=tmp_path / "file" / "net"))


def test_bad_input_ends_the_command_with_a_sentence(tmp_path, monkeypatch, capsys):
    argv = ["from_torch", str(tmp_path / "none.th"), "--arch", "resnet20", "--out", str(tmp_path / "net")]
    monkeypatch.setattr("sys.argv", argv)
    with pytest.raises(SystemExit, match="2"):
        cli.run(main, FromTorch)
    assert capsys.readouterr().err == f"error: there is no file {tmp_path / 'none.th'}\n"

"""Weights are read from every kind of file that holds them, and from no other."""

import argparse
import datetime
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from convert.torch import files
from tests.convert.torch.torch_states import akamaster_state
from tppjax.errors import InputError


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"years of work", "neither a safetensors file nor one that torch.save wrote"),
        (b"", "is empty"),
        (b"\x10" + bytes(7) + b'{"damaged', r"can't be read \(.*\): if it is damaged or cut short, download it again"),
        (b"\n<!DOCTYPE html><html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b'{"weight_map": {}}', "if it is the index of weights in several files"),
        (b"\x1f\x8b\x08", "is compressed: unpack it"),
        (b"PK\x03\x04 and no more", "can't be read"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, said):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        files.read(tmp_path / "net.pth")


def test_truncated_safetensors_are_refused(tmp_path):
    file = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(akamaster_state(), file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"can't be read .* cut short"):
        files.read(file)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for place, said in ((tmp_path, "is a folder"), (tmp_path / "fifo", "is no regular file")):
        with pytest.raises(InputError, match=said):
            files.read(place)


def test_npz_under_the_keys_of_pytorch_are_read(tmp_path):
    state = akamaster_state()
    np.savez(tmp_path / "net.npz", **state)
    read = files.read(tmp_path / "net.npz")
    assert read.keys() == state.keys()
    np.testing.assert_array_equal(read["conv1.weight"], state["conv1.weight"])
    np.savez(tmp_path / "net.npz", a=np.array([{}]))
    with pytest.raises(InputError, match="Object arrays cannot be loaded"):
        files.read(tmp_path / "net.npz")


def test_pickles_need_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "net.pth").write_bytes(b"\x80\x02}.")
    with pytest.raises(
        ValueError, match=r"only PyTorch reads: pip install 'tppjax\[torch\]', or save the weights as safe"
    ):
        files.read(tmp_path / "net.pth")


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"net": {"model": s}}]
)
def test_state_dicts_are_found_in_what_torch_saves(torch, tmp_path, wrap, old_format):
    state = akamaster_state()
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    torch.save(wrap(tensors), tmp_path / "net.pth", _use_new_zipfile_serialization=not old_format)
    read = files.read(tmp_path / "net.pth")
    assert read.keys() == state.keys()
    for key, value in read.items():
        np.testing.assert_array_equal(value, state[key])


def test_short_floats_are_read(torch, tmp_path):
    import safetensors.torch

    tensors = {"a": torch.tensor([1.5], dtype=torch.bfloat16), "b": torch.tensor([2.5], dtype=torch.float16)}
    torch.save(tensors, tmp_path / "net.pth")
    safetensors.torch.save_file(tensors, tmp_path / "net.safetensors")
    for file in ("net.pth", "net.safetensors"):
        assert {k: float(v[0]) for k, v in files.read(tmp_path / file).items()} == {"a": 1.5, "b": 2.5}


class Code:
    """A pickle of this touches a file where it is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_is_refused_and_not_run(torch, tmp_path):
    torch.save({"state_dict": {"conv1.weight": Code(tmp_path / "touched")}}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"holds a (getattr|pathlib.*touch), which is code and not only weights"):
        files.read(tmp_path / "net.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"holds a torch\.nn\.modules\.linear\.Linear, .* save model\.state_dict\(\)"):
        files.read(tmp_path / "net.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("old_format", [False, True])
def test_truncated_pickles_are_refused(torch, tmp_path, old_format):
    state = {"a": torch.ones(1000)}
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=not old_format)
    (tmp_path / "net.pth").write_bytes((tmp_path / "net.pth").read_bytes()[:-2000])
    with pytest.raises(ValueError, match="can't be read"):
        files.read(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda torch: [1, 2], "holds no state dict, but this: list;"),
        (lambda torch: {}, "holds no state dict"),
        (lambda torch: {"state_dict": {"conv1.weight": 3}}, "holds no state dict, but this: dict of state_dict"),
        (lambda torch: {"model": {"a": torch.ones(1), "note": 1}}, "other things than weights: note$"),
        (lambda torch: {"a": torch.ones(1).to_sparse()}, "a is no plain array"),
        (lambda torch: {"model": {"a": torch.ones(1)}, "model_ema": {"a": torch.ones(1)}}, "several .*: model, model_"),
        (
            lambda torch: {"a.bias": torch.ones(1), "ema": {"a.bias": torch.ones(1)}},
            r"several .*: \(top level\), ema; say which",
        ),
        (lambda torch: {"net": {"a": torch.ones(1)}, "ema": {"shadow_params": [torch.ones(1)]}}, "net, ema/shadow_pa"),
    ],
)
def test_other_things_in_pickles_are_refused(torch, tmp_path, content, said):
    torch.save(content(torch), tmp_path / "net.pth")
    with pytest.raises(InputError, match=said):
        files.read(tmp_path / "net.pth")


@pytest.mark.parametrize("entry", ["model", "ema/module", "nothing"])
def test_an_entry_is_chosen_by_name(torch, tmp_path, entry):
    one, two = ({"a": torch.full((1,), value)} for value in (1.0, 2.0))
    torch.save({"model": one, "ema": {"module": two, "decay": 0.9}, "epoch": 3}, tmp_path / "net.pth")
    if entry == "nothing":
        with pytest.raises(InputError, match=r"holds no --entry nothing; it has model, ema/module$"):
            files.read(tmp_path / "net.pth", entry)
    else:
        assert files.read(tmp_path / "net.pth", entry)["a"] == {"model": 1.0}.get(entry, 2.0)


def test_weights_with_others_nested_beside_them(torch, tmp_path):
    one, other = {"a.bias": torch.ones(1)}, {"a.bias": torch.zeros(1)}
    torch.save(one | {"n": torch.tensor(3), "ema": other}, tmp_path / "net.pth")
    for entry, value, keys in (("(top level)", 1.0, {"a.bias", "n"}), ("ema", 0.0, {"a.bias"})):
        read = files.read(tmp_path / "net.pth", entry)
        assert (read["a.bias"], read.keys()) == (value, keys)
    torch.save({"state_dict": one, "mean": torch.ones(3), "losses": torch.ones(20)}, tmp_path / "net.pth")
    assert files.read(tmp_path / "net.pth").keys() == {"a.bias"}


def test_settings_and_the_optimiser_beside_the_weights_are_left(torch, tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimiser = torch.optim.Adam([weight])
    optimiser.step()
    settings = {"args": argparse.Namespace(lr=0.1), "path": tmp_path, "best": np.float64(93.1), "seen": np.arange(3)}
    beside = {"optimizer": optimiser.state_dict(), "rng": torch.get_rng_state(), "at": datetime.datetime.now()}
    torch.save({"state_dict": {"a": torch.ones(2)}, **settings, **beside}, tmp_path / "net.pth")
    assert files.read(tmp_path / "net.pth").keys() == {"a"}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_is_refused_as_what_it_is(torch, tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "net.pt")
    with pytest.raises(InputError, match="is a TorchScript archive, which holds code, and is refused"):
        files.read(tmp_path / "net.pt")


def test_a_changed_bit_is_found_by_the_checksum(torch, tmp_path):
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "net.pth")
    content = bytearray((tmp_path / "net.pth").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(InputError, match="the checksum of net/data/0 is another"):
        files.read(tmp_path / "net.pth")

"""Weights are read from every kind of file that holds them, and from no other."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from convert import torch_files
from tests.convert.torch_states import akamaster_state


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"years of work", "neither a safetensors file nor one that torch.save wrote"),
        (b"", "neither a safetensors file"),
        (b"\x10" + bytes(7) + b'{"damaged', "is not a whole safetensors file"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, content, said):
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        torch_files.read(tmp_path / "net.pth")


def test_truncated_safetensors_are_refused(tmp_path):
    file = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(akamaster_state(), file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        torch_files.read(file)


def test_pickles_need_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "net.pth").write_bytes(b"\x80\x02}.")
    with pytest.raises(
        ValueError, match=r"only PyTorch reads: pip install 'tppjax\[torch\]', or save the weights as safe"
    ):
        torch_files.read(tmp_path / "net.pth")


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"net": {"model": s}}]
)
def test_state_dicts_are_found_in_what_torch_saves(torch, tmp_path, wrap, old_format):
    state = akamaster_state()
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    torch.save(wrap(tensors), tmp_path / "net.pth", _use_new_zipfile_serialization=not old_format)
    read = torch_files.read(tmp_path / "net.pth")
    assert read.keys() == state.keys()
    for key, value in read.items():
        np.testing.assert_array_equal(value, state[key])


def test_short_floats_are_read(torch, tmp_path):
    import safetensors.torch

    tensors = {"a": torch.tensor([1.5], dtype=torch.bfloat16), "b": torch.tensor([2.5], dtype=torch.float16)}
    torch.save(tensors, tmp_path / "net.pth")
    safetensors.torch.save_file(tensors, tmp_path / "net.safetensors")
    for file in ("net.pth", "net.safetensors"):
        assert {k: float(v[0]) for k, v in torch_files.read(tmp_path / file).items()} == {"a": 1.5, "b": 2.5}


class Code:
    """A pickle of this touches a file where it is loaded without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_is_refused_and_not_run(torch, tmp_path):
    torch.save({"state_dict": {"conv1.weight": Code(tmp_path / "touched")}}, tmp_path / "net.pth")
    with pytest.raises(ValueError, match="holds code and not only weights, and is refused"):
        torch_files.read(tmp_path / "net.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"save model\.state_dict\(\) from it anew"):
        torch_files.read(tmp_path / "net.pth")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("old_format", [False, True])
def test_truncated_pickles_are_refused(torch, tmp_path, old_format):
    state = {"a": torch.ones(1000)}
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=not old_format)
    (tmp_path / "net.pth").write_bytes((tmp_path / "net.pth").read_bytes()[:-2000])
    with pytest.raises(ValueError, match="is damaged"):
        torch_files.read(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds no state dict, neither by itself nor under one of state_dict"),
        ({}, "holds no state dict"),
        ({"state_dict": {"conv1.weight": 3, "note": "mine"}}, r"other things than weights: conv1\.weight, note$"),
    ],
)
def test_other_things_in_pickles_are_refused(torch, tmp_path, content, said):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=said):
        torch_files.read(tmp_path / "net.pth")

"""NIR files of other tools, and files that are refused."""

import itertools

import jax
import nir
import numpy as np
import pytest

import convert
from convert import export
from tests.convert.networks import mlp
from tppjax.errors import InputError


def from_another_tool(**changes):
    """An affine layer, neurons with thresholds and resistances of their own, an average pool and a dense layer."""
    rng = np.random.default_rng(0)
    theta = np.array([0.5, 2.0, 1.0], np.float32)[:, None, None] * np.ones((3, 4, 4), np.float32)
    nodes = {
        "input": nir.Input({"input": np.array([2, 4, 4])}),
        "convolve": nir.Conv2d((4, 4), rng.normal(size=(3, 2, 3, 3)).astype("f4"), 1, "same", 1, 1, np.zeros(3, "f4")),
        "spike": nir.IF(r=2 * np.ones_like(theta), v_threshold=theta),
        "pool": nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        "flatten": nir.Flatten({"input": np.array([3, 2, 2])}, start_dim=0),
        "dense": nir.Linear(rng.normal(size=(5, 12)).astype("f4")),
        "output": nir.Output({"output": np.array([5])}),
    } | changes
    names = ["input", "convolve", "spike", "pool", "flatten", "dense", "output"]
    return nir.NIRGraph(nodes, list(itertools.pairwise(names)), type_check=False), nodes


def test_a_network_of_another_tool(tmp_path):
    """Against NumPy, step by step."""
    graph, nodes = from_another_tool()
    nir.write(file := tmp_path / "a.nir", graph)
    x = np.random.default_rng(1).normal(size=(6, 2, 4, 4)).astype(np.float32)
    padded, kernel = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)]), nodes["convolve"].weight
    current = 2 * sum(
        np.einsum("oi,bihw->bohw", kernel[:, :, i, j], padded[:, :, i : i + 4, j : j + 4])
        for i in range(3)
        for j in range(3)
    )
    theta, v, total = nodes["spike"].v_threshold, 0, 0
    for _ in range(8):
        v = v + current
        spikes = (v >= theta).astype(np.float32)
        v, total = v - theta * spikes, total + spikes
    pooled = (total / 8).reshape(6, 3, 2, 2, 2, 2).mean((3, 5)).reshape(6, -1)
    expected = pooled @ nodes["dense"].weight.T
    network = convert.from_nir(file)
    snn = convert.to_snn(network, 8, "baseline(v_init=0)")
    np.testing.assert_allclose(snn.apply(x), expected, rtol=1e-4, atol=1e-5)
    assert network.thetas == {"convolve": 1}
    assert "reset: not specified" in network.history[0]
    assert convert.to_snn(network, 8, "tpp").apply(x, jax.random.key(0)).shape == (6, 5)
    np.testing.assert_allclose(convert.from_nir(file, dt=0.5).apply(x) * 2, network.apply(x), rtol=1e-4, atol=1e-5)


def test_files_that_are_refused(tmp_path):
    file = tmp_path / "a.nir"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        convert.from_nir(file)
    ones = np.ones((3, 4, 4), np.float32)
    leaky, _ = from_another_tool(spike=nir.LIF(tau=ones, r=ones, v_leak=0 * ones, v_threshold=ones))
    dead, _ = from_another_tool(spike=nir.IF(r=ones, v_threshold=0 * ones))
    padded, _ = from_another_tool(
        convolve=nir.Conv2d((4, 4), np.ones((3, 2, 3, 3), "f4"), 1, [1, 1, 1], 1, 1, np.zeros(3, "f4"))
    )
    twice, nodes = from_another_tool(spike=nir.IF(r=ones, v_threshold=ones))
    twice.nodes["again"] = nodes["spike"]
    twice.edges += [("convolve", "again"), ("again", "pool")]
    looped, _ = from_another_tool()
    looped.edges.append(("spike", "spike"))
    refused = {
        "spike of kind LIF": leaky,
        "of spike have to be finite and above 0": dead,
        "recurrent": looped,
        "some of which do the same": twice,
        r"convolve \(Conv2d\) can't be read": padded,
    }
    for message, graph in refused.items():
        nir.write(file, graph)
        with pytest.raises(InputError, match=message):
            convert.from_nir(file)
    export.nir(convert.to_snn(mlp(), 4, "baseline"), file)
    whole = file.read_bytes()
    with pytest.raises(InputError, match="dt is the duration"):
        convert.from_nir(file, dt=0)
    for damaged in (whole[: len(whole) // 2], b"\x89HDF nonsense", b""):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged, or holds what the package nir refuses"):
            convert.from_nir(file)

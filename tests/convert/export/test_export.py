"""Exported programs, run by a process that imports jax only."""

import os
import subprocess
import sys
from dataclasses import replace

import jax
import jax.export
import numpy as np
import pytest

import convert
from convert import export
from convert.export.__main__ import Export, main
from tests.convert.networks import cnn, images, mlp
from tppjax import data
from tppjax.errors import InputError

SCRIPT = """
import sys
import jax, jax.export, numpy as np
folder = sys.argv[1]
program = jax.export.deserialize(open(f"{folder}/program", "rb").read())
for n in (1, 5):
    arguments = [np.load(f"{folder}/x.npy")[:n]]
    arguments += [jax.random.key_data(jax.random.key(5))] * int(sys.argv[2])
    arguments += [np.int32(T) for T in sys.argv[3:]]
    np.save(f"{folder}/y{n}.npy", program.call(*arguments))
assert not {"tppjax", "convert", "flax"} & sys.modules.keys()
"""


def run(folder, x, random: bool, *T):
    """What the program in `folder` returns for the first, and for all, of 5 examples."""
    np.save(folder / "x.npy", x)
    command = [sys.executable, "-c", SCRIPT, folder, str(int(random)), *map(str, T)]
    subprocess.run(command, check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, cwd=folder)
    return [np.load(folder / f"y{n}.npy") for n in (1, 5)]


SLOW = [pytest.param(mode, marks=pytest.mark.slow) for mode in ("shuffle", "graded(levels=4)")]


@pytest.mark.parametrize("mode", ["tpp", "baseline", *SLOW])
def test_a_program_returns_what_apply_does(mode, tmp_path):
    snn, x = convert.to_snn(cnn(), 4, mode), images(5, (4, 4, 1))
    export.stablehlo(snn, tmp_path / "program")
    expected = np.asarray(snn.apply(x, jax.random.key(5)))
    one, all_ = run(tmp_path, x, snn.random)
    np.testing.assert_allclose(all_, expected, rtol=1e-6)
    np.testing.assert_allclose(one, expected[:1], rtol=1e-6)
    assert [p.name for p in tmp_path.iterdir() if "program" in p.name] == ["program"]


@pytest.mark.slow
def test_tables_of_steps_are_in_the_program(tmp_path):
    """The order of spikes, and a correction for each step, are looked up by the step."""
    network, x = mlp(), images(5)
    corrected = convert.correct(network, x, T=4, mode="baseline", method="steps")
    for snn in (convert.to_snn(corrected, 4, "baseline"), convert.to_snn(network, 4, "ordered(order=(3,1,0,2))")):
        export.stablehlo(snn, tmp_path / "program")
        np.testing.assert_allclose(run(tmp_path, x, False)[1], snn.apply(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="was corrected step by step for T=4: leave most_T out"):
        export.stablehlo(convert.to_snn(corrected, 4, "rounded"), tmp_path / "program", most_T=8)


@pytest.mark.parametrize("mode", ["tpp", "rounded"])
@pytest.mark.slow
def test_T_left_open(mode, tmp_path):
    network, x = mlp(), images(5)
    export.stablehlo(convert.to_snn(network, 4, mode), tmp_path / "program", most_T=16)
    for T in (1, 7, 16):
        snn = convert.to_snn(network, T, mode)
        expected = np.asarray(snn.apply(x, jax.random.key(5)))
        np.testing.assert_allclose(run(tmp_path, x, snn.random, T)[1], expected, rtol=1e-6)
    for T in (0, 17):
        assert np.isnan(run(tmp_path, x, snn.random, T)[1]).all()


def test_pixels_enter_where_there_is_preprocessing(digits_ann, digits_test, tmp_path):
    snn, x = convert.to_snn(digits_ann, 8, "rounded"), digits_test.images[:5]
    export.stablehlo(snn, tmp_path / "program")
    np.testing.assert_allclose(run(tmp_path, x, False)[1], snn.apply(x), rtol=1e-5, atol=1e-5)


def test_refusals(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="mode baseline needs a program for each T: leave most_T out"):
        export.stablehlo(convert.to_snn(mlp(), 4, "baseline"), tmp_path / "program", most_T=8)
    for most_T in (4.5, 10.0):
        with pytest.raises(InputError, match=f"most_T must be a whole number of at least 1; got {most_T}"):
            export.stablehlo(convert.to_snn(mlp(), 4), tmp_path / "program", most_T=most_T)
    with pytest.raises(InputError, match="unknown platform 'gpu'; known: cpu, cuda, rocm, tpu"):
        export.stablehlo(convert.to_snn(mlp(), 4), tmp_path / "program", platforms=("gpu",))
    with pytest.raises(InputError, match=r"a spiking network, as convert\.to_snn returns it; got Network"):
        export.stablehlo(mlp(), tmp_path / "program")
    with pytest.raises(InputError, match="most_T must be at most 4096"):
        export.stablehlo(convert.to_snn(mlp(), 4), tmp_path / "program", most_T=10**6)
    monkeypatch.setattr(jax.export.Exported, "serialize", lambda *_, **__: (_ for _ in ()).throw(ImportError("no")))
    with pytest.raises(InputError, match=r"needs flatbuffers to write a file: pip install 'tppjax\[export\]'"):
        export.stablehlo(convert.to_snn(mlp(), 4), tmp_path / "program")
    assert not (tmp_path / "program").exists()


def test_the_command_takes_T_and_mode_of_a_saved_spiking_network(tmp_path, capsys):
    network = cnn((8, 8, 1)).replace(preprocessing=replace(data.info("digits"), class_names=("a", "b", "c")))
    convert.to_snn(network, 4, "rounded").save(tmp_path / "snn")
    x, y = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8, 1), np.arange(3)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    options = {"stablehlo": tmp_path / "program", "dataset": "npz", "data_dir": tmp_path / "a.npz"}
    without_images = {"stablehlo": tmp_path / "program"}
    for chosen, said in (
        (options, "mode rounded, T=4"),
        (without_images, "mode rounded, T=4"),
        ({**options, "T": 2, "mode": "unbiased"}, "mode unbiased, T=2"),
    ):
        main(Export(tmp_path / "snn", **chosen))
        assert capsys.readouterr().out.endswith(f"program: {said}\n")
    with pytest.raises(InputError, match="--per is for thresholds"):  # no option is left without effect
        main(Export(tmp_path / "snn", **without_images, per="layer"))
    with pytest.raises(InputError, match="--skip_damaged is an option of cifar10_dvs"):
        main(Export(tmp_path / "snn", **options, skip_damaged=True))
    convert.to_snn(network, 4, {"conv1_1": "rounded", "conv2_1": "baseline"}).save(tmp_path / "snn")
    with pytest.raises(InputError, match="has neurons of several modes: give one"):
        main(Export(tmp_path / "snn", **options))

"""Pictures classified on the command line."""

import dataclasses
import sys

import jax
import numpy as np
import pytest
from PIL import Image

import convert
from convert import classify
from convert.classify import Classify, main
from tppjax import ann, cli


@pytest.fixture
def pictures(digits_test, tmp_path):
    files = []
    for i, image in enumerate(digits_test.images[:3]):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image[..., 0]).save(files[-1])
    return tuple(files)


@pytest.mark.parametrize("mode", ["rounded", "tpp", "baseline"])
def test_answers(mode, digits_ann, digits_test, pictures, tmp_path, monkeypatch, capsys):
    """The classes and confidences of `apply`; after each step, where there is an answer then."""
    snn = convert.to_snn(digits_ann, 8, mode)
    snn.save(tmp_path / "snn")
    monkeypatch.setattr(sys, "argv", ["convert.classify", str(tmp_path / "snn"), *map(str, pictures), "--top", "2"])
    cli.run(main, Classify)
    printed = capsys.readouterr().out.splitlines()
    key = convert.example_keys(jax.random.key(0), np.arange(3)) if snn.random else None
    logits = np.asarray(snn.apply(digits_test.images[:3], key))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = 100 * p / p.sum(axis=1, keepdims=True)
    lines = [line for line in printed if ".png" in line]
    for line, file, of_image in zip(lines, pictures, p, strict=True):
        first, second = np.argsort(-of_image)[:2]
        assert line == f"{file}: {first} {of_image[first]:.1f} %, {second} {of_image[second]:.1f} %"
    steps = [line for line in printed if "after each step" in line]
    assert len(steps) == (3 if mode == "baseline" else 0)
    for line, last in zip(steps, lines, strict=mode == "baseline"):
        assert line.count(";") == 7
        assert line.rpartition("; ")[2] == last.partition(": ")[2].partition(",")[0]


def test_batches_leave_room_for_every_step(digits_ann, pictures, tmp_path, monkeypatch):
    convert.to_snn(digits_ann, 64, "baseline").save(tmp_path / "snn")
    sizes, keyed = [], classify.keyed_batches
    monkeypatch.setattr(classify, "keyed_batches", lambda *args: sizes.append(args[-1]) or keyed(*args))
    main(Classify(tmp_path / "snn", pictures))
    assert sizes == [convert.load(tmp_path / "snn").batch_size(traced=True)]


def test_a_network_that_is_not_spiking_yet(digits_ann, digits_test, pictures, tmp_path):
    ann.save(digits_ann, tmp_path / "ann")
    found = main(Classify(tmp_path / "ann", pictures, T=8, mode="rounded"))
    assert [p.shape for p in found] == [(1, 10)] * 3
    said = np.asarray(digits_ann.apply(digits_test.images[:3])).argmax(-1)  # which this network is, at T = L
    assert [p[-1].argmax() for p in found] == said.tolist()


def test_refusals(digits_ann, pictures, tmp_path):
    convert.to_snn(digits_ann, 4).save(tmp_path / "snn")
    ann.save(digits_ann, tmp_path / "ann")
    convert.to_snn(convert.trace(digits_ann).replace(preprocessing=None), 4).save(tmp_path / "bare")
    preprocessing = digits_ann.preprocessing
    for name, changed in (
        ("nine", {"class_names": preprocessing.class_names[:9]}),
        ("larger", {"input_shape": (9, 9, 1)}),
        ("two", {"input_shape": (8, 8, 2), "mean": (0.0, 0.0), "std": (1.0, 1.0)}),
    ):
        other = dataclasses.replace(preprocessing, **changed)
        convert.to_snn(convert.trace(digits_ann).replace(preprocessing=other), 4).save(tmp_path / name)
    (tmp_path / "text.png").write_text("no picture")
    for options, said in (
        ({"network": tmp_path / "ann"}, "is not spiking yet: give --T and --mode"),
        ({"network": tmp_path / "snn", "T": 4}, "has its T and neurons: leave --T and --mode out"),
        ({"network": tmp_path / "bare"}, "has no preprocessing for pictures"),
        (
            {"network": tmp_path / "nine"},
            r"returns \(10,\) for an image; what is needed is a number for each of its 9 classes",
        ),
        (
            {"network": tmp_path / "larger"},
            r"takes inputs of shape \(8, 8, 1\), and its preprocessing gives \(9, 9, 1\)",
        ),
        ({"network": tmp_path / "two"}, r"takes inputs of shape \(8, 8, 1\), and its preprocessing gives \(8, 8, 2\)"),
        ({"network": tmp_path / "snn", "pictures": ()}, "give at least one picture"),
        ({"network": tmp_path / "snn", "pictures": (tmp_path / "text.png",)}, r"text\.png can't be read"),
        ({"network": tmp_path / "snn", "top": 0}, "--top must be at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            main(Classify(**{"pictures": pictures, **options}))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        main(Classify(tmp_path / "nowhere", pictures))

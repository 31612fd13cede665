"""Commands with an option that they can't take."""

import contextlib
import dataclasses
import io
import os
import shutil
import sys
import types
import typing
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from configs.cifar import Cifar
from configs.digits import Digits
from configs.own import Own
from convert import evaluate
from convert.evaluate import Evaluate
from convert.studies import spikes, study
from convert.studies.spikes import Spikes
from convert.torch import command
from convert.torch.command import FromTorch
from tests.fuzz.outcome import Taken, choose, limited
from tppjax import cli
from train import cifar as train_cifar
from train import digits, loop, own

NUMBERS = {float: ("nan", "inf", "-inf", "-1", "x", "", "1e999"), int: ("-1", "-" + "9" * 30, "1.5", "x", "", "nan")}


def commands(folder: Path) -> dict[str, tuple]:
    """Commands by name: their main, options, what is always given, and what must not be reached."""
    for name, make in {"file": Path.touch, "fifo": os.mkfifo}.items():
        if not (folder / name).exists():
            make(folder / name)
    if not (folder / "pictures").exists():
        for i in range(40):
            file = folder / "pictures" / "train" / f"{i % 2}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), i).save(file)
    return {
        "digits": (digits.main, Digits, ["--out", "{new}"], (loop, "one_epoch")),
        "cifar": (train_cifar.main, Cifar, ["--out", "{new}", "--data_dir", "tfds"], (loop, "one_epoch")),
        "own": (own.main, Own, ["--out", "{new}", "--data_dir", "pictures", "--batch_size", "8"], (loop, "one_epoch")),
        "evaluate": (evaluate.main, Evaluate, ["--ann", "network", "--out", "{new}"], (evaluate, "row")),
        "spikes": (spikes.main, Spikes, ["--ann", "network", "--out", "{new}"], (study, "over_seeds")),
        "from_torch": (
            command.main,
            FromTorch,
            ["weights.safetensors", "--arch", "resnet20", "--out", "{new}"],
            (command.ann, "save"),
        ),
    }


def fuzz_option(rng: np.random.Generator, folder: Path) -> str | None:
    """Gives a command one option that it can't take."""
    name, (main, options, given, reached) = choose(rng, commands(folder))
    fields = [f for f in dataclasses.fields(options) if _hostile(f)]
    field = fields[int(rng.integers(len(fields)))]
    value = str(rng.choice(_hostile(field)))
    new = str(folder / "new")
    argv = [name, *(new if word == "{new}" else word for word in given)]
    argv = [str(folder / word) if (folder / word).exists() and i else word for i, word in enumerate(argv)]
    value = str(folder / value) if Path in _types(field) and value in ("file", "fifo", "missing") else value
    argv += [f"--{field.name}={value}"]
    output, said = io.StringIO(), " ".join(argv[-1:])
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(*reached, side_effect=Taken),
        contextlib.redirect_stderr(output),
        contextlib.redirect_stdout(output),
        limited(),
    ):
        try:
            cli.run(main, options)
            return f"{name} {said}: ran to its end"
        except SystemExit as e:
            if e.code != 2 or "Traceback" in output.getvalue():
                return f"{name} {said}: status {e.code}: {output.getvalue()[-200:]}"
        except Taken:
            return f"{name} {said}: taken"
        except BaseException as e:
            return f"{name} {said}: {type(e).__name__}: {str(e)[:200]}"
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return None


def _types(field) -> set:
    return set(typing.get_args(field.type)) if isinstance(field.type, types.UnionType) else {field.type}


def _hostile(field) -> tuple[str, ...]:
    """Values that an option of this kind must refuse."""
    kinds = _types(field)
    for kind, values in NUMBERS.items():
        if kind in kinds or tuple[kind, ...] in kinds:
            return values
    if Path in kinds:
        return ("fifo", "file") if field.name in ("out", "ann") else ("missing", "fifo")
    return ("no such thing",) if any(typing.get_origin(k) is typing.Literal for k in kinds) else ()

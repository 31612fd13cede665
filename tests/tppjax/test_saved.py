"""A saved network can't be lost, torn or silently another one; what can't be saved or loaded is refused."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

from tppjax import ann, data, models, saved
from tppjax.activations import QCFS
from tppjax.ann import Ann
from tppjax.errors import InputError


def made(act, **options):
    model = models.create("resnet20", 10, act, blocks=(1, 1), channels=2, **options)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
    return Ann(jax.device_get(variables), model, data.info("digits"))


@pytest.fixture(scope="module")
def network():
    return made(QCFS(L=4))


@pytest.fixture
def folder(network, tmp_path):
    ann.save(network, tmp_path / "net")
    return tmp_path / "net"


def changed(network, path, leaf):
    flat = traverse_util.flatten_dict(network.variables, sep="/")
    flat = {k: v for k, v in flat.items() if k != path} if leaf is None else {**flat, path: leaf}
    return network.replace(variables=traverse_util.unflatten_dict(flat, sep="/"))


def edit(folder, entry, value):
    """Changes `ann.json` as of version 0.1, which had no digest."""
    content = json.loads((folder / "ann.json").read_text())
    content.pop("sha256", None)
    *above, last = entry.split(".")
    at = content
    for name in above:
        at = at[name]
    at[last] = value
    (folder / "ann.json").write_text(json.dumps(content))


class Killed(BaseException):
    """Nothing may catch it."""


@pytest.mark.parametrize("within", [False, True], ids=["as named", "in a run folder"])
@pytest.mark.parametrize("after", range(3))
def test_killed_between_renames(after, within, network, tmp_path, monkeypatch):
    folder = tmp_path / "ann" if within else tmp_path / "net"
    ann.save(network, folder)
    other = network.replace(history=("another",))
    rename, count = Path.rename, iter(range(10))

    def killed(self, target):
        if self.parent == tmp_path and next(count) == after:  # and not one of orbax's
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Killed):
        ann.save(other, folder)
    monkeypatch.undo()
    assert ann.load(tmp_path if within else folder).history in ((), ("another",))
    ann.save(other, folder)
    assert ann.load(folder).history == ("another",)
    assert list(tmp_path.iterdir()) == [folder]


def test_flipped_bits(folder):
    """In the description and the files of the variables: another network never comes out."""
    described, rng = (folder / "ann.json").read_text(), np.random.default_rng(0)
    files = [p for p in (folder / "variables").rglob("*") if p.is_file() and p.stat().st_size]
    for file in (*files, *[folder / "ann.json"] * 40):
        whole = file.read_bytes()
        torn = bytearray(whole)
        torn[rng.integers(len(torn))] ^= 1 << rng.integers(8)
        file.write_bytes(torn)
        if file in files or json_of(torn) != json.loads(described):
            with pytest.raises(InputError, match=r"^[^\n]+[:;] train or import"):
                ann.load(folder)
        file.write_bytes(whole)
    assert ann.load(folder)


def json_of(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_what_version_0_1_saved_is_loaded(network, folder):
    edit(folder, "history", [])
    assert ann.fingerprint(ann.load(folder)) == ann.fingerprint(network)


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("model.act.L", 1.5, "QCFS has no L=1.5"),
        ("model.act.L", True, "QCFS has no L=True"),
        ("model.act.name", "gelu", "no 'gelu'"),
        ("model.name", ["resnet20"], "unhashable"),
        ("model.options", {"blocks": [1, 1]}, "num_classes"),
        ("model.options.blocks", "abc", "no blocks='abc'"),
        ("model.options.shortcut", "detour", "shortcut is 'projection' or 'pad'"),
        ("preprocessing.mean", "0.5", "no mean='0.5'"),
        ("preprocessing.class_names", [1, 2], r"no class_names=\[1, 2\]"),
        ("preprocessing.input_shape", [8, 8], "no input_shape="),
        ("preprocessing.input_shape", [8, 8, 3], "mean is a number for each of 3 channels"),
        ("preprocessing.colour", 1, "no colour=1"),
        ("preprocessing", {}, "required positional"),
        ("history", "imported", "history is 'imported'"),
        ("model", 5, "not subscriptable"),
        ("author", "me", "unknown entries author"),
    ],
)
def test_descriptions_that_are_none(entry, value, said, folder):
    edit(folder, entry, value)
    with pytest.raises(InputError, match=rf"ann\.json does not describe a network .*{said}.*: train or import"):
        ann.load(folder)


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("model.options.num_classes", 11, r"params/head/bias is float32 \(10,\), not float32 \(11,\)"),
        ("model.options.norm", False, "params/.*/bias is lacking, and 5 more"),
        ("model.options.blocks", [1], r"batch_stats/stage2_block1/.* is unknown, and \d+ more"),
        ("model.options.channels", 0, "can't be built|is float32"),
    ],
)
def test_a_description_of_other_variables(entry, value, said, folder):
    edit(folder, entry, value)
    with pytest.raises(InputError, match=rf"ann\.json and its variables don't fit together \(.*{said}"):
        ann.load(folder)


LEAVES = [
    ("params/head/bias", np.full(10, np.nan, np.float32), "params/head/bias has a number that is not finite"),
    ("params/act_stem/theta", np.float32(0), r"act_stem/theta has a threshold that is not positive, 0\.0"),
    ("batch_stats/norm_stem/var", np.float32([-1, 1]), r"norm_stem/var has a negative variance, -1\.0"),
    ("params/act_stem/theta", np.ones(3, np.float32), r"theta is float32 \(3,\), not float32 \(\)"),
    ("params/head/bias", np.zeros(10), r"head/bias is float64 \(10,\), not float32 \(10,\)"),
    ("params/head/bias", None, "params/head/bias is lacking"),
    ("params/tail/bias", np.float32(1), "params/tail/bias is unknown"),
]


@pytest.mark.parametrize(("path", "leaf", "said"), LEAVES)
def test_variables_that_are_not_the_models(path, leaf, said, network, tmp_path, monkeypatch):
    wrong = changed(network, path, leaf)
    with pytest.raises(InputError, match=f"can't be saved: {said}|can't be saved: .*{said}"):
        ann.save(wrong, tmp_path / "net")
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as unchecked:
        unchecked.setattr(saved, "check_variables", lambda *_: None)
        ann.save(wrong, tmp_path / "net")
    with pytest.raises(InputError, match=f"don't fit together.*{said}.*: train or import"):
        ann.load(tmp_path / "net")


def test_what_cannot_be_saved(network, tmp_path):
    for wrong, said in (
        ({"model": network.model.clone(name="mine")}, r"only models from models\.create"),
        ({"preprocessing": None}, "without preprocessing can't be saved"),
        ({"history": (1j,)}, "more than plain numbers"),
    ):
        with pytest.raises(InputError, match=said):
            ann.save(network.replace(**wrong), tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_or_written(network, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "net"):
        with pytest.raises(OSError, match="file"):
            ann.save(network, folder)

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand a long trace")

    monkeypatch.setattr(ocp.Checkpointer, "save", full)
    with pytest.raises(InputError, match=r"can't be written to .* \(ValueError: RESOURCE.*device\): make room"):
        ann.save(network, tmp_path / "net")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_nothing_there(network, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        ann.load(tmp_path / "nowhere")
    (tmp_path / ".ann.making" / "variables").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="holds no network"):
        ann.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="is a file"):
        ann.load(tmp_path / "file")
    (tmp_path / "config.json").touch()
    for place in (tmp_path, tmp_path / "ann"):
        with pytest.raises(FileNotFoundError, match=r"training run without a finished epoch: .* --resume"):
            ann.load(place)
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(FileNotFoundError, match=r"whose network is gone: .* --overwrite"):
        ann.load(tmp_path)


def test_foreign_and_damaged_folders(folder):
    text = (folder / "ann.json").read_text()
    for damaged in ("not json", "[]", text[:-30]):
        (folder / "ann.json").write_text(damaged)
        with pytest.raises(InputError, match=r"ann\.json is damaged .*: train or import"):
            ann.load(folder)
    (folder / "ann.json").write_text(text.replace('"L": 4', '"L": 5'))
    with pytest.raises(InputError, match="is damaged: it is not as it was saved"):
        ann.load(folder)
    edit(folder, "history", [])
    for damage in ((folder / "variables" / "_METADATA").unlink, lambda: shutil.rmtree(folder / "variables")):
        damage()
        with pytest.raises(InputError, match="variables is damaged or incomplete"):
            ann.load(folder)

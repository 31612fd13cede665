"""A saved network is the network, bit for bit; it can't be lost, torn or silently another one, and holds no code."""

import hashlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import convert
from tests.convert.networks import Pooled, cnn, images, mlp, traced
from tppjax import checkpoint, models
from tppjax.activations import QCFS
from tppjax.errors import InputError
from tppjax.tracing import trace

KEY = jax.random.key(3)


def several(p, x):
    """Channels first, groups, upsampling, two heads, one of them a constant."""
    conv = lambda x, k, groups: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", feature_group_count=groups)  # noqa: E731
    x = jax.nn.relu6(conv(x, p["a"], 1))
    x = jax.image.resize(x, (x.shape[0], 4, 8, 8), "nearest")
    x = jnp.clip(conv(x, p["b"], 2), 0, p["bound"])
    return {"maps": [x, None], "logits": (x.sum((2, 3)),)}


def other(dtype=np.float32):
    rng = np.random.default_rng(0)
    p = {
        "a": rng.normal(size=(4, 2, 3, 3)),
        "b": rng.normal(size=(4, 2, 3, 3)),
        "bound": rng.uniform(1, 2, (1, 4, 1, 1)),
    }
    return trace((several, jax.tree.map(lambda a: jnp.asarray(a, dtype), p)), jnp.ones((1, 2, 4, 4), dtype))


MADE = {  # and the shape of one example
    "mlp": (mlp, (2, 2, 2)),
    "cnn": (cnn, (4, 4, 1)),
    "max-pool": (lambda: traced(Pooled(QCFS(L=4)), (4, 4, 1)), (4, 4, 1)),
    "resnet": (
        lambda: traced(models.create("resnet20", 3, QCFS(L=4), blocks=(1, 1), channels=2), (8, 8, 1)),
        (8, 8, 1),
    ),
    "corrected": (lambda: convert.correct(mlp(), images(9), T=4), (2, 2, 2)),
    "any tree": (other, (2, 4, 4)),
    "half": (lambda: other(jnp.bfloat16), (2, 4, 4)),
}


@pytest.mark.parametrize("name", MADE)
def test_saved_and_loaded_it_is_the_same(name, tmp_path):
    """Its graph, so that compilations are shared; every number; and all that it and its SNNs return."""
    make, shape = MADE[name]
    network, x = make(), jnp.asarray(images(3, shape), jnp.bfloat16 if name == "half" else np.float32)
    network.save(tmp_path / "net")
    loaded = checkpoint.load(tmp_path / "net")
    assert (loaded.graph, loaded.preprocessing, loaded.history) == (network.graph, None, network.history)
    assert str(loaded) == str(network)
    assert loaded.graph.last_layers == network.graph.last_layers
    for part in checkpoint.PARTS:
        saved, got = getattr(network, part), getattr(loaded, part)
        assert {k: jnp.result_type(v) for k, v in saved.items()} == {k: jnp.result_type(v) for k, v in got.items()}
    calls = [lambda n: n.apply(x)]
    for mode in ("tpp", "baseline") if name != "max-pool" else ("tpp",):
        calls.append(lambda n, mode=mode: convert.to_snn(n, 4, mode).activity(x, KEY))
    for call in (*calls, lambda n: [getattr(n, part) for part in checkpoint.PARTS]):
        jax.tree.map(np.testing.assert_array_equal, call(network), call(loaded))


def test_preprocessing_and_history_are_kept(digits_ann, digits_test, tmp_path):
    network = trace(digits_ann).replace(history=("one", "two"))
    network.save(tmp_path / "net")
    loaded = checkpoint.load(tmp_path / "net")
    assert (loaded.preprocessing, loaded.history) == (network.preprocessing, network.history)
    np.testing.assert_array_equal(loaded.apply(digits_test.images[:9]), network.apply(digits_test.images[:9]))


@pytest.fixture
def folder(tmp_path):
    mlp().save(tmp_path / "net")
    return tmp_path / "net"


def edit(folder, change, weights=None):
    """Changes the description, and gives it the digest that fits."""
    file = folder / checkpoint.GRAPH
    content = json.loads(file.read_text())
    content.pop("sha256")
    change(content)
    if weights is not None:
        (folder / checkpoint.WEIGHTS).write_bytes(safetensors.numpy.save(weights))
    data = (folder / checkpoint.WEIGHTS).read_bytes()
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode() + data).hexdigest()
    file.write_text(json.dumps({**content, "sha256": digest}))


def test_flipped_bits(folder):
    """In the description and in the weights: another network never comes out."""
    rng = np.random.default_rng(0)
    described = json.loads((folder / checkpoint.GRAPH).read_text())
    for file in [folder / checkpoint.GRAPH] * 40 + [folder / checkpoint.WEIGHTS] * 10:
        whole = file.read_bytes()
        torn = bytearray(whole)
        torn[rng.integers(len(torn))] ^= 1 << rng.integers(8)
        file.write_bytes(torn)
        if file.name == checkpoint.WEIGHTS or json_of(torn) != described:
            with pytest.raises(InputError, match=r"^[^\n]+(save the network again|update tppjax)"):
                checkpoint.load(folder)
        file.write_bytes(whole)
    assert checkpoint.load(folder).graph == mlp().graph


def json_of(text):
    try:
        return json.loads(text)
    except ValueError:
        return None


def first(content, **changes):
    content["graph"]["items"][0] |= changes


DESCRIPTIONS = {
    "a later format": (lambda c: c.update(format=2), "has format 2, and this version reads 1: update tppjax"),
    "no format": (lambda c: c.pop("format"), "has format None"),
    "an unknown operation": (lambda c: first(c, name="eval"), "unknown operation 'eval'"),
    "no options of it": (lambda c: first(c, options={"axis": 0}), "options of it"),
    "an option of another type": (lambda c: first(c, options={"new_sizes": "abc"}), "the graph is damaged"),
    "a shape that does not fit": (lambda c: first(c, options={"new_sizes": [1, 7]}), "the graph is damaged"),
    "a value that is missing": (lambda c: first(c, inputs=[77]), "the graph is damaged: KeyError: 77"),
    "a weight that is missing": (lambda c: first(c, inputs=["nothing"]), "the graph is damaged: KeyError: 'nothing'"),
    "an unknown entry": (lambda c: first(c, code="print()"), "the graph is damaged: TypeError"),
    "outputs that are none": (
        lambda c: c["graph"].update(outputs=[[1]]),
        "graph is damaged: TypeError: unhashable",
    ),
    "a tree that is none": (lambda c: c["graph"].update(tree={"set": [0]}), "the graph is damaged: KeyError: 'set'"),
    "no graph": (lambda c: c.pop("graph"), "does not describe a network of this library .*KeyError"),
    "preprocessing that is none": (lambda c: c.update(preprocessing={"mean": "0.5"}), "no mean='0.5'"),
    "no history": (lambda c: c.pop("history"), "does not describe a network"),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_descriptions_that_are_none(name, folder):
    change, said = DESCRIPTIONS[name]
    edit(folder, change)
    with pytest.raises(InputError, match=said):
        checkpoint.load(folder)


def test_a_site_that_is_none(folder):
    def site(content, **changes):
        found = next(item for item in content["graph"]["items"] if "kind" in item)
        found |= changes

    for changes, said in (({"shape": [9]}, "has shape"), ({"kind": "gelu"}, "unknown activation 'gelu'")):
        edit(folder, lambda c, changes=changes: site(c, **changes))
        with pytest.raises(InputError, match=f"the graph is damaged: .*{said}"):
            checkpoint.load(folder)


def test_weights_of_another_network(folder):
    weights = {f"weights/{name}": np.asarray(w) for name, w in mlp().weights.items()}
    lacking = {name: w for name, w in weights.items() if "head" not in name}
    for found, said in ((lacking, "KeyError"), ({**weights, "code/x": np.zeros(1)}, "KeyError: 'code'")):
        edit(folder, lambda _: None, found)
        with pytest.raises(InputError, match=said):
            checkpoint.load(folder)


class Killed(BaseException):
    """Nothing may catch it."""


@pytest.mark.parametrize("after", range(3))
def test_killed_between_renames(after, tmp_path, monkeypatch):
    folder = tmp_path / "net"
    mlp().save(folder)
    rename, count = Path.rename, iter(range(10))

    def killed(self, target):
        if self.parent == tmp_path and next(count) == after:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Killed):
        mlp().replace(history=("another",)).save(folder)
    monkeypatch.undo()
    assert checkpoint.load(folder).history in ((), ("another",))
    mlp().replace(history=("another",)).save(folder)
    assert checkpoint.load(folder).history == ("another",)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failed_save_leaves_the_old_network(folder, monkeypatch):
    monkeypatch.setattr(checkpoint.files, "write_json", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mlp().replace(history=("another",)).save(folder)
    monkeypatch.undo()
    assert checkpoint.load(folder).history == ()
    assert [p.name for p in folder.parent.iterdir()] == ["net"]


def test_other_things_are_not_overwritten(folder):
    for wrong in (folder.parent, folder):
        (wrong / "thesis.tex").write_text("years of work")
        with pytest.raises(FileExistsError, match="something other than a saved network"):
            mlp().save(wrong)
        assert (wrong / "thesis.tex").read_text() == "years of work"


def test_weights_that_are_missing(folder):
    (folder / checkpoint.WEIGHTS).unlink()
    with pytest.raises((InputError, FileNotFoundError), match=r"weights\.safetensors"):
        checkpoint.load(folder)


def test_outputs_that_have_no_form_are_refused(tmp_path):
    class Pair(tuple):
        __slots__ = ()

    jax.tree_util.register_pytree_node(Pair, lambda p: (tuple(p), None), lambda _, p: Pair(p))
    fn = lambda p, x: Pair((jax.nn.relu(x @ p), x))  # noqa: E731
    network = trace((fn, np.ones((2, 2), np.float32)), np.ones((1, 2), np.float32))
    with pytest.raises(InputError, match="the network returns a Pair: let it return tuples, lists or dictionaries"):
        network.save(tmp_path / "net")
    assert not list(tmp_path.iterdir())


def test_no_folder_of_the_machine_is_in_the_file(folder):
    """A network is given away: of the line where an operation was written, only the file and its folder are kept."""
    text = (folder / "graph.json").read_text()
    lines = re.findall(r'"line": "[^"@]*@([^"]+)"', text)
    assert lines
    assert all(line.count("/") <= 1 for line in lines), lines
    assert str(Path.cwd()) not in text

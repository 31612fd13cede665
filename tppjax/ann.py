"""A trained network with all that is needed to use it: variables, model, preprocessing. Saved with orbax."""

import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import struct, traverse_util
from jax.tree_util import keystr, tree_leaves_with_path

from tppjax import activations, models, sharding
from tppjax.activations import ACTIVATIONS
from tppjax.batching import map_examples
from tppjax.checks import as_images, check_ann, check_count, check_images
from tppjax.data import Images, Preprocessing
from tppjax.errors import InputError


class Ann(struct.PyTreeNode):
    """A trained network: what training returns, `load` gives back and `convert.to_snn` takes.

    Attributes:
      variables: `{"params": ..., "batch_stats": ...}`.
      model: the Flax module, with the ANN's activation as its `act`.
      preprocessing: from pixels to the network's input; None for one's own network, which takes floats as they are.
      history: how it came to be, a sentence a step, such as where it was imported from and how its thresholds were set.
    """

    variables: dict
    model: nn.Module = struct.field(pytree_node=False)
    preprocessing: Preprocessing | None = struct.field(pytree_node=False, default=None)
    history: tuple[str, ...] = struct.field(pytree_node=False, default=())

    def __repr__(self):
        return f"Ann({type(self.model).__name__}, {size(self.variables)})"

    def apply(self, x):
        """Logits `[B, K]` of images `[B, H, W, C]` or recordings `[B, frames, H, W, C]`: pixels, or normalised.

        Raises:
          InputError: as `frames`.
        """
        return self.model.apply(self.variables, self.input(x))

    def input(self, images):
        """What enters the network, `[B, H, W, C]`: normalised, if the images are pixels; of frames the mean.

        Raises:
          InputError: as `frames`.
        """
        x = self.frames(images)
        return x if x.ndim == 4 else x.mean(axis=1)

    def frames(self, images):
        """What a spiking network sees, step after step where these are recordings: normalised, if they are pixels.

        Raises:
          InputError: if `images` are not a batch that the network takes: `[B, H, W, C]`, or recordings
            `[B, frames, H, W, C]`; an array, or what can be made one, without NaN.
        """
        images = self.batch(images)
        return images if self.preprocessing is None else self.preprocessing(images)

    def batch(self, images):
        """The images as an array, after all that `frames` refuses has been; nothing is computed.

        Raises:
          InputError: as `frames`.
        """
        images = as_images(images)
        if images.ndim not in (4, 5):
            raise InputError(f"the network takes a batch of images [B, H, W, C]; got shape {images.shape}")
        if self.preprocessing is not None:
            if images.ndim == 5 and images.shape[1] != self.preprocessing.frames:
                expected = self.preprocessing.frames or "no"
                raise InputError(f"the network takes recordings of {expected} frames; got shape {images.shape}")
            jax.eval_shape(self.preprocessing, images)
        elif not jnp.issubdtype(images.dtype, jnp.floating):
            raise InputError(f"a network without preprocessing takes floats, already normalised; got {images.dtype}")
        return images


def thresholds(variables) -> dict[str, jax.Array]:
    """`{site: theta}`, every leaf called `theta` among the parameters, by its site, such as "block1/act1"."""
    flat = traverse_util.flatten_dict(variables["params"])
    return {"/".join(path[:-1]): leaf for path, leaf in flat.items() if path[-1] == "theta"}


def size(variables) -> str:
    """How many there are, for people to read."""
    flat = {keystr(path, simple=True, separator="/"): leaf for path, leaf in tree_leaves_with_path(variables)}
    params = {path: np.size(leaf) for path, leaf in flat.items() if path.startswith("params/")}
    return f"thresholds={sum(path.endswith('/theta') for path in params)}, parameters={sum(params.values()):,}"


class Site(NamedTuple):
    """A place where a copy of the activation stands.

    Attributes:
      shape: of its output for one example.
      max_pool: what it pools before, as in `activations.max_pool`.
    """

    shape: tuple[int, ...]
    max_pool: tuple[int, int, int] | None


def sites(model: nn.Module, input_shape) -> dict[str, Site]:
    """Every copy of `model.act` by its path, in the order in which they run. Found once for each model and shape.

    Raises:
      InputError: if there is none, or one copy runs twice, since spiking neurons can stand at one place only; or as
        `check_hashable`.
    """
    check_hashable(model)
    return dict(_sites(model, tuple(input_shape)))


@functools.lru_cache(maxsize=128)
def _sites(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Site]:
    found = {}

    def record(site, module, x, y):
        if site in found:
            raise InputError(f"the activation {site!r} runs twice: put a copy at each site, self.act.copy(name=...)")
        found[site] = Site(y.shape, module.max_pool)

    with watching((type(model.act),), record):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(input_shape, jnp.float32))
    if not found:
        raise InputError(f"{type(model).__name__} has no site: put self.act.copy(name=...) where its activations are")
    return found


def check_hashable(model: nn.Module) -> None:
    """Raises InputError unless the model can stand for what was traced and compiled of it, as JAX needs it."""
    try:
        hash(model)
    except TypeError as e:
        raise InputError(
            f"{type(model).__name__} has a field that can't be hashed, such as a list, a dict or an array: give a tuple"
        ) from e


def site_inputs(model: nn.Module, variables, x, **options) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`model.apply(variables, x, **options)`, and `{site: what its activation gets}`, after max-pooling if any."""
    found = {}

    def record(site, module, x, y):
        found[site] = activations.max_pool(x, module.max_pool)

    with watching((type(model.act),), record):
        return model.apply(variables, x, **options), found


def watching(types: tuple[type, ...], record):
    """While this is open, `record(path, module, input, output)` is called after each run of a module of these types."""

    def intercept(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if type(context.module) in types and context.method_name == "__call__":
            record("/".join(context.module.path), context.module, args[0], result)
        return result

    return nn.intercept_methods(intercept)


def save(ann: Ann, folder: str | os.PathLike) -> None:
    """Writes `folder`: `ann.json` and the variables. What was there stays whole until the new one is.

    Of several hosts all must call it, and the first one writes.

    Raises:
      InputError: if the model is not one that `models.create` makes.
      FileExistsError: if `folder` holds anything but a saved network.
    """
    folder = Path(folder).absolute()
    description = _describe(ann)
    if folder.exists() and {p.name for p in folder.iterdir()} != {"ann.json", "variables"}:
        raise FileExistsError(f"{folder} holds something other than a saved network; choose another folder")
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    if sharding.primary():
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
    sharding.wait_for_all("there is room for the network")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(new / "variables", ann.variables)
    if sharding.primary():
        (new / "ann.json").write_text(json.dumps(description, indent=2) + "\n")
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    sharding.wait_for_all("the network is saved")


def load(folder: str | os.PathLike) -> Ann:
    """The network saved in `folder`, or in `folder/ann`, where training puts it.

    Raises:
      FileNotFoundError: if there is none; says what was looked for.
      InputError: if what is there is damaged or of another kind.
    """
    folder = Path(folder).absolute()
    folder = folder / "ann" if (folder / "ann" / "ann.json").is_file() else folder
    if not (folder / "ann.json").is_file():
        raise FileNotFoundError(_nothing_at(folder))
    try:
        description = json.loads((folder / "ann.json").read_text())
        model = _model(description["model"])
        preprocessing = Preprocessing(**{k: _tuples(v) for k, v in description["preprocessing"].items()})
        history = tuple(description.get("history", ()))
    except (json.JSONDecodeError, KeyError, TypeError) as e:
        raise InputError(f"{folder / 'ann.json'} does not describe a network of this library: {e!r}") from e
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            variables = checkpointer.restore(folder / "variables")
    except Exception as e:
        raise InputError(f"{folder / 'variables'} is damaged or incomplete, train or import again: {e}") from e
    return Ann(variables, model, preprocessing, history)


def _nothing_at(folder: Path) -> str:
    if not folder.exists():
        return f"there is no folder {folder}"
    if (folder / "checkpoints").is_dir() or any(folder.glob(".ann.*")):
        return f"{folder} holds an interrupted training run without a finished network: continue it with --resume"
    return f"{folder} holds no network: no ann.json in it, and no ann/ann.json"


def _describe(ann: Ann) -> dict:
    model, names = ann.model, {cls: name for name, cls in ACTIVATIONS.items()}
    if model.name not in models.MODELS or type(model.act) not in names:
        raise InputError(f"only models from models.create can be saved; got {model}")
    return {
        "model": {
            "name": model.name,
            "options": {k: v for k, v in _fields(model).items() if k != "act"},
            "act": {"name": names[type(model.act)], **_fields(model.act)},
        },
        "preprocessing": dataclasses.asdict(ann.preprocessing),
        "history": ann.history,
    }


def _fields(module: nn.Module) -> dict:
    return {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}


def _model(description: dict) -> nn.Module:
    act = {k: _tuples(v) for k, v in description["act"].items()}
    options = {k: _tuples(v) for k, v in description["options"].items()}
    return models.create(description["name"], act=ACTIVATIONS[act.pop("name")](**act), **options)


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def images_at_once(model: nn.Module, input_shape, kept: bool = False) -> int:
    """Images a call, at most 250, that keep within `sharding.budget()` on each device of this host.

    Layers come one after another: some four floats a neuron of the largest; or, if all that reaches a site is `kept`, a
    float a neuron of every one.
    """
    neurons = [math.prod(site.shape) for site in sites(model, (1, *input_shape[-3:])).values()]
    needed = 4 * sum(neurons) if kept else 16 * max(neurons)
    return min(250, sharding.at_once(needed))


def accuracy(ann: Ann, images: Images, at_once: int | None = None) -> float:
    """Share of images that the network names rightly, in percent.

    Args:
      ann: the network.
      images: with their labels.
      at_once: images a call; by default as many as suit the device's memory.

    Raises:
      InputError: if the network can't be run on these images, or there is not one label for each.
    """
    check_ann(ann)
    if not hasattr(images, "stream"):
        raise InputError(f"accuracy takes tppjax.data.Images(images, labels); got {type(images).__name__}")
    if isinstance(images, Images):
        images = Images(as_images(images), np.asarray(images.labels))
        if images.labels.shape != images.images.shape[:1]:
            raise InputError(f"one label for each of {len(images.images)} images, [N]; got {images.labels.shape}")
    check_images(ann, images[:1], "accuracy")
    if at_once is not None:
        check_count("at_once", at_once)
    at_once = at_once or images_at_once(ann.model, images[:1].images.shape)
    return 100 * float(np.mean(map_examples(functools.partial(_correct, ann), images, at_once)))


@jax.jit
def _correct(ann: Ann, pixels, labels, index):
    return ann.apply(pixels).argmax(-1) == labels


def fingerprint(ann: Ann) -> str:
    """Twelve hexadecimal digits that tell this network from others: of its model, preprocessing and variables."""
    digest = hashlib.sha256(repr((ann.model, ann.preprocessing)).encode())
    for path, leaf in sorted(traverse_util.flatten_dict(ann.variables, sep="/").items()):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{path} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()[:12]


def to_host(tree):
    """The tree with NumPy leaves."""
    return jax.tree.map(np.asarray, tree)

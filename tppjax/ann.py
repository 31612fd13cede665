"""A trained network with all that is needed to use it: variables, model, preprocessing. Saved with orbax."""

import functools
import hashlib
import math
import os
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util
from flax.errors import FlaxError
from jax.tree_util import keystr, tree_leaves_with_path

from tppjax import files, saved, sharding
from tppjax.batching import map_examples
from tppjax.checks import as_images, check_examples, check_prepared
from tppjax.data import Images, Preprocessing
from tppjax.errors import InputError, brief, check_count, extra


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
            `[B, frames, H, W, C]`; an array, or what can be made one, without NaN; as `as_images`.
        """
        images = self.batch(images)
        return images if self.preprocessing is None else self.preprocessing(jnp.asarray(images))

    def batch(self, images):
        """The images as an array, after all that `frames` refuses has been; nothing is computed.

        Raises:
          InputError: as `frames`.
        """
        images = as_images(images)
        if images.ndim not in (4, 5):
            raise InputError(f"the network takes a batch of images [B, H, W, C]; got shape {images.shape}")
        check_prepared(images, images.ndim == 5, self.preprocessing)
        return images


def thresholds(variables) -> dict[str, jax.Array]:
    """`{site: theta}`, every leaf called `theta` among the parameters, by its site, such as "block1/act1"."""
    flat = traverse_util.flatten_dict(variables["params"])
    return {"/".join(path[:-1]): leaf for path, leaf in flat.items() if path[-1] == "theta"}


def size(variables) -> str:
    """How many thresholds and parameters there are, for people to read: "thresholds=4, parameters=30,000"."""
    flat = {keystr(path, simple=True, separator="/"): leaf for path, leaf in tree_leaves_with_path(variables)}
    params = {path: np.size(leaf) for path, leaf in flat.items() if path.startswith("params/")}
    return f"thresholds={sum(path.endswith('/theta') for path in params)}, parameters={sum(params.values()):,}"


def save(ann: Ann, folder: str | os.PathLike) -> None:
    """Writes `folder`: `ann.json` and the variables. Killed at any moment, `load` finds the old network or the new one.

    Of several hosts all must call it, and the first one writes.

    Raises:
      InputError: if `ann` is something else, the model is not one that `models.create` makes, the variables are not its
        own or not finite, or they can't be written, such as to a full disk.
      FileExistsError: if `folder` holds anything but a saved network.
      OSError: if the folder can't be made.
    """
    if not isinstance(ann, Ann):
        raise InputError(
            f"an Ann can be saved by ann.save; got {type(ann).__name__}. A traced network, spiking or not, is saved by "
            "its own way: network.save(folder), or snn.save(folder)"
        )
    folder = Path(folder).absolute()
    description = saved.describe(ann.model, ann.preprocessing, ann.history)
    try:
        _check_variables(ann.model, ann.variables, ann.preprocessing)
    except InputError as e:
        raise InputError(f"the network can't be saved: {e}") from e
    there = files.whole_folder(folder)
    if there.exists() and not {p.name for p in there.iterdir()} <= {"ann.json", "variables"}:
        raise FileExistsError(f"{folder} holds something other than a saved network; choose another folder")
    sharding.wait_for_all("the folder has been looked at")
    with files.replacing_folder(folder, writes=sharding.primary()) as new:
        if sharding.primary():
            new.mkdir()  # orbax would try for ever
        sharding.wait_for_all("there is room for the network")
        _write(ann.variables, new / "variables")
        if sharding.primary():
            digest = saved.digest(description, new / "variables")
            files.write_json(new / "ann.json", {**description, "sha256": digest})
    sharding.wait_for_all("the network is saved")


def load(folder: str | os.PathLike) -> Ann:
    """The network saved in `folder`, or in `folder/ann`, where training puts it.

    It is compared with the digest that `save` left beside it; version 0.1 left none, and its networks are taken if
    their variables fit the model.

    Raises:
      FileNotFoundError: if there is none; says what was looked for.
      InputError: if what is there is damaged or of another kind; says what is wrong and where.
    """
    asked = Path(folder).absolute()
    for place in (asked / "ann", asked):
        with files.reading_folder(place) as whole:
            if (whole / "ann.json").is_file():
                return _load(whole)
    raise FileNotFoundError(nothing_at(asked))


def _load(folder: Path) -> Ann:
    model, preprocessing, history, described = saved.read(folder / "ann.json")
    if "sha256" in described and described["sha256"] != saved.digest(described, folder / "variables"):
        raise InputError(f"{folder} is damaged: it is not as it was saved, by its digest; {saved.REMEDY}")
    variables = _read(folder / "variables")
    try:
        _check_variables(model, variables, preprocessing)
    except InputError as e:
        raise InputError(f"{folder / 'ann.json'} and its variables don't fit together ({e}): {saved.REMEDY}") from e
    return Ann(variables, model, preprocessing, history)


def nothing_at(folder: Path) -> str:
    """Why there is no `Ann` in the folder, for messages."""
    run = folder.parent if folder.name == "ann" else folder
    if (run / "config.json").is_file():
        metrics = run / "metrics.jsonl"  # of finished epochs, the first of which leaves a network
        if metrics.is_file() and metrics.stat().st_size:
            return f"{run} holds a training run whose network is gone: train again with --overwrite"
        return f"{run} holds a training run without a finished epoch: continue it with --resume"
    if not folder.is_dir():
        return f"{folder} is a file, not a folder" if folder.exists() else f"there is no folder {folder}"
    if any((place / "graph.json").is_file() for place in (folder, folder / "network")):
        return f"{folder} holds a traced network, without the model that could be trained: convert.load reads it"
    return f"{folder} holds no network: neither ann.json nor graph.json in it, in ann/ or in network/"


def _write(variables, folder: Path) -> None:
    with extra("train"):
        import orbax.checkpoint as ocp
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(folder, args=ocp.args.StandardSave(variables))
    except OSError:
        raise
    except Exception as e:  # of many types, a full disk as a ValueError
        raise InputError(f"the network can't be written to {folder.parent.parent} ({brief(e)}): make room") from e


def _read(folder: Path):
    with extra("train"):
        import orbax.checkpoint as ocp
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder)
    except Exception as e:  # of as many types as a file can be damaged
        raise InputError(f"{folder} is damaged or incomplete ({brief(e)}): {saved.REMEDY}") from e


def _check_variables(model: nn.Module, variables, preprocessing: Preprocessing) -> None:
    """Raises InputError unless the variables are of the model, as it makes them."""
    x = jax.ShapeDtypeStruct((1, *preprocessing.input_shape), jnp.float32)
    try:
        required = jax.eval_shape(model.init, jax.random.key(0), x)
    except (ArithmeticError, TypeError, ValueError, FlaxError) as e:  # by what is wrong with a layer
        raise InputError(f"{model.name} can't be built for {preprocessing.input_shape}: {brief(e)}") from e
    saved.check_variables(variables, traverse_util.flatten_dict(required, sep="/"))


def _largest(network, pixels) -> int:
    """Bytes of the largest array on the way through the network, for one image."""
    closed = jax.make_jaxpr(network.apply)(jax.ShapeDtypeStruct((1, *pixels.shape[1:]), pixels.dtype))
    return max(4 * math.prod(v.aval.shape) for eqn in closed.jaxpr.eqns for v in eqn.outvars)


def accuracy(network, images: Images, batch_size: int | None = None) -> float:
    """Share of images that the network names rightly, in percent.

    Args:
      network: an `Ann` or a `Network` that gives logits `[B, K]`.
      images: with their labels.
      batch_size: images a call; by default as many as suit the device's memory.

    Raises:
      InputError: if the network can't be run on these images.
    """
    if not hasattr(images, "stream"):
        raise InputError(f"accuracy takes tppjax.data.Images(images, labels); got {type(images).__name__}")
    in_memory = isinstance(images, Images)
    pixels = check_examples(network, images if in_memory else images[:1], "accuracy")
    images = Images(pixels, images.labels) if in_memory else images
    if batch_size is not None:
        check_count("batch_size", batch_size)
    logits = jax.eval_shape(network.apply, pixels[:1])
    if not hasattr(logits, "shape") or len(logits.shape) != 2:
        raise InputError(f"accuracy is of networks that return one array of logits [B, K]; this one returns {logits}")
    batch_size = batch_size or min(250, sharding.batch_size(4 * _largest(network, pixels)))
    return 100 * float(np.mean(map_examples(functools.partial(_correct, network), images, batch_size)))


@jax.jit
def _correct(network, pixels, labels, index):
    return network.apply(pixels).argmax(-1) == labels


def fingerprint(network) -> str:
    """Twelve hexadecimal digits that tell an `Ann` or `Network` from others: of all that it computes with."""
    structure = network.model if isinstance(network, Ann) else network.graph.digest
    digest = hashlib.sha256(repr((structure, network.preprocessing)).encode())
    for path, leaf in tree_leaves_with_path(network):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()[:12]


def to_host(tree):
    """The tree with NumPy leaves."""
    return jax.tree.map(np.asarray, tree)

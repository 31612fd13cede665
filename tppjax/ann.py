"""A trained network with all that is needed to use it: variables, model, preprocessing. Saved with orbax."""

import functools
import hashlib
import math
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util
from flax.errors import FlaxError
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import Float

from tppjax import files, saved, sharding
from tppjax.batching import map_examples
from tppjax.checks import as_images, check_examples, check_prepared
from tppjax.data import Examples, Images, Preprocessing
from tppjax.errors import InputError, brief, check_count, extra, refusing
from tppjax.network import Network
from tppjax.types import Array, ImagesLike, PathLike, Weights


class Ann(struct.PyTreeNode):
    """A trained network: what training returns, `load` gives back and `convert.to_snn` takes.

    Attributes:
      variables: the parameters and statistics, `{"params": ..., "batch_stats": ...}`.
      model: the Flax module, with the ANN's activation as its `act`.
      preprocessing: from pixels to the network's input; None for a network of your own that takes floats unchanged.
      history: how the network was made, one sentence per step, such as its origin and how its thresholds were set.
    """

    variables: dict
    model: nn.Module = struct.field(pytree_node=False)
    preprocessing: Preprocessing | None = struct.field(pytree_node=False, default=None)
    history: tuple[str, ...] = struct.field(pytree_node=False, default=())

    def __repr__(self) -> str:
        return f"Ann({type(self.model).__name__}, {size(self.variables)})"

    def apply(self, x: ImagesLike) -> Any:
        """Logits `[B, K]` of images `[B, H, W, C]` or recordings `[B, frames, H, W, C]`: pixels, or normalised.

        Raises:
          InputError: as `frames`.
        """
        return self.model.apply(self.variables, self.input(x))

    def input(self, images: ImagesLike) -> Float[Array, "batch height width channels"]:
        """The network's input, `[B, H, W, C]`: pixels are normalised; of recordings it is the mean over their frames.

        Raises:
          InputError: as `frames`.
        """
        x = self.frames(images)
        return x if x.ndim == 4 else x.mean(axis=1)

    def frames(self, images: ImagesLike) -> Float[Array, "batch *frames height width channels"]:
        """What a spiking network receives, a frame per step if these are recordings; pixels are normalised.

        Raises:
          InputError: if `images` is not a batch that the network takes: `[B, H, W, C]`, or recordings
            `[B, frames, H, W, C]`; an array without NaN, or what can be made one, see `as_images`.
        """
        images = as_images(images)
        if images.ndim not in (4, 5):
            raise InputError(f"the network takes a batch of images [B, H, W, C]; got shape {images.shape}")
        check_prepared(images, images.ndim == 5, self.preprocessing)
        return images if self.preprocessing is None else self.preprocessing(jnp.asarray(images))


def thresholds(variables: dict) -> Weights:
    """`{site: theta}`: every leaf called `theta` among the parameters, by its site, such as "block1/act1"."""
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(variables["params"])
    return {"/".join(path[:-1]): leaf for path, leaf in flat.items() if path[-1] == "theta"}


def size(variables: Any) -> str:
    """The number of thresholds and parameters as text: "thresholds=4, parameters=30,000"."""
    flat = {keystr(path, simple=True, separator="/"): leaf for path, leaf in tree_leaves_with_path(variables)}
    params = {path: np.size(leaf) for path, leaf in flat.items() if path.startswith("params/")}
    return f"thresholds={sum(path.endswith('/theta') for path in params)}, parameters={sum(params.values()):,}"


def save(ann: Ann, folder: PathLike) -> None:
    """Writes `folder`: `ann.json` and the variables. If it is killed, `load` finds either the old network or the new.

    On several hosts, all must call it, and the first one writes.

    Raises:
      InputError: if `ann` is not an `Ann`, its model is not one that `models.create` makes, its variables do not belong
        to the model or are not finite, or they can't be written, for example because the disk is full.
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
    assert ann.preprocessing is not None  # `describe` refuses that
    with refusing("the network can't be saved", kinds=InputError):
        _check_variables(ann.model, ann.variables, ann.preprocessing)
    existing = files.whole_folder(folder)
    if existing.exists() and not {p.name for p in existing.iterdir()} <= {"ann.json", "variables"}:
        raise FileExistsError(f"{folder} holds something other than a saved network; choose another folder")
    sharding.wait_for_all("the folder has been looked at")
    with files.replacing_folder(folder, writes=sharding.primary()) as new:
        if sharding.primary():
            new.mkdir()  # orbax would retry for ever
        sharding.wait_for_all("there is room for the network")
        _write(ann.variables, new / "variables")
        if sharding.primary():
            digest = saved.digest(description, new / "variables")
            files.write_json(new / "ann.json", {**description, "sha256": digest})
    sharding.wait_for_all("the network is saved")


def load(folder: PathLike) -> Ann:
    """The network saved in `folder`, or in `folder/ann`, where training puts it.

    It is compared with the digest that `save` wrote beside it. Version 0.1 wrote none; its networks are accepted if
    their variables fit the model.

    Raises:
      FileNotFoundError: if there is no network; says where it was looked for.
      InputError: if the files are damaged or of another kind; says what is wrong and where.
    """
    folder = Path(folder).absolute()
    for place in (folder / "ann", folder):
        with files.reading_folder(place) as whole:
            if (whole / "ann.json").is_file():
                return _load(whole)
    raise FileNotFoundError(nothing_at(folder))


def _load(folder: Path) -> Ann:
    model, preprocessing, history, described = saved.read(folder / "ann.json")
    if "sha256" in described and described["sha256"] != saved.digest(described, folder / "variables"):
        raise InputError(f"{folder} is damaged: it is not as it was saved, by its digest; {saved.REMEDY}")
    variables = _read(folder / "variables")
    with refusing(f"{folder / 'ann.json'} and its variables don't fit together", saved.REMEDY, InputError):
        _check_variables(model, variables, preprocessing)
    return Ann(variables, model, preprocessing, history)


def nothing_at(folder: Path) -> str:
    """The reason why there is no `Ann` in the folder, for messages."""
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


def _write(variables: Any, folder: Path) -> None:
    with extra("train"):
        import orbax.checkpoint as ocp
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            checkpointer.save(folder, args=ocp.args.StandardSave(variables))
    except OSError:
        raise
    except Exception as e:  # of many types; a full disk is a ValueError
        raise InputError(f"the network can't be written to {folder.parent.parent} ({brief(e)}): make room") from e


def _read(folder: Path) -> Any:
    with extra("train"):
        import orbax.checkpoint as ocp
    with refusing(f"{folder} is damaged or incomplete", saved.REMEDY), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder)


def _check_variables(model: nn.Module, variables: Any, preprocessing: Preprocessing) -> None:
    """Raises InputError unless the variables are those that the model would create."""
    x = jax.ShapeDtypeStruct((1, *preprocessing.input_shape), jnp.float32)
    kinds = ArithmeticError, TypeError, ValueError, FlaxError  # by what is wrong with a layer
    with refusing(f"{model.name} can't be built for {preprocessing.input_shape}", kinds=kinds):
        required = jax.eval_shape(model.init, jax.random.key(0), x)
    saved.check_variables(variables, traverse_util.flatten_dict(required, sep="/"))


def _largest(jaxpr: Any) -> int:
    """Bytes of the largest array in a network's `jaxpr`."""
    return max(4 * math.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars)


def accuracy(network: Ann | Network, images: Examples, batch_size: int | None = None) -> float:
    """Percentage of images that the network classifies correctly.

    Args:
      network: an `Ann` or a `Network` that returns logits `[B, K]`.
      images: the images with their labels.
      batch_size: images per call; by default as many as suit the device's memory.

    Raises:
      InputError: if the network can't be run on these images.
    """
    if not hasattr(images, "stream"):
        raise InputError(f"accuracy takes tppjax.data.Images(images, labels); got {type(images).__name__}")
    in_memory = isinstance(images, Images)
    pixels = check_examples(network, images if in_memory else images[:1], "accuracy")
    images = Images(pixels, images.labels) if in_memory else images  # pyright: ignore[reportArgumentType] - of JAX too
    if batch_size is not None:
        check_count("batch_size", batch_size)
    traced = _logits.trace(network, jax.ShapeDtypeStruct((1, *pixels.shape[1:]), pixels.dtype))
    logits = traced.out_info
    if not hasattr(logits, "shape") or len(logits.shape) != 2:
        raise InputError(f"accuracy needs a network that returns one array of logits [B, K]; this one returns {logits}")
    batch_size = batch_size or min(250, sharding.batch_size(4 * _largest(traced.jaxpr.jaxpr)))
    return 100 * float(np.mean(map_examples(functools.partial(_correct, network), images, batch_size)))


@jax.jit
def _logits(network: Ann | Network, pixels: jax.Array) -> jax.Array:
    """As `apply`, but traced once for all variables of the same shapes: the validation of each epoch comes here."""
    return network.apply(pixels)


@jax.jit
def _correct(network: Ann | Network, pixels: jax.Array, labels: jax.Array, index: jax.Array) -> jax.Array:
    return _logits(network, pixels).argmax(-1) == labels


def fingerprint(network: Ann | Network) -> str:
    """Twelve hexadecimal digits that identify an `Ann` or `Network`: a digest of everything it computes with."""
    structure = network.model if isinstance(network, Ann) else network.graph.digest
    digest = hashlib.sha256(repr((structure, network.preprocessing)).encode())
    for path, leaf in tree_leaves_with_path(network):
        leaf = np.ascontiguousarray(leaf)
        digest.update(f"{keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()[:12]

"""What a caller hands over, checked where it enters: numbers, images, and networks of their own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tppjax.activations import ACTIVATIONS
from tppjax.data import check_finite
from tppjax.errors import InputError, brief


def as_images(images):
    """`images` as one array: arrays, tensors and lists of them, and the pixels of `tppjax.data.Images`.

    What jax traces passes as it is, and so do floats on a device: whether they are finite would have to be waited for.

    Raises:
      InputError: if they are none of these, or floats on the host that are not finite; says where.
    """
    if isinstance(images, jax.core.Tracer):
        return images
    if hasattr(type(images), "stream"):  # of the type, since pictures on disk would be read for their attributes
        images = images.images
    if not isinstance(images, np.ndarray | jax.Array):
        images = _converted(images)
    if images.dtype.kind in "OSUM":
        raise InputError(f"images are an array of numbers [N, H, W, C]; got {images.dtype}")
    check_finite(images)
    return images


def _converted(images) -> np.ndarray:
    if hasattr(images, "__array__") or isinstance(images, list | tuple):
        try:
            return np.asarray(images)
        except Exception as e:  # such as those of a tensor on another device, or of rows of different lengths
            raise InputError(f"the images can't be made one array [N, H, W, C]: {e}") from e
    raise InputError(
        f"images are one array [N, H, W, C], channels last; got {type(images).__name__}. Of a loader whose batches are "
        "(x [B, C, H, W], labels): np.concatenate([np.asarray(x) for x, _ in loader]).transpose(0, 2, 3, 1)"
    )


def check_images(ann, images, purpose: str):
    """The network and the images fit each other: the images, `[N, ...]`, as one array; on a device they are finite too.

    Args:
      ann: the network.
      images: what `as_images` takes.
      purpose: what they are for, such as "calibration", for the message if there are none.

    Raises:
      InputError: as `as_images`, `Ann.frames` and `logits_shape`, or if there are no images.
    """
    images = as_images(images)
    if not np.shape(images) or len(images) == 0:
        raise InputError(f"{purpose} needs images [N, H, W, C]; got none")
    if isinstance(images, jax.Array):
        check_finite(np.asarray(images))
    logits_shape(ann.model, ann.variables, jax.eval_shape(ann.frames, images[:1]).shape[-3:])
    return images


def check_ann(ann) -> None:
    """It is an `Ann`, its model has one of our activations in its field `act`, and its variables are finite.

    Raises:
      InputError: if not; says what to do.
    """
    bare = isinstance(ann, nn.Module)  # whose attributes can't be asked for
    model, variables = (None, None) if bare else (getattr(ann, name, None) for name in ("model", "variables"))
    if not isinstance(model, nn.Module) or not hasattr(variables, "keys") or "params" not in variables:
        raise InputError(
            "a network is tppjax.ann.Ann(variables, model), with variables {'params': ...} and a Flax module, "
            f"or what tppjax.ann.load gives; got {type(ann).__name__}"
        )
    act = getattr(model, "act", None)
    if type(act) not in ACTIVATIONS.values():
        known = ", ".join(cls.__name__ for cls in ACTIVATIONS.values())
        has = "no field act" if act is None else f"act={getattr(act, '__name__', type(act).__name__)}"
        raise InputError(
            f"{type(model).__name__} has {has}, which can't be converted: "
            f"give it one of {known} as act, and put self.act.copy(name=...) at each site"
        )
    leaves = traverse_util.flatten_dict(dict(variables), sep="/")
    known = {path: leaf for path, leaf in leaves.items() if not isinstance(leaf, jax.core.Tracer)}
    for path, leaf in jax.device_get(known).items():
        check_leaf(path, np.asarray(leaf))


def check_leaf(path: str, leaf: np.ndarray, name: str | None = None) -> None:
    """Raises InputError unless all its numbers are finite, thresholds positive and variances not negative.

    Args:
      path: of the leaf, such as "params/act1/theta".
      leaf: its numbers.
      name: what the message calls it; by default the path.
    """
    name = path if name is None else name
    if not np.all(np.isfinite(leaf)):
        raise InputError(f"{name} has a number that is not finite")
    if path.endswith("/theta") and not np.all(leaf > 0):
        raise InputError(f"{name} has a threshold that is not positive, {leaf.min()}")
    if path.startswith("batch_stats/") and path.endswith("/var") and np.any(leaf < 0):
        raise InputError(f"{name} has a negative variance, {leaf.min()}")


def check_hashable(model: nn.Module) -> None:
    """Raises InputError unless the model can stand for what was traced and compiled of it, as JAX needs it."""
    try:
        hash(model)
    except TypeError as e:
        raise InputError(
            f"{type(model).__name__} has a field that can't be hashed, such as a list, a dict or an array: give a tuple"
        ) from e


def of_structure(fn):
    """`fn(model, variables, input_shape)`, which needs the variables' shapes only, found once for equal arguments.

    Errors are not kept. InputError as `check_hashable`.
    """

    @functools.lru_cache(maxsize=128)
    def once(model, tree, leaves, input_shape):
        return fn(model, jax.tree.unflatten(tree, leaves), input_shape)

    @functools.wraps(fn)
    def cached(model, variables, input_shape):
        check_hashable(model)
        leaves, tree = jax.tree.flatten(variables)
        shapes = (jax.ShapeDtypeStruct(np.shape(leaf), jax.dtypes.result_type(leaf)) for leaf in leaves)
        return once(model, tree, tuple(shapes), tuple(input_shape))

    return cached


@of_structure
def logits_shape(model: nn.Module, variables, input_shape) -> tuple[int, ...]:
    """Shape of what the network gives for one image, such as `(1, K)`; nothing is computed.

    Raises:
      InputError: if `model.apply(variables, x)` is not possible, or gives something else than one array; or as
        `check_hashable`.
    """
    name, x = type(model).__name__, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    try:
        y = jax.eval_shape(model.apply, variables, x)
    except InputError:
        raise
    except Exception as e:  # whatever their layers raise
        raise InputError(
            f"{name} must run as model.apply(variables, x), with x of shape {x.shape}, its own variables, and in "
            f"evaluation mode unless told otherwise, as in __call__(self, x, train: bool = False). {brief(e)}"
        ) from e
    if not isinstance(y, jax.ShapeDtypeStruct):
        shapes = jax.tree.map(lambda leaf: leaf.shape, y)
        raise InputError(f"{name} gives {shapes}, not one array of logits [B, K]: let it return the one that is wanted")
    return y.shape

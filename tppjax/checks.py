"""What a caller hands over, checked where it enters: numbers, images, and networks of their own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tppjax.activations import ACTIVATIONS
from tppjax.errors import InputError


def as_images(images):
    """`images` as one array: arrays, tensors and lists of them, and the pixels of `tppjax.data.Images`.

    What jax traces passes as it is.

    Raises:
      InputError: if they are none of these, or floats that are not finite; says which image.
    """
    if isinstance(images, jax.core.Tracer):
        return images
    if hasattr(images, "images") and hasattr(images, "labels"):
        images = images.images
    if not isinstance(images, np.ndarray | jax.Array):
        images = _converted(images)
    if images.dtype.kind in "OSUM":
        raise InputError(f"images are an array of numbers [N, H, W, C]; got {images.dtype}")
    if jnp.issubdtype(images.dtype, jnp.floating) and not _finite(images):
        finite = np.isfinite(np.asarray(images)).reshape(len(images), -1).all(axis=1)
        raise InputError(f"the images hold NaN or infinity, first in image {finite.argmin()}")
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
    """The network and the images fit each other: the images, `[N, ...]`, as one array.

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
    for path, leaf in traverse_util.flatten_dict(dict(variables), sep="/").items():
        if isinstance(leaf, jax.core.Tracer):
            continue
        if path.endswith("/theta"):
            if not _finite(leaf) or not np.all(np.asarray(leaf) > 0):
                site = path.removeprefix("params/").removesuffix("/theta")
                raise InputError(f"thresholds must be positive and finite; theta at {site} is {np.asarray(leaf)}")
        elif not _finite(leaf):
            raise InputError(f"the network's variables hold NaN or infinity, in {path}")
        elif path.startswith("batch_stats/") and path.endswith("/var") and not np.all(np.asarray(leaf) >= 0):
            raise InputError(f"a variance is at least 0; the network's variables hold a negative one, in {path}")


def _finite(leaf) -> bool:
    return bool((jnp if isinstance(leaf, jax.Array) else np).isfinite(leaf).all())


def logits_shape(model: nn.Module, variables, input_shape) -> tuple[int, ...]:
    """Shape of what the network gives for one image, such as `(1, K)`; nothing is computed.

    Raises:
      InputError: if `model.apply(variables, x)` is not possible, or gives something else than one array.
    """
    name, x = type(model).__name__, jax.ShapeDtypeStruct((1, *input_shape), jnp.float32)
    try:
        y = jax.eval_shape(model.apply, variables, x)
    except InputError:
        raise
    except Exception as e:  # whatever their layers raise
        raise InputError(
            f"{name} must run as model.apply(variables, x), with x of shape {x.shape}, its own variables, and in "
            "evaluation mode unless told otherwise, as in __call__(self, x, train: bool = False). "
            f"{type(e).__name__}: {str(e).splitlines()[0]}"
        ) from e
    if not isinstance(y, jax.ShapeDtypeStruct):
        shapes = jax.tree.map(lambda leaf: leaf.shape, y)
        raise InputError(f"{name} gives {shapes}, not one array of logits [B, K]: let it return the one that is wanted")
    return y.shape

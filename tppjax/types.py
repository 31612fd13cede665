"""Names of the types that many signatures share."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

Array = jax.Array | np.ndarray  # where arrays of both libraries are taken
PathLike = str | os.PathLike
DataDir = PathLike | None  # the default of a data set for None
Select = Callable[[int], Any]  # from the number of examples to the indices of those to read
Key = jax.Array  # a typed PRNG key, as jax.random.key makes it
ImagesLike = Any  # an array, or what `checks.as_images` makes one of: tensors, lists, `tppjax.data.Images`

if TYPE_CHECKING:
    Weights = dict[str, Array]  # arrays by name
else:
    Weights = dict  # within transformations of JAX, the leaves of a tree may be anything

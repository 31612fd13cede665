"""Running a function over more examples than fit at once."""

import jax
import numpy as np
from tqdm import tqdm


def batches(array, batch_size: int):
    """The array in parts of `batch_size` along its first axis; the last one may be smaller."""
    return (array[start : start + batch_size] for start in range(0, len(array), batch_size))


def map_batches(fn, arrays, batch_size: int, progress: str | None = None, multiple_of: int = 1):
    """`fn(*arrays)` in batches of one size, so that it compiles once; the last one is filled up and then trimmed.

    Args:
      fn: takes a batch of each array, `[batch_size, ...]`; returns a tree of arrays with the examples leading.
      arrays: sequence of arrays, `[N, ...]`.
      batch_size: examples a call.
      progress: name of a progress bar, shown on a terminal.
      multiple_of: the batch is made at least so large, and a multiple of it, such as the number of devices.

    Returns:
      The tree with NumPy leaves, `[N, ...]`.
    """
    n = len(arrays[0])
    batch_size = -(-min(batch_size, n) // multiple_of) * multiple_of
    parts = []
    for start in tqdm(range(0, n, batch_size), desc=progress, disable=None if progress else True, leave=False):
        index = np.minimum(np.arange(start, start + batch_size), n - 1)
        result = jax.tree.map(np.asarray, fn(*(a[index] for a in arrays)))
        parts.append(jax.tree.map(lambda a, start=start: a[: n - start], result))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

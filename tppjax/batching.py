"""Running a function over more examples than fit at once."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from tppjax import sharding
from tppjax.data import Examples
from tppjax.types import Array


def batches(array: Array, batch_size: int) -> Iterator[Any]:
    """The array in parts of `batch_size` along its first axis; the last one may be smaller."""
    return (array[start : start + batch_size] for start in range(0, len(array), batch_size))


def map_examples(fn: Callable, images: Examples, batch_size: int, progress: str | None = None) -> Any:
    """`fn` of every example, in batches of one size, so that it compiles once; the last batch is padded, then trimmed.

    Several hosts share the examples evenly. All of them must call this function, and all receive the whole result.

    Args:
      fn: `fn(pixels [B, H, W, C], labels [B], index [B])` returns a tree of arrays with the examples leading; `index`
        is the index of each example in `images`.
      images: the examples.
      batch_size: examples per call, rounded up to a multiple of the number of devices of this host.
      progress: name of a progress bar, shown on a terminal; None for none.

    Returns:
      The tree with NumPy leaves, `[N, ...]`.
    """
    mine = sharding.share_of_host(len(images))
    devices = jax.local_device_count()
    batch_size = -(-min(batch_size, len(mine)) // devices) * devices
    filled = np.minimum(np.arange(-(-len(mine) // batch_size) * batch_size), len(mine) - 1)
    rows = mine[filled].reshape(-1, batch_size)
    bar = {"total": len(rows), "desc": progress, "disable": None if progress else True, "leave": False}
    stream = tqdm(zip(images.stream(rows), rows, strict=True), **bar)
    parts = [jax.tree.map(np.asarray, fn(*arrays, index)) for arrays, index in stream]
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(mine)], *parts)
    return jax.tree.map(lambda a: a[: len(images)], sharding.of_all_hosts(whole))

"""The way of images to the training step: from the memory of the devices, or in a stream from disk.

A feed is called as `feed(state, indices, first, key, seed)`: it runs the step on the images at `indices` `[steps, B]`,
from the step `first` of the epoch on, and after each call of the devices yields the number of finished steps of the
epoch and the state. `key` is the epoch's key for draws inside jit; `seed` are the numbers that seed draws on reading.

On CPUs a step has ended when it is yielded, so that a signal is answered after it and the displayed progress is true;
an accelerator keeps running while the next step is prepared.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tppjax import sharding
from tppjax.data import Examples
from tppjax.types import Key

SCANNED = 50  # steps per call on accelerators, after which a signal or a loss that is not finite is noticed


def resident(step: Callable, images: Examples, mesh: Mesh) -> Callable:
    """A feed of images that lie on each device; a call is a scan of `SCANNED` steps on accelerators, a step on CPUs.

    Args:
      step: function `(state, pixels [B, ...], labels [B], key) -> state`.
      images: all images.
      mesh: the devices that share a batch.
    """
    pixels, labels = sharding.replicate((images.images, images.labels), mesh)
    jit = partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated(mesh))

    def at(state: Any, pixels: jax.Array, labels: jax.Array, indices: jax.Array, key: Key, i: Any) -> Any:
        """`step` on the images at `indices` `[B]`, as the `i`-th of the epoch."""
        return step(state, pixels[indices], labels[indices], jax.random.fold_in(key, i))

    def from_on(state: Any, pixels: jax.Array, labels: jax.Array, indices: jax.Array, key: Key, first: Any) -> Any:
        """`at` for each row of `indices` `[steps, B]` as one scan; `first` is the number of the first step."""
        rows = indices, first + jnp.arange(len(indices))
        return jax.lax.scan(lambda state, row: (at(state, pixels, labels, row[0], key, row[1]), None), state, rows)[0]

    one_step, many_steps = jit(at), jit(from_on)

    def feed(state: Any, indices: np.ndarray, first: int, key: Key, seed: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
        scanned = SCANNED if sharding.loops_are_fast(mesh) else 1
        for i in range(first, len(indices), scanned):
            if scanned == 1:
                state = jax.block_until_ready(one_step(state, pixels, labels, sharding.split(indices[i], mesh), key, i))
            else:
                now = sharding.split(indices[i : i + scanned], mesh, axis=1)
                state = many_steps(state, pixels, labels, now, key, i)
            yield min(i + scanned, len(indices)), state

    return feed


def streamed(step: Callable, images: Examples, mesh: Mesh) -> Callable:
    """A feed of images that are read when needed; each host reads those of its devices. Arguments as `resident`."""

    def at(state: Any, pixels: jax.Array, labels: jax.Array, key: Key, i: jax.Array | int) -> Any:
        return step(state, pixels, labels, jax.random.fold_in(key, i))

    one_step = jax.jit(at, donate_argnums=0, out_shardings=sharding.replicated(mesh))

    def feed(state: Any, indices: np.ndarray, first: int, key: Key, seed: tuple[int, ...]) -> Iterator[tuple[int, Any]]:
        mine = sharding.batch_of_host(mesh, indices.shape[1])
        stream = images.stream(indices[first:, mine], seed)
        for i, batch in enumerate(stream, first):
            state = one_step(state, *sharding.assemble(batch, mesh), key, i)
            if not sharding.loops_are_fast(mesh):
                jax.block_until_ready(state)
            yield i + 1, state

    return feed

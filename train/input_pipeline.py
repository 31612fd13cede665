"""How images come to the training step: from the devices' memory, or in a stream off the disk.

A feed is called as `feed(state, indices, first, key, seed)`: it runs the step on the images at `indices` `[steps, B]`,
from the step `first` of the epoch on, and after each call of the devices yields how many steps of the epoch are done
and the state. `key` is the epoch's, for what is drawn inside jit; `seed` are the numbers that seed what reading draws.

On CPUs a step has ended when it is yielded, so that a signal is answered after it and the progress shown is true; an
accelerator is left to run on while the next step is prepared.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tppjax import sharding
from tppjax.data import Images

SCANNED = 50  # steps a call on accelerators, after which a signal or a loss that is not finite is noticed


def resident(step, images: Images, mesh: Mesh):
    """All images lie on each device; on accelerators `SCANNED` steps are a call, as one scan, on CPUs each step is.

    Args:
      step: `(state, pixels [B, ...], labels [B], key) -> state`.
      images: all there are.
      mesh: the devices that share a batch.
    """
    pixels, labels = sharding.replicate((images.images, images.labels), mesh)
    jit = partial(jax.jit, donate_argnums=0, out_shardings=sharding.replicated(mesh))
    one_step, many_steps = (jit(partial(fn, step)) for fn in (step_at, steps_at))

    def feed(state, indices, first, key, seed):
        scanned = SCANNED if sharding.loops_are_fast(mesh) else 1
        for i in range(first, len(indices), scanned):
            if scanned == 1:
                state = jax.block_until_ready(one_step(state, pixels, labels, sharding.split(indices[i], mesh), key, i))
            else:
                now = sharding.split(indices[i : i + scanned], mesh, axis=1)
                state = many_steps(state, pixels, labels, now, key, i)
            yield min(i + scanned, len(indices)), state

    return feed


def step_at(step, state, pixels, labels, indices, key, i):
    """`step` on the images at `indices` `[B]`, as the `i`-th of the epoch."""
    return step(state, pixels[indices], labels[indices], jax.random.fold_in(key, i))


def steps_at(step, state, pixels, labels, indices, key, first):
    """`step_at` for each row of `indices` `[steps, B]` as one scan; `first` is the number of the first."""

    def body(state, now):
        batch, i = now
        return step_at(step, state, pixels, labels, batch, key, i), None

    return jax.lax.scan(body, state, (indices, first + jnp.arange(len(indices))))[0]


def streamed(step, images, mesh: Mesh):
    """Images are read as they are needed; each host reads those of its own devices. Arguments as `resident`."""

    def at(state, pixels, labels, key, i):
        return step(state, pixels, labels, jax.random.fold_in(key, i))

    one_step = jax.jit(at, donate_argnums=0, out_shardings=sharding.replicated(mesh))

    def feed(state, indices, first, key, seed):
        mine = sharding.batch_of_host(mesh, indices.shape[1])
        stream = images.stream(indices[first:, mine], seed)
        for i, batch in enumerate(stream, first):
            state = one_step(state, *sharding.assemble(batch, mesh), key, i)
            if not sharding.loops_are_fast(mesh):
                jax.block_until_ready(state)
            yield i + 1, state

    return feed

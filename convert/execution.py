"""How a spiking network runs on a batch: compiled, each example by itself, folded or step by step."""

import functools
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import convert
from convert import folded, stepped
from convert.stepped import Simulation
from tppjax import prng
from tppjax.batching import batches
from tppjax.network import OUTPUT
from tppjax.types import Array, Key


@partial(jax.jit, static_argnames=("chunk_size", "counted", "traced"))
def compiled(
    snn: "convert.Snn", x: jax.Array, key: Key | None, chunk_size: int, counted: bool, traced: bool
) -> Simulation:
    """What the network gives for each example of a batch: spikes of each site if `counted`, every step if `traced`."""
    x = jnp.asarray(snn.network.frames(x))
    keys = example_keys(key, jnp.arange(len(x))) if key is not None and key.ndim == 0 else key
    one = partial(run_one, snn, traced=traced)
    if len(x) <= chunk_size:
        run = jax.vmap(one)(x, keys)
    else:
        chunks = stepped.chunks(len(x), chunk_size)
        run = jax.lax.map(lambda chunk: jax.vmap(one)(*jax.tree.map(lambda a: a[chunk], (x, keys))), chunks)
        run = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(x)], run)
    return run if counted or traced else Simulation(run.mean, {}, {})


def run_one(snn: "convert.Snn", x: jax.Array, key: Key | None, traced: bool = False) -> Simulation:
    """What the network gives for one example: folded if possible, else step by step."""
    return _folded(snn, x, key) if snn.folded and not traced else _stepped(snn, x, key, traced)


def _folded(snn: "convert.Snn", x: jax.Array, key: Key | None) -> Simulation:
    """Runs one example by one pass; of a recording, on the mean of its frames."""
    x = x if x.ndim == len(snn.network.graph.shape) else x.mean(axis=0)
    mean, counts = folded.run(snn, x[None], key)
    events = jax.tree.map(jnp.abs, counts)
    return jax.tree.map(lambda a: a[0], Simulation(_corrected(snn, mean), counts, events))


def _stepped(snn: "convert.Snn", x: jax.Array, key: Key | None, traced: bool) -> Simulation:
    """Runs one example step by step."""
    recorded = x.ndim > len(snn.network.graph.shape)
    x = stepped.at_steps(x, snn.steps)[:, None] if recorded else x[None]
    mean, counts, events, steps, *over_time = stepped.simulate(snn, x, key, traced)
    at_end = jax.tree.map(lambda a: a[0], (_corrected(snn, mean), counts, events))
    return Simulation(*at_end, *jax.tree.map(lambda a: a[:, 0], (_corrected(snn, steps), *over_time)))


def _corrected(snn: "convert.Snn", output: Any) -> Any:
    """The output of the network, `[1, ...]` or at each step `[T, 1, ...]`, with the offset of a correction if any."""
    if OUTPUT not in snn.network.offsets:
        return output
    return jax.tree.map(lambda y: snn.network.corrected(OUTPUT, y, y.ndim - 2), output)


def example_keys(key: Key, index: Array) -> Key:
    """One key of `prng.HASH` for each example, `[B]`, from one key and the examples' indices in the data set, `[B]`."""
    return jax.vmap(jax.random.fold_in, (None, 0))(prng.hashed(key), index)


def keyed_batches(snn: "convert.Snn", images: Array, key: Key, batch_size: int) -> Iterator[tuple[Array, Key | None]]:
    """The images in batches, each with the keys of its examples, or None if the network draws nothing."""
    keys = example_keys(key, np.arange(len(images)))
    for x, k in zip(batches(images, batch_size), batches(keys, batch_size), strict=True):
        yield x, k if snn.random else None


def summed(trees: Iterable[Any]) -> Any:
    """The sum of the trees, leaf by leaf, in float64."""
    return functools.reduce(partial(jax.tree.map, np.add), (jax.tree.map(np.float64, tree) for tree in trees))

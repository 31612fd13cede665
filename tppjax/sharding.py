"""Devices: the only file that knows about them. Seeds or examples are spread over a row, or both over a grid."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS, EXAMPLES = "devices", "examples"


def mesh(devices=None) -> Mesh:
    """All devices, or those given, in one row."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def budget() -> int:
    """Bytes that one call of a network should keep at a time: an eighth of an accelerator's memory.

    On a CPU it is 128 MiB: larger batches bring no speed, since they leave the caches.
    """
    statistics = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return statistics["bytes_limit"] // 8 if statistics else 2**27


def replicate(tree, over: Mesh):
    """The tree with a whole copy on each device."""
    return jax.device_put(tree, NamedSharding(over, PartitionSpec()))


def steps_at_once(over: Mesh, steps: int) -> int:
    """How many training steps to run as one call: all `steps` of an epoch on accelerators, one on CPUs.

    A CPU needs longer for a step than for its dispatch, and shows how far it is.
    """
    return 1 if over.devices.flat[0].platform == "cpu" else steps


def split(array, over: Mesh, axis: int = 0):
    """The array with one axis, the leading one by default, cut evenly over the devices.

    Raises:
      ValueError: if the axis does not divide by the number of devices.
    """
    if array.shape[axis] % over.shape[AXIS]:
        raise ValueError(f"{array.shape[axis]} do not divide evenly over {over.shape[AXIS]} devices")
    return jax.device_put(array, NamedSharding(over, PartitionSpec(*[None] * axis, AXIS)))


def side_by_side(over: Mesh, seeds: int) -> int:
    """How many of the seeds `sweep` runs at once: all, but on a single CPU, where a larger batch is no faster, one."""
    alone = over.size == 1 and over.devices.item().platform == "cpu"
    return 1 if alone else seeds


def sweep(fn, keys, *args, examples: tuple[int, ...] = (), over: Mesh | None = None):
    """`fn(*args, key)` for each of many PRNG keys, spread over devices: the keys, and examples too if they are named.

    The draws are those of `fn(*args, keys[i])` run alone. Compiled once for each `fn` and shape.

    Args:
      fn: a function that takes `args` and then one key, such as `convert.Snn.apply`; returns a tree of arrays.
      keys: `[seeds]`.
      *args: pytrees, the same for all seeds.
      examples: places in `args` of arrays whose leading axis counts examples, each of which `fn` treats by itself. As
        many devices share the seeds as divide them; the others share the examples, as many as divide those.
      over: the devices; all of them by default.

    Returns:
      The tree of `fn` with the seeds leading.

    Example:
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> sweep(lambda x, key: x + jax.random.normal(key, x.shape), keys, np.zeros(2)).shape
      (3, 2)
    """
    over, seeds = over or mesh(), len(keys)
    at_once = side_by_side(over, seeds)
    if examples:
        over, placed = _seeds_by_examples(over, seeds, len(args[examples[0]]))
        args = [placed(arg) if i in examples else replicate(arg, over) for i, arg in enumerate(args)]
        return _sweep(fn, at_once, split(keys, over), *args)
    filled = keys[jnp.minimum(jnp.arange(-(-seeds // over.size) * over.size), seeds - 1)]
    result = _sweep(fn, at_once, split(filled, over), *replicate(args, over))
    return jax.tree.map(lambda a: a[:seeds], result)


def _seeds_by_examples(over: Mesh, seeds: int, n: int):
    """The devices in rows for seeds and columns for examples, and what cuts an array of examples over the columns."""
    rows = math.gcd(seeds, over.size)
    columns = math.gcd(n, over.size // rows)
    grid = over.devices.ravel()[: rows * columns].reshape(rows, columns)
    over = Mesh(grid, (AXIS, EXAMPLES), axis_types=(AxisType.Auto,) * 2)
    return over, lambda array: jax.device_put(array, NamedSharding(over, PartitionSpec(EXAMPLES)))


@partial(jax.jit, static_argnums=(0, 1))
def _sweep(fn, at_once: int, keys, *args):
    over_keys = jax.vmap if at_once > 1 else lambda run: partial(jax.lax.map, run)
    return over_keys(lambda key: fn(*args, key))(keys)

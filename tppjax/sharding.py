"""Devices and hosts: the only file that knows about them.

On one host, seeds or examples are spread over a row of devices, or both over a grid. Several hosts run one program, a
process each: training has the devices of all of them in one row; in evaluation each host takes its share of the
examples, on its own devices.
"""

import math
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tppjax.errors import InputError

AXIS, EXAMPLES = "devices", "examples"


def join_hosts() -> None:
    """Makes this process one of several that run the same program; before anything else is done with JAX.

    Each finds the others as `jax.distributed.initialize` does: by itself on TPU pods and under Slurm or Open MPI;
    elsewhere by the variables JAX_COORDINATOR_ADDRESS (HOST:PORT of the first process), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
      InputError: if it can't tell how many there are.
    """
    given = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
    try:
        jax.distributed.initialize(**{name: int(value) for name, value in given.items() if value is not None})
    except ValueError as e:
        raise InputError(
            f"--distributed finds no other hosts ({e}): outside of TPU pods, Slurm and Open MPI, set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT of the first process, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from e


def primary() -> bool:
    """Whether this is the process that writes files and prints: the only one, or the first of several hosts'."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Goes on when all hosts have come to the same place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def share_of_host(n: int) -> np.ndarray:
    """The places, of `n`, that this host takes: as many on each, the last one's filled up with the last place."""
    share = -(-n // jax.process_count())
    return np.minimum(jax.process_index() * share + np.arange(share), n - 1)


def of_all_hosts(tree):
    """Arrays of every host, one host's after another's along the leading axis; on every host."""
    return multihost_utils.process_allgather(tree, tiled=True) if jax.process_count() > 1 else tree


def device_mesh(devices=None) -> Mesh:
    """All devices of all hosts, or those given, in one row."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def budget() -> int:
    """Bytes that one call of a network should keep at a time: an eighth of an accelerator's memory.

    On a CPU it is 128 MiB: larger batches bring no speed, since they leave the caches.
    """
    statistics = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return statistics["bytes_limit"] // 8 if statistics else 2**27


def batch_size(example: int) -> int:
    """How many examples of so many bytes each keep within `budget` on each device of this host: one at least."""
    return jax.local_device_count() * max(1, budget() // example)


def replicate(tree, mesh: Mesh):
    """The tree with a whole copy on each device; every host has the same to begin with."""
    return jax.tree.map(lambda leaf: _placed(leaf, replicated(mesh)), tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def _placed(array, sharding: NamedSharding):
    """`array`, which every host has whole, on the devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(np.shape(array), sharding, lambda index: np.asarray(array)[index])


def loops_are_fast(mesh: Mesh) -> bool:
    """Whether a loop inside a compiled program, over training steps, is as fast as its steps one by one.

    It is on accelerators. On CPUs XLA computes the gradients of convolutions inside a loop, of any length, on a path
    without threads: a step of ResNet-20 was measured to take 26 times as long (jax 0.10).
    """
    return mesh.devices.flat[0].platform != "cpu"


def split(array, mesh: Mesh, axis: int = 0):
    """The array with one axis, the leading one by default, cut evenly over the devices.

    Raises:
      InputError: if the axis does not divide by the number of devices.
    """
    if array.shape[axis] % mesh.shape[AXIS]:
        raise InputError(f"{array.shape[axis]} do not divide evenly over {mesh.shape[AXIS]} devices")
    return _placed(array, NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS)))


def batch_of_host(mesh: Mesh, batch_size: int) -> slice:
    """Which examples of a batch that is `split` lie on this host's devices."""
    index = NamedSharding(mesh, PartitionSpec(AXIS)).addressable_devices_indices_map((batch_size,)).values()
    parts = [i.indices(batch_size) for (i,) in index]
    return slice(min(start for start, *_ in parts), max(stop for _, stop, _ in parts))


def assemble(tree, mesh: Mesh):
    """A batch cut over the devices, of which each host gives the examples of `batch_of_host`."""
    cut = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(cut, part), tree)


def side_by_side(mesh: Mesh, seeds: int) -> int:
    """How many of the seeds `sweep` runs at once: all, but on a single CPU, where a larger batch is no faster, one."""
    alone = mesh.size == 1 and mesh.devices.item().platform == "cpu"
    return 1 if alone else seeds


def sweep(fn, keys, *args, examples: tuple[int, ...] = (), mesh: Mesh | None = None):
    """`fn(*args, key)` for each of many PRNG keys, spread over devices: the keys, and examples too if they are named.

    The draws are those of `fn(*args, keys[i])` run alone. Compiled once for each `fn` and shape.

    Args:
      fn: a function that takes `args` and then one key, such as `convert.Snn.apply`; returns a tree of arrays.
      keys: `[seeds]`.
      *args: pytrees, the same for all seeds.
      examples: places in `args` of arrays whose leading axis counts examples, each of which `fn` treats by itself. As
        many devices share the seeds as divide them; the others share the examples, as many as divide those.
      mesh: the devices; all of this host by default.

    Returns:
      The tree of `fn` with the seeds leading.

    Examples:
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> sweep(lambda x, key: x + jax.random.normal(key, x.shape), keys, np.zeros(2)).shape
      (3, 2)
    """
    mesh, seeds = mesh or device_mesh(jax.local_devices()), len(keys)
    parallel = side_by_side(mesh, seeds)
    if examples:
        mesh, placed = _seeds_by_examples(mesh, seeds, len(args[examples[0]]))
        args = [placed(arg) if i in examples else replicate(arg, mesh) for i, arg in enumerate(args)]
        return _sweep(fn, parallel, split(keys, mesh), *args)
    filled = keys[jnp.minimum(jnp.arange(-(-seeds // mesh.size) * mesh.size), seeds - 1)]
    result = _sweep(fn, parallel, split(filled, mesh), *replicate(args, mesh))
    return jax.tree.map(lambda a: a[:seeds], result)


def _seeds_by_examples(mesh: Mesh, seeds: int, n: int):
    """The devices in rows for seeds and columns for examples, and what cuts an array of examples over the columns."""
    rows = math.gcd(seeds, mesh.size)
    columns = math.gcd(n, mesh.size // rows)
    grid = mesh.devices.ravel()[: rows * columns].reshape(rows, columns)
    mesh = Mesh(grid, (AXIS, EXAMPLES), axis_types=(AxisType.Auto,) * 2)
    return mesh, lambda array: jax.device_put(array, NamedSharding(mesh, PartitionSpec(EXAMPLES)))


@partial(jax.jit, static_argnums=(0, 1))
def _sweep(fn, parallel: int, keys, *args):
    over_keys = jax.vmap if parallel > 1 else lambda run: partial(jax.lax.map, run)
    return over_keys(lambda key: fn(*args, key))(keys)

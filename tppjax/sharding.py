"""Devices and hosts: the only file that knows about them.

On one host, seeds or examples are spread over a row of devices, or both over a grid. Several hosts run the same
program, one process each: training puts the devices of all hosts in one row; in evaluation each host takes its share of
the examples, on its own devices.
"""

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tppjax.errors import InputError
from tppjax.types import Array, Key

AXIS, EXAMPLES = "devices", "examples"


def join_hosts() -> None:
    """Makes this process one of several that run the same program; must come before any other use of JAX.

    The processes find each other as `jax.distributed.initialize` does: automatically on TPU pods and under Slurm or
    Open MPI; elsewhere by the variables JAX_COORDINATOR_ADDRESS (HOST:PORT of the first process), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID.

    Raises:
      InputError: if the number of processes can't be found out.
    """
    variables = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
    try:
        options: dict[str, Any] = {name: int(value) for name, value in variables.items() if value is not None}
        jax.distributed.initialize(**options)
    except ValueError as e:
        raise InputError(
            f"--distributed finds no other hosts ({e}): outside of TPU pods, Slurm and Open MPI, set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT of the first process, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
        ) from e


def primary() -> bool:
    """Whether this process writes files and prints: it is the only one, or that of the first of several hosts."""
    return jax.process_index() == 0


def wait_for_all(point: str) -> None:
    """Returns when all hosts have reached the same point of the program."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(point)


def share_of_host(n: int) -> np.ndarray:
    """The indices, of `n`, that this host takes: equally many per host, padded with the last index on the last one."""
    share = -(-n // jax.process_count())
    return np.minimum(jax.process_index() * share + np.arange(share), n - 1)


def of_all_hosts(tree: Any) -> Any:
    """The arrays of all hosts, concatenated along the leading axis, on every host."""
    return multihost_utils.process_allgather(tree, tiled=True) if jax.process_count() > 1 else tree


def device_mesh(devices: Sequence[Any] | np.ndarray | None = None) -> Mesh:
    """These devices in one row, by default all devices of all hosts."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def budget() -> int:
    """Bytes that one call of a network should keep at a time: an eighth of an accelerator's memory.

    On a CPU it is 128 MiB: larger batches are no faster, since they exceed the caches.
    """
    statistics = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return statistics["bytes_limit"] // 8 if statistics else 2**27


def batch_size(example: int) -> int:
    """The number of examples of so many bytes that stay within `budget` on this host's devices; at least one each."""
    return jax.local_device_count() * max(1, budget() // example)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The tree with a complete copy on each device; every host must pass the same tree."""
    return jax.tree.map(lambda leaf: _placed(leaf, replicated(mesh)), tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """A complete copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def _placed(array: Any, sharding: NamedSharding) -> jax.Array:
    """`array`, of which every host has a complete copy, on the devices."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(np.shape(array), sharding, lambda index: np.asarray(array)[index])


def loops_are_fast(mesh: Mesh) -> bool:
    """Whether a loop over training steps inside a compiled program is as fast as the steps one by one.

    It is on accelerators. On CPUs, XLA computes the gradients of convolutions inside a loop of any length without
    threads: a step of ResNet-20 was measured to take 26 times as long (jax 0.10).
    """
    return mesh.devices.flat[0].platform != "cpu"


def split(array: Array, mesh: Mesh, axis: int = 0) -> jax.Array:
    """The array with one axis, the leading one by default, cut evenly over the devices.

    Raises:
      InputError: if the length of the axis is not divisible by the number of devices.
    """
    if array.shape[axis] % mesh.shape[AXIS]:
        raise InputError(f"{array.shape[axis]} do not divide evenly over {mesh.shape[AXIS]} devices")
    return _placed(array, NamedSharding(mesh, PartitionSpec(*[None] * axis, AXIS)))


def batch_of_host(mesh: Mesh, batch_size: int) -> slice:
    """The examples of a batch that `split` puts on this host's devices."""
    indices = NamedSharding(mesh, PartitionSpec(AXIS)).addressable_devices_indices_map((batch_size,)).values()
    parts = [index[0].indices(batch_size) for index in indices if index is not None]
    return slice(min(start for start, *_ in parts), max(stop for _, stop, _ in parts))


def assemble(tree: Any, mesh: Mesh) -> Any:
    """A batch cut over the devices, to which each host contributes the examples of `batch_of_host`."""
    cut = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda part: jax.make_array_from_process_local_data(cut, part), tree)


def side_by_side(mesh: Mesh, seeds: int) -> int:
    """The number of seeds that `sweep` runs at once: all; on a single CPU, where a larger batch is no faster, one."""
    single_cpu = mesh.size == 1 and mesh.devices.item().platform == "cpu"
    return 1 if single_cpu else seeds


def sweep(fn: Callable, keys: Key, *args: Any, examples: tuple[int, ...] = (), mesh: Mesh | None = None) -> Any:
    """`fn(*args, key)` for each of many PRNG keys, spread over devices: the keys, and examples too if they are named.

    The draws are those of `fn(*args, keys[i])` run alone. It is compiled once for each `fn` and shape.

    Args:
      fn: a function that takes `args` and then one key, such as `convert.Snn.apply`, and returns a tree of arrays.
      keys: the PRNG keys, `[seeds]`.
      *args: pytrees, the same for all seeds.
      examples: positions in `args` of arrays whose leading axis counts examples, each of which `fn` treats separately.
        The devices share the seeds if their number divides that of the seeds; the rest share the examples likewise.
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
        mesh, place = _seeds_by_examples(mesh, seeds, len(args[examples[0]]))
        placed = [place(arg) if i in examples else replicate(arg, mesh) for i, arg in enumerate(args)]
        return _sweep(fn, parallel, split(keys, mesh), *placed)
    padded = keys[jnp.minimum(jnp.arange(-(-seeds // mesh.size) * mesh.size), seeds - 1)]
    result = _sweep(fn, parallel, split(padded, mesh), *replicate(args, mesh))
    return jax.tree.map(lambda a: a[:seeds], result)


def _seeds_by_examples(mesh: Mesh, seeds: int, n: int) -> tuple[Mesh, Callable]:
    """The devices in rows for seeds and columns for examples, and a function that cuts examples over the columns."""
    rows = math.gcd(seeds, mesh.size)
    columns = math.gcd(n, mesh.size // rows)
    grid = mesh.devices.ravel()[: rows * columns].reshape(rows, columns)
    mesh = Mesh(grid, (AXIS, EXAMPLES), axis_types=(AxisType.Auto,) * 2)
    return mesh, lambda array: jax.device_put(array, NamedSharding(mesh, PartitionSpec(EXAMPLES)))


@partial(jax.jit, static_argnums=(0, 1))
def _sweep(fn: Callable, parallel: int, keys: Key, *args: Any) -> Any:
    over_keys = jax.vmap if parallel > 1 else lambda run: partial(jax.lax.map, run)
    return over_keys(lambda key: fn(*args, key))(keys)

"""StableHLO by `jax.export`: a program that JAX alone loads and runs, on any platform and for batches of any size."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from convert.execution import example_keys, run_one
from convert.snn import Snn
from tppjax import files
from tppjax.errors import InputError, check_count
from tppjax.neurons import MAX_STEPS
from tppjax.types import PathLike

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def stablehlo(snn: Snn, file: PathLike, most_T: int | None = None, platforms: Sequence[str] = PLATFORMS) -> None:
    """Writes the network as a program of `jax.export`, with all weights in it.

    A script needs only `import jax.export` to run it, on pixels (uint8) if the network has a preprocessing:

        program = jax.export.deserialize(open(file, "rb").read())
        logits = program.call(x, jax.random.key_data(jax.random.key(0)))

    The program takes a batch `[B, ...]` of one or more, the two words of a key if the network draws at random, and T if
    it is open. It returns the result of `snn.apply` with that key, except for the rounding of another platform.

    Args:
      snn: the spiking network.
      file: the file to write.
      most_T: the largest T of a program with open T, which takes a T from 1 to this as its last argument, an int32, and
        returns NaN for any other; by default T is that of the network. T can be open for networks of two-phase neurons,
        whose cost does not depend on T. For tpp, the export takes seconds with 128 and most of an hour with 4,096.
      platforms: the platforms on which the program can run.

    Raises:
      InputError: if T can't be open for this network, a platform is unknown, or flatbuffers is not installed.
      OSError: if the file can't be written.
    """
    if not isinstance(snn, Snn):
        raise InputError(f"stablehlo takes a spiking network, as convert.to_snn returns it; got {type(snn).__name__}")
    if unknown := [p for p in platforms if p not in PLATFORMS]:
        raise InputError(f"unknown platform {unknown[0]!r}; known: {', '.join(PLATFORMS)}")
    if most_T is not None:
        _check_open(snn, most_T)
    try:
        content = _program(snn, most_T, platforms).serialize()
    except ImportError as e:
        raise InputError("jax.export needs flatbuffers to write a file: pip install 'tppjax[export]'") from e
    with files.replacing(Path(file)) as new:
        new.write_bytes(content)


def _check_open(snn: Snn, most_T: int) -> None:
    """Raises InputError unless one program can serve every T up to `most_T`."""
    check_count("most_T", most_T, 1, MAX_STEPS)
    if not snn.folded:
        raise InputError(f"mode {snn.mode} needs a program for each T: leave most_T out")
    if any(np.ndim(offset) == 2 for offset in snn.network.offsets.values()):
        raise InputError(f"the network was corrected step by step for T={snn.T}: leave most_T out")


def _program(snn: Snn, most_T: int | None, platforms: Sequence[str]) -> jax.export.Exported:
    """The network as a program for batches of any size."""
    snn = jax.tree.map(jnp.asarray, snn)  # the program may index them by a traced step
    (batch,) = jax.export.symbolic_shape("batch")
    graph, images = snn.network.graph, snn.network.preprocessing
    shape, dtype = (graph.shape, graph.dtype) if images is None else (images.shape, np.uint8)
    arguments = [jax.ShapeDtypeStruct((batch, *shape), dtype)]
    arguments += [jax.ShapeDtypeStruct((2,), np.uint32)] * snn.random
    arguments += [jax.ShapeDtypeStruct((), np.int32)] * (most_T is not None)
    computation = jax.jit(partial(_call, snn, _tables(snn, most_T), most_T))
    return jax.export.export(computation, platforms=platforms)(*arguments)


def _call(snn: Snn, tables: dict[str, Any] | None, most_T: int | None, x: jax.Array, *rest: jax.Array) -> Any:
    """The computation of the program; `rest` has the words of the key and T, where they are arguments."""
    key = jax.random.wrap_key_data(rest[0], impl="threefry2x32") if snn.random else None
    keys = None if key is None else example_keys(key, jnp.arange(x.shape[0]))

    def mean(snn: Snn) -> Any:
        return jax.vmap(partial(run_one, snn))(jnp.asarray(snn.network.frames(x)), keys).mean

    if most_T is None:
        return mean(snn)
    T = rest[-1]
    time = {"T": T.astype(jnp.float32), "tables": jax.tree.map(lambda a: a[T - 1], tables)}
    possible = (T >= 1) & (T <= most_T)
    return jax.tree.map(lambda a: jnp.where(possible, a, jnp.nan), mean(snn.replace(time=time, T=None)))


def _tables(snn: Snn, most_T: int | None) -> dict[str, Any] | None:
    """The tables of each site's neurons for every T from 1 to `most_T`, stacked; None if T is not open."""
    if most_T is None:
        return None
    of_site = {name: [neuron.tables(T) for T in range(1, most_T + 1)] for name, neuron in snn.in_network.items()}
    return {name: jax.tree.map(lambda *a: jnp.stack(a), *tables) for name, tables in of_site.items()}

"""StableHLO by `jax.export`: a program that JAX alone loads and runs, on any platform and for batches of any size."""

import os
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from convert.execution import example_keys, run_one
from convert.snn import Snn
from tppjax import files
from tppjax.errors import InputError, check_number
from tppjax.neurons import MAX_STEPS

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def stablehlo(snn: Snn, file: str | os.PathLike, most_T: int | None = None, platforms=PLATFORMS) -> None:
    """Writes the network as a program of `jax.export`, with all weights in it.

    A script that imports jax only runs it, on pixels (uint8) where the network has a preprocessing:

        program = jax.export.deserialize(open(file, "rb").read())
        logits = program.call(x, jax.random.key_data(jax.random.key(0)))

    It takes a batch `[B, ...]` of any size; the two words of a key, if the network draws at random; and T, if that is
    left open. It returns what `snn.apply` returns with that key, but for the rounding of another platform.

    Args:
      snn: the spiking network.
      file: the file.
      most_T: leaves T open, from 1 to this: the program takes it as its last argument, an int32. For networks of
        two-phase neurons, whose cost does not grow with T.
      platforms: that it can run on.

    Raises:
      InputError: if T is to be open and can't be, or flatbuffers is not installed.
      OSError: if the file can't be written.
    """
    if most_T is not None:
        check_number("most_T", most_T, 1, MAX_STEPS)
        if not snn.folded:
            raise InputError(f"mode {snn.mode} needs a program for each T: leave most_T out")
    (batch,) = jax.export.symbolic_shape("batch")
    arguments = [jax.ShapeDtypeStruct((batch, *_shape(snn)), _dtype(snn))]
    arguments += [jax.ShapeDtypeStruct((2,), np.uint32)] * snn.random
    arguments += [jax.ShapeDtypeStruct((), np.int32)] * (most_T is not None)
    program = jax.export.export(jax.jit(partial(_call, snn, _tables(snn, most_T))), platforms=platforms)(*arguments)
    try:
        content = program.serialize()
    except ImportError as e:
        raise InputError("jax.export needs flatbuffers to write a file: pip install 'tppjax[export]'") from e
    with files.replacing(Path(file)) as new:
        new.write_bytes(content)


def _call(snn: Snn, tables, x, *rest):
    """What the program computes, of the arguments that it has."""
    rest = list(rest)
    key = jax.random.wrap_key_data(rest.pop(0), impl="threefry2x32") if snn.random else None
    if rest:
        (T,) = rest
        time = {"T": T.astype(jnp.float32), "tables": jax.tree.map(lambda a: a[T - 1], tables)}
        snn = snn.replace(time=time, T=None)
    keys = None if key is None else example_keys(key, jnp.arange(x.shape[0]))
    return jax.vmap(partial(run_one, snn))(snn.network.frames(x), keys).mean


def _tables(snn: Snn, most_T: int | None):
    """What neurons need to know of each T from 1 to `most_T`, one behind another."""
    if most_T is None:
        return None
    of_site = {name: [neuron.tables(T) for T in range(1, most_T + 1)] for name, neuron in snn.neurons.items()}
    return {name: jax.tree.map(lambda *a: jnp.stack(a), *tables) for name, tables in of_site.items()}


def _shape(snn: Snn) -> tuple[int, ...]:
    """Of one input: pixels, with frames before them if these are recordings, or what the network itself takes."""
    preprocessing = snn.network.preprocessing
    if preprocessing is None:
        return snn.network.graph.shape
    return (*(() if preprocessing.frames is None else (preprocessing.frames,)), *preprocessing.input_shape)


def _dtype(snn: Snn):
    return snn.network.graph.dtype if snn.network.preprocessing is None else np.uint8

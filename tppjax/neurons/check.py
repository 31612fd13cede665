"""The rules for a neuron of your own, checked on a few numbers before a network is converted."""

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.errors import InputError, refusing
from tppjax.neurons.base import Neuron, simulate

POTENTIALS = np.array([-1.0, 0.0, 0.3, 0.5, 1.0, 2.6, 4.9, 9.0], np.float32)


def check_neuron(neuron: Neuron, T: int) -> None:
    """Raises InputError unless the neuron is distinguishable from others and does what its class says in T steps.

    Neurons of the library are not checked again.
    """
    if neuron.built_in:
        return
    kind = type(neuron)
    fields = {f.name for f in dataclasses.fields(neuron)}
    annotated = {name for name, of in vars(kind).get("__annotations__", {}).items() if "ClassVar" not in str(of)}
    more = {*vars(neuron), *annotated} - fields | {name for name in fields if _overridden(kind, name)}
    if more:
        raise InputError(
            f"{neuron} has {', '.join(sorted(more))}, which are not fields: put @dataclass(frozen=True) above its "
            "class, give each a type (such as leak: float = 0.1), and let no __init__ set them, so that neurons with "
            "other values are other neurons"
        )
    if neuron.waits and neuron.lead:
        raise InputError(
            f"{neuron} waits for T steps and has a lead of {neuron.lead}: only neurons that don't wait can"
        )
    with refusing(f"the fields of {neuron} can't be hashed", "let them be numbers, texts or tuples"):
        hash(neuron)
    _tried(neuron, T)


def _overridden(kind: type, field: str) -> bool:
    """Whether a class gives a field another value in a way that has no effect: without a type, or no dataclass."""
    typed = inspect.get_annotations
    nearest = next(of for of in kind.__mro__ if field in vars(of) or field in typed(of))
    return field not in typed(nearest) or "__dataclass_fields__" not in vars(nearest)


@functools.cache
def _tried(neuron: Neuron, T: int) -> None:
    hint = "" if neuron.random else "set random = True in its class, if it draws"
    with refusing(f"{neuron} can't be run on a few numbers", hint):
        outputs = _spikes(neuron, T)
    for name, (spikes, low, high) in outputs.items():
        if jnp.shape(spikes)[-1:] != POTENTIALS.shape:
            raise InputError(f"{name} of {neuron} has shape {jnp.shape(spikes)} for an input of {POTENTIALS.shape}")
        spikes = np.asarray(spikes, np.float32)
        if not np.array_equal(spikes, np.round(spikes)):
            raise InputError(
                f"{name} of {neuron} is not a whole number, such as {spikes[spikes != np.round(spikes)][0]}"
            )
        if spikes.min() < low or spikes.max() > high:
            raise InputError(
                f"{name} of {neuron} is {spikes.min():g} to {spikes.max():g} in {T} steps, and its class says {low} to "
                f"{high}: by levels (now {neuron.levels}) and signed"
            )


def _spikes(neuron: Neuron, T: int) -> dict[str, tuple[Any, int, int]]:
    """By name: the numbers of spikes, and their bounds."""
    key = jax.random.key(0) if neuron.random else None
    low = -neuron.levels if neuron.signed else 0
    x = jnp.broadcast_to(POTENTIALS / T, (neuron.lead + T, *POTENTIALS.shape))
    tables = neuron.tables(T)
    outputs = {"the output of step": (simulate(neuron, x, key), low, neuron.levels)}
    if neuron.two_phase:
        count = jax.jit(lambda u, steps: neuron.count(u, steps, key, **tables))
        outputs["count"] = (count(POTENTIALS, jnp.float32(T)), low * T, neuron.levels * T)
    return outputs

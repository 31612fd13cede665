"""Neurons that break the rules are refused before a network is converted."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

import convert
from tests.convert.networks import images, mlp
from tppjax.activations import ReLU
from tppjax.errors import InputError
from tppjax.neurons import Graded, OnePhase, TwoPhase

T = 4


class Forgetful(TwoPhase):
    """Not a dataclass, though it has something to choose."""

    def __init__(self, more):
        self.more = more

    def count(self, u, T, key):
        return jnp.clip(jnp.floor(u + self.more), 0, T)


class Annotated(TwoPhase):
    more: float = 0.5

    def count(self, u, T, key):
        return jnp.clip(jnp.floor(u + self.more), 0, T)


class Coarse(Graded):
    """Its number of levels has no effect, since it is no dataclass."""

    levels: int = 2


@dataclass(frozen=True)
class Untyped(Graded):
    """Its number of levels has no effect, since it is no field."""

    levels = 2


@dataclass(frozen=True)
class Choice(TwoPhase):
    """Wrong in a way of its choice."""

    wrong: object = None

    def count(self, u, T, key):
        match self.wrong:
            case "halves":
                return jnp.clip(u, 0, T)
            case "too many":
                return jnp.clip(jnp.floor(2 * u), 0, 2 * T)
            case "shape":
                return jnp.floor(u).sum()
            case "range":
                return sum(jnp.clip(u - t, 0, 1) for t in range(T))
            case "draws":
                return jnp.floor(jax.random.uniform(key, u.shape))
        return jnp.clip(jnp.floor(u), 0, T)


class Ahead(TwoPhase):
    lead = 2

    def count(self, u, T, key):
        return jnp.clip(jnp.floor(u), 0, T)


class Nothing(OnePhase):
    """Has no methods."""


@pytest.mark.parametrize(
    ("neuron", "said"),
    [
        (Forgetful(0.5), r"refusals:Forgetful has more, which are not fields: put @dataclass\(frozen=True\)"),
        (Annotated(), r"Annotated has more, which are not fields: put @dataclass"),
        (Coarse(), r"Coarse has levels, which are not fields: put @dataclass.*, give each a type \(such as"),
        (Untyped(), r"Untyped has levels, which are not fields"),
        (
            Choice({1}),
            r"the fields of .*Choice\(wrong=\{1\}\) can't be hashed .*: let them be numbers",
        ),
        (Choice("halves"), r"count of .*Choice.* is not a whole number, such as 0\.3"),
        (Choice("too many"), r"is 0 to 2 in 4 steps, and its class says 0 to 1: by levels"),
        (Choice("shape"), r"has shape \(4,\) for an input of \(8,\)"),
        (Choice("range"), r"can't be run on a few numbers \(T"),
        (Choice("draws"), r"can't be run on a few numbers \(.*\): set random = True in its class, if it draws"),
        (Ahead(), r"Ahead waits for T steps and has a lead of 2"),
        (Nothing(), "Nothing can't be run on a few numbers .NotImplementedError"),
    ],
    ids=str,
)
def test_neurons_that_cannot_be(neuron, said):
    with pytest.raises(InputError, match=said):
        convert.to_snn(mlp(), T, neuron)
    with pytest.raises(InputError, match=said):
        convert.calibrate(mlp(ReLU()), images(4), T=T, mode=neuron)

"""The protocol of neurons: what a neuron is asked for, and what follows for any of them.

All potentials and inputs are counted in thresholds, `u = v / theta`, so that a potential of exactly `k` thresholds
gives `k` spikes in floating point too. A spike weighs `theta` in the next layer. A neuron is a frozen dataclass that
subclasses one of three classes, by when it fires:

    TwoPhase   after the input of all T steps, by its sum alone: `count`      tpp, rounded, unbiased, graded
    OnePhase   in the step in which the input comes: `init`, `step`           baseline, snm, burst, srp
    Delayed    after the input of all T steps, by its course over time: `init`, `accumulate`, `step`      shuffle
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from tppjax.errors import InputError

MAX_STEPS = 4096  # the law of tpp takes T^2 operations: a second or two here
DRAWS = 16  # over which the error of a random neuron is averaged


@dataclasses.dataclass(frozen=True)
class Neuron:
    """What all neurons have in common; subclass `TwoPhase`, `OnePhase` or `Delayed`.

    Neurons with the same fields are the same neuron: whatever a user may choose is a field of a frozen dataclass.

    Attributes:
      name: of a neuron of the library, by which options and tables know it; others are `module:Class` there.
      random: whether it draws at random, and so needs a key.
      signed: whether it fires spikes of -1, too.
      two_phase: whether the number of its spikes depends on nothing but the sum of its input, so that time folds away.
      waits: whether it takes the input of all T steps before it fires.
      levels: the most spikes that it fires in a step; T steps of several levels are not T binary steps.
      weight: what a spike weighs, as a share of the threshold of its site; potentials are counted in that.
      lead: steps that the network runs before the T steps that count.
    """

    name: ClassVar[str] = "neuron"
    random: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    two_phase: ClassVar[bool] = False
    waits: ClassVar[bool] = False
    levels = 1
    weight = 1.0
    lead = 0

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()

    def __str__(self):
        """The name, and the fields that are not the default's: what `neurons.parse` reads."""
        kind = type(self)
        name = self.name if self.built_in else f"{kind.__module__}:{kind.__qualname__}"
        fields = ((f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self))
        options = ", ".join(f"{field}={value!r}" for field, value, default in fields if value != default)
        return f"{name}({options})" if options else name

    @property
    def built_in(self) -> bool:
        """Whether it is a neuron of this library."""
        return type(self).__module__.startswith("tppjax.neurons.")

    def at(self, kinds: set[str]) -> "Neuron":
        """The neuron in a network whose activations are of these kinds ("relu", "clip", "qcfs"), if it matters."""
        return self

    def tables(self, T: int) -> dict[str, np.ndarray]:
        """Arrays that `count` and `step` take by name, computed from T on the host: T itself may be traced there."""
        return {}

    @property
    def bits(self) -> float:
        """Of what is sent in a step: the logarithm of the number of values, to base 2."""
        return math.log2(1 + self.levels * (1 + self.signed))

    def count(self, u, T, key, **tables):
        """The number of spikes in T steps of an input that is the same, `u / T`, in each of them.

        Args:
          u: the sum of the input over T steps, any shape.
          T: number of time steps.
          key: PRNG key, None if nothing is random.
          **tables: of `tables`.

        Returns:
          Whole numbers of the shape of `u`.
        """
        return _run(self, lambda t: u / T, jnp.shape(u), T, key, kept=False)[0]

    def squared_error(self, x, theta, T: int):
        """Expected squared error of the rate `theta weight count / T` as an estimate of the activation, elementwise.

        This is what calibration by "mse" makes least. Of a random neuron it is the mean over `DRAWS` draws, unless the
        neuron knows better.

        Args:
          x: activations, any shape.
          theta: threshold, broadcasts to `x`, in the units of `x`.
          T: number of time steps.
        """
        theta = self.weight * theta
        u = in_thresholds(T * x, theta)
        error = lambda key: (self.count(u, T, key, **self.tables(T)) - u) ** 2  # noqa: E731
        if not self.random:
            return (theta / T) ** 2 * error(None)
        return (theta / T) ** 2 * jax.lax.map(error, jax.random.split(jax.random.key(0), DRAWS)).mean(axis=0)

    def potential(self, state):
        """The potential before firing, for traces, of the state after a step.

        None if there is none to show; by default the state, which is shown if it is an array of the neurons' shape.
        """
        return state if isinstance(state, jax.Array) else None


class OnePhase(Neuron):
    """A neuron that fires in the step in which its input comes."""

    def init(self, shape: tuple[int, ...], T: int) -> Any:
        """The state before the first step: any tree of arrays."""
        raise NotImplementedError

    def step(self, state, x, t, T: int, key, **tables):
        """One step.

        Args:
          state: after the step before.
          x: the input of this step, of the shape given to `init`.
          t: the step, traced: 0 to T - 1, before which come those from `-lead` on.
          T: number of time steps.
          key: PRNG key of this step.
          **tables: of `tables`.

        Returns:
          `(state, spikes)`; spikes are whole numbers of the shape of `x`, 0 or 1 unless `levels` or `signed` say more.
        """
        raise NotImplementedError


class Delayed(Neuron):
    """A neuron that takes the input of all T steps, one by one, and fires in T steps afterwards."""

    waits = True

    def init(self, shape: tuple[int, ...], T: int) -> Any:
        """The state before the first step of the first phase: any tree of arrays."""
        raise NotImplementedError

    def accumulate(self, state, x, t, T: int, key):
        """The state after step `t` of the first phase, with input `x`; arguments as `OnePhase.step`."""
        raise NotImplementedError

    def step(self, u, n, t, T: int, key, **tables):
        """Spikes of a step of the second phase. It is computed anew in each run over time, and gives the same.

        Args:
          u: the state after the first phase.
          n: how often each neuron has fired so far in the second phase.
          t: the step, 0 to T - 1, traced.
          T: number of time steps.
          key: PRNG key of the neurons, the same at every step: `jax.random.fold_in(key, t)` is one for this step.
          **tables: of `tables`.
        """
        raise NotImplementedError


class TwoPhase(Delayed):
    """A neuron that fires by the sum of its input alone: `count` is all that it needs.

    All between two sites is linear, so T steps of such neurons cost one pass of the network, whatever T. `count` gets
    a T that may be traced, a float32.
    """

    two_phase = True

    def init(self, shape, T):
        """Nothing accumulated yet."""
        return jnp.zeros(shape)

    def accumulate(self, state, x, t, T, key):
        """The sum."""
        return state + x

    def count(self, u, T, key, **tables):
        """As `Neuron.count`: the number of spikes for what was accumulated, however it was spread over time."""
        raise NotImplementedError

    def step(self, u, n, t, T, key, **tables):
        """As `Delayed.step`: the spikes of `count`, spread evenly over the steps."""
        return evenly(self.count(u, T, key, **tables), t, T)


def evenly(count, t, T: int):
    """Spikes at step `t` of `count` in T steps, spread evenly: `floor((t + 1) count / T) - floor(t count / T)`."""
    whole, rest = jnp.divmod(count.astype(jnp.int32), T)  # products in floating point can fall short of a whole number
    return (whole + (t + 1) * rest // T - t * rest // T).astype(count.dtype)


def simulate(neuron: Neuron, x, key=None):
    """The spikes of neurons for an input over time.

    Args:
      neuron: the neuron.
      x: input in thresholds, `[lead + T, ...]`.
      key: PRNG key, if the neuron is random.

    Returns:
      Spikes, `[T, ...]`.
    """
    T, x = len(x) - neuron.lead, jnp.asarray(x)
    return _run(neuron, lambda t: x[t + neuron.lead], x.shape[1:], T, key)[1][neuron.lead :]


def _run(neuron: Neuron, x, shape, T: int, key, kept: bool = True):
    """`(number of spikes, spikes of each step if they are kept)` for the input `x(t)`."""
    tables = jax.tree.map(jnp.asarray, neuron.tables(T))
    if neuron.waits:

        def accumulate(state, t):
            return neuron.accumulate(state, x(t), t, T, first_phase_key(key, t, T)), None

        state, _ = jax.lax.scan(accumulate, neuron.init(shape, T), jnp.arange(T))
    else:
        state = neuron.init(shape, T)

    def step(carry, t):
        state, n = carry
        if neuron.waits:
            spikes = neuron.step(state, n, t, T, key, **tables)
        else:
            state, spikes = neuron.step(state, x(t), t, T, key_of_step(key, t), **tables)
        return (state, n + spikes * (t >= 0)), spikes if kept else None

    (_, n), spikes = jax.lax.scan(step, (state, jnp.zeros(shape)), jnp.arange(-neuron.lead, T))
    return n, spikes


def key_of_step(key, t):
    """The key of a step, of that of the neurons; None if nothing is random."""
    return None if key is None else jax.random.fold_in(key, t)


def first_phase_key(key, t, T: int):
    """The key of a step of the first phase of a neuron that waits, other than those of the second."""
    return key_of_step(key, T + t)


def in_thresholds(v, theta):
    """`u = v / theta`, the potential in units of the threshold; a dead neuron (`theta <= 0`) never fires: `u = 0`."""
    theta = jnp.broadcast_to(theta, jnp.shape(v))
    return v / jnp.where(theta > 0, theta, jnp.inf)


def check_steps(T, name: str = "T") -> None:
    """Raises InputError unless `T` is a whole number from 1 to `MAX_STEPS`; `name` is that of the option."""
    whole = isinstance(T, int | np.integer) and not isinstance(T, bool)
    if not whole or not 1 <= T <= MAX_STEPS:
        what = f"{name} is the number of time steps, a whole number of at least 1"
        raise InputError(f"{what} and at most {MAX_STEPS}; got {T!r}")

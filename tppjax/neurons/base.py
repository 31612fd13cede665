"""The protocol of neurons: what a neuron has to provide, and what follows for all of them.

All potentials and inputs are measured in thresholds, `u = v / theta`, so that a potential of exactly `k` thresholds
gives `k` spikes in floating point too. A spike weighs `theta` in the next layer. A neuron is a frozen dataclass that
subclasses one of three classes, according to when it fires:

    TwoPhase   after the input of all T steps, by its sum alone: `count`      tpp, rounded, unbiased, graded
    OnePhase   in the step in which the input arrives: `init`, `step`         baseline, snm, burst, srp
    Delayed    after the input of all T steps, by its course over time: `init`, `accumulate`, `step`      shuffle
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from tppjax.errors import InputError
from tppjax.types import Array, Key

Steps = int | np.number | jax.Array  # time steps, or one step; if traced, one program serves all
MAX_STEPS = 4096  # the exact law of tpp takes T^2 operations: a second or two at this T
DRAWS = 16  # draws over which the error of a random neuron is averaged


@dataclasses.dataclass(frozen=True)
class Neuron:
    """The base of all neurons; subclass `TwoPhase`, `OnePhase` or `Delayed`.

    Neurons with the same fields are the same neuron: everything a user may choose is a field of a frozen dataclass.

    Attributes:
      name: name of a neuron of the library in options and tables; neurons of your own are `module:Class` there.
      random: whether the neuron draws at random, and so needs a key.
      signed: whether the neuron also fires spikes of -1.
      two_phase: whether the number of spikes depends only on the sum of the input, so that time folds away.
      waits: whether the neuron takes the input of all T steps before it fires.
      levels: the largest number of spikes in a step; T steps of several levels are not T binary steps.
      weight: weight of a spike as a fraction of the site's threshold; potentials are measured in this unit.
      lead: number of steps that the network runs before the T steps that count; 0 for neurons that wait.
    """

    name: ClassVar[str] = "neuron"
    random: ClassVar[bool] = False
    signed: ClassVar[bool] = False
    two_phase: ClassVar[bool] = False
    waits: ClassVar[bool] = False
    levels = 1
    weight = 1.0
    lead = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cls.name = cls.__name__.lower()

    def __str__(self) -> str:
        """The name, and the fields that differ from the defaults: `neurons.parse` reads it."""
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
        """The neuron for a network whose activations are of these kinds ("relu", "clip", "qcfs"); by default itself."""
        return self

    def tables(self, T: int) -> dict[str, Any]:
        """Arrays that `count` and `step` take by name, computed from T on the host, since T may be traced in them."""
        return {}

    @property
    def largest_rate(self) -> float:
        """The largest rate, in thresholds."""
        return self.weight * self.levels

    @property
    def bits(self) -> float:
        """Bits of what a neuron sends in a step: the logarithm of the number of values, to base 2."""
        return math.log2(1 + self.levels * (1 + self.signed))

    def count(self, u: Array, T: Steps, key: Key | None, **tables: Any) -> jax.Array:
        """The number of spikes in T steps of the same input, `u / T`, in each of them.

        Args:
          u: the sum of the input over T steps, any shape.
          T: number of time steps.
          key: PRNG key; None if nothing is random.
          **tables: the arrays of `tables`.

        Returns:
          Whole numbers of the shape of `u`.
        """
        return _run(self, lambda t: u / T, jnp.shape(u), T, key, kept=False)[0]

    def squared_error(self, x: Array, theta: Array | float, T: int) -> jax.Array:
        """Expected squared error of the rate `theta weight count / T` as an estimate of the activation, elementwise.

        Calibration by "mse" minimises it. For a random neuron it is the mean over `DRAWS` draws, unless the neuron
        overrides it with the exact value.

        Args:
          x: activations, any shape.
          theta: threshold; broadcasts to `x`, in the units of `x`.
          T: number of time steps.
        """
        theta = self.weight * theta
        u = in_thresholds(T * x, theta)
        error = lambda key: (self.count(u, T, key, **self.tables(T)) - u) ** 2  # noqa: E731
        if not self.random:
            return jnp.multiply((theta / T) ** 2, error(None))
        errors = jax.lax.map(error, jax.random.split(jax.random.key(0), DRAWS))
        return jnp.multiply((theta / T) ** 2, errors.mean(axis=0))

    def potential(self, state: Any) -> jax.Array | None:
        """The potential before firing, for traces, from the state after a step; None if there is none to show.

        By default it is the field `u` of the state, else the state itself, if that is an array.
        """
        state = getattr(state, "u", state)
        return state if isinstance(state, jax.Array) else None


class OnePhase(Neuron):
    """A neuron that fires in the step in which its input arrives."""

    def init(self, shape: tuple[int, ...], T: int) -> Any:
        """The state before the first step: any tree of arrays."""
        raise NotImplementedError

    def step(
        self, state: Any, x: jax.Array, t: jax.Array, T: int, key: Key | None, **tables: Any
    ) -> tuple[Any, jax.Array]:
        """One step.

        Args:
          state: the state after the previous step.
          x: the input of this step, of the shape given to `init`.
          t: the step, traced: 0 to T - 1, preceded by the steps from `-lead` on.
          T: number of time steps.
          key: PRNG key of this step; None if nothing is random.
          **tables: the arrays of `tables`.

        Returns:
          `(state, spikes)`; spikes are whole numbers of the shape of `x`: 0 or 1, unless `levels` or `signed` admit
          others.
        """
        raise NotImplementedError


class Delayed(Neuron):
    """A neuron that takes the input of all T steps, one by one, and fires in T steps afterwards."""

    waits = True

    def init(self, shape: tuple[int, ...], T: int) -> Any:
        """The state before the first step of the first phase: any tree of arrays."""
        raise NotImplementedError

    def accumulate(self, state: Any, x: jax.Array, t: jax.Array, T: int, key: Key | None) -> Any:
        """The state after step `t` of the first phase, with input `x`; arguments as `OnePhase.step`."""
        raise NotImplementedError

    def step(self, u: Any, n: jax.Array, t: jax.Array, T: int, key: Key | None, **tables: Any) -> jax.Array:
        """Spikes of a step of the second phase; computing them again must give the same spikes.

        Args:
          u: the state after the first phase.
          n: the number of spikes of each neuron so far in the second phase.
          t: the step, 0 to T - 1, traced.
          T: number of time steps.
          key: PRNG key of the neurons, the same at every step; `jax.random.fold_in(key, t)` gives one for this step.
          **tables: the arrays of `tables`.
        """
        raise NotImplementedError


class TwoPhase(Delayed):
    """A neuron that fires by the sum of its input alone: `count` is all that it has to provide.

    Everything between two sites is linear, so T steps of such neurons cost one pass of the network, whatever T is. The
    T that `count` gets may be traced, a float32.
    """

    two_phase = True

    def init(self, shape: tuple[int, ...], T: int) -> jax.Array:
        """Nothing accumulated yet."""
        return jnp.zeros(shape)

    def accumulate(self, state: jax.Array, x: jax.Array, t: jax.Array, T: int, key: Key | None) -> jax.Array:
        """The sum."""
        return state + x

    def count(self, u: Array, T: Steps, key: Key | None, **tables: Any) -> jax.Array:
        """As `Neuron.count`: the number of spikes for the accumulated input, however it was spread over time."""
        raise NotImplementedError

    def step(self, u: jax.Array, n: jax.Array, t: jax.Array, T: int, key: Key | None, **tables: Any) -> jax.Array:
        """As `Delayed.step`, with `count` spread evenly over time: `floor((t + 1) count / T) - floor(t count / T)`."""
        count = self.count(u, T, key, **tables)
        whole, rest = jnp.divmod(count.astype(jnp.int32), T)  # products in floating point can be short of whole numbers
        return (whole + (t + 1) * rest // T - t * rest // T).astype(count.dtype)


def simulate(
    neuron: Neuron, x: Float[Array, "time *shape"], key: Key | None = None
) -> Float[jax.Array, "steps *shape"]:
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


def _run(
    neuron: Any, x: Callable, shape: tuple[int, ...], T: Any, key: Key | None, kept: bool = True
) -> tuple[jax.Array, Any]:
    """`(number of spikes, spikes of each step if they are kept)` for the input `x(t)`."""
    tables = jax.tree.map(jnp.asarray, neuron.tables(T))
    state = neuron.init(shape, T)
    if neuron.waits:

        def accumulate(state: Any, t: jax.Array) -> tuple[Any, None]:
            return neuron.accumulate(state, x(t), t, T, first_phase_key(key, t, T)), None

        state, _ = jax.lax.scan(accumulate, state, jnp.arange(T))

    def step(carry: tuple[Any, jax.Array], t: jax.Array) -> tuple[Any, jax.Array | None]:
        state, n = carry
        if neuron.waits:
            spikes = neuron.step(state, n, t, T, key, **tables)
        else:
            state, spikes = neuron.step(state, x(t), t, T, key_of_step(key, t), **tables)
        return (state, n + spikes * (t >= 0)), spikes if kept else None

    (_, n), spikes = jax.lax.scan(step, (state, jnp.zeros(shape)), jnp.arange(-neuron.lead, T))
    return n, spikes


def key_of_step(key: Key | None, t: Steps) -> Key | None:
    """The key of a step, from the key of the neurons; None if nothing is random."""
    return None if key is None else jax.random.fold_in(key, t)


def first_phase_key(key: Key | None, t: Steps, T: int) -> Key | None:
    """The key of a step of the first phase of a neuron that waits; it differs from those of the second phase."""
    return key_of_step(key, T + t)


def in_thresholds(v: Array, theta: ArrayLike) -> jax.Array:
    """`u = v / theta`, the potential in units of the threshold; a dead neuron (`theta <= 0`) never fires: `u = 0`."""
    theta = jnp.broadcast_to(theta, jnp.shape(v))
    return jnp.divide(v, jnp.where(theta > 0, theta, jnp.inf))


def check_steps(T: Any, name: str = "T") -> None:
    """Raises InputError unless `T`, the value of the option `name`, is a whole number from 1 to `MAX_STEPS`."""
    if isinstance(T, bool) or not isinstance(T, int | np.integer) or not 1 <= T <= MAX_STEPS:
        meaning = f"{name} is the number of time steps, a whole number of at least 1"
        raise InputError(f"{meaning} and at most {MAX_STEPS}; got {T!r}")

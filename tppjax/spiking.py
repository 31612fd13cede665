"""A layer of spiking neurons: the module that takes an activation's place and reads the activation's leaf `theta`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tppjax import counts, neurons
from tppjax.activations import max_pool
from tppjax.errors import InputError

TWO_PHASE = ("tpp", "rounded", "unbiased")
MODES = ("baseline", "shuffle", *TWO_PHASE)
RANDOM = ("shuffle", "tpp", "unbiased")


class Spiking(nn.Module):
    """Spiking neurons over `T` steps, for one example (batches are made by `vmap`, so that each has its own key).

    Folded in time, input and output are means over time: the mean current `[...]` in, the rate `theta count / T` out.
    This is exact where every site of the network is two-phase, since such a neuron reads only the sum of its input,
    and all that lies between two sites is linear. The number of steps is then read from the collection "time", as
    `in_time(T)` has it, so that one compilation serves every T.

    Otherwise a call is one step: the current of this step in, `theta` times its spikes out, and what a neuron remembers
    is in the collection "state". Sites of every mode but `baseline` hear all T steps in a first run, in which their
    output means nothing, before they fire in a second. What they heard is left in "state", as `heard` or, by `shuffle`,
    as `fired`; in the second run they find it in the collection "heard". `convert.steps` has the runs.

    Attributes:
      mode: one of `MODES`, or a tuple of (site, mode) with one for every site of the network.
      T: number of time steps; None if folded, where nothing but arrays may depend on it.
      folded: whether time is folded away.
      v_init: potential of `baseline` and `shuffle` before the first step, in thresholds; two-phase neurons start at 0.
      shift: of `baseline` and `shuffle`, added to the input over all T steps together, in thresholds (RTS).
      shared_order: in mode `shuffle`, one order for all neurons of the site instead of one for each: `order` in the
        collection "time", `[T]`, or a random one if there is none.
      max_pool: (size, stride, padding) of the windows over whose potentials the maximum is taken before a two-phase
        neuron fires; `baseline` and `shuffle` neurons have no potential to compare before they fire, and refuse.
    """

    mode: str | tuple[tuple[str, str], ...]
    T: int | None
    folded: bool
    v_init: float = 0.5
    shift: float = 0.0
    shared_order: bool = False
    max_pool: tuple[int, int, int] | None = None

    @nn.compact
    def __call__(self, x):
        """Means over time `[...]` if folded, else one step `[...]`. Random modes draw from the stream "spikes".

        Folded, sows `count` in the collection "activity". Step by step, `fired` in "state" counts the spikes so far,
        and `spikes`, the `current` and the `potential` before firing, in the units of theta, are sown in "trace".
        """
        theta = self.get_variable("params", "theta")
        mode = self.mode if isinstance(self.mode, str) else dict(self.mode)["/".join(self.path)]
        if mode not in MODES:
            raise InputError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
        if self.max_pool and mode not in TWO_PHASE:
            raise InputError(max_pool_refused(mode, "/".join(self.path)))
        return self._rate(mode, x, theta) if self.folded else self._step(mode, x, theta)

    def _rate(self, mode, x, theta):
        T = self.get_variable("time", "T")
        v = max_pool(T * x, self.max_pool)
        theta = jnp.broadcast_to(theta, v.shape)
        match mode:
            case "tpp":
                count = counts.tpp(v, theta, T, self.make_rng("spikes"), self.get_variable("time", "coefficients"))
            case "rounded":
                count = counts.rounded(v, theta, T)
            case "unbiased":
                count = counts.unbiased(v, theta, T, self.make_rng("spikes"))
            case _:
                raise InputError(f"mode {mode!r} has no folded version; known: {', '.join(TWO_PHASE)}")
        # A compiler repeats cheap operations, and all before them, for each reader of the result: it would draw twice.
        # A division by what it doesn't know is not cheap; and the count is read off the rate, exactly.
        rate = theta * count / T
        self._sow("activity", "count", jnp.round(counts.in_thresholds(T * rate, theta)))
        return rate

    def _step(self, mode, x, theta):
        y = max_pool(x, self.max_pool)  # for its shape
        theta = jnp.broadcast_to(theta, y.shape)
        fired = self.variable("state", "fired", jnp.zeros_like, y)
        past = self.variable("state", "past", lambda: jnp.int32(0))  # steps
        if mode == "baseline":
            s = self._integrate_and_fire(x, theta, fired, past)
        elif self.has_variable("heard", "heard"):
            s = self._second_phase(mode, theta, fired, past)
        else:
            s = self._first_phase(mode, x, theta, fired, past)
        past.value += 1
        self._sow("trace", "current", y)
        self._sow("trace", "spikes", s)
        return theta * s

    def _integrate_and_fire(self, x, theta, fired, past):
        u = self.variable("state", "u", jnp.zeros_like, x)
        begin = jnp.where(past.value == 0, self.v_init, 0.0)
        u.value = neurons.integrate(u.value, counts.in_thresholds(x, theta) + self.shift / self.T + begin)
        self._sow("trace", "potential", theta * u.value)
        s = neurons.fire(u.value)
        fired.value += s
        return s

    def _first_phase(self, mode, x, theta, fired, past):
        if mode in TWO_PHASE:
            heard = self.variable("state", "heard", jnp.zeros_like, x)
            heard.value += x
            return jnp.zeros_like(theta)
        s = self._integrate_and_fire(x, theta, fired, past)
        if self.shared_order:
            train = self.variable("state", "heard", lambda: jnp.zeros((self.T, *x.shape), jnp.bool))
            train.value = train.value.at[past.value].set(s > 0)
        return s

    def _second_phase(self, mode, theta, fired, past):
        heard, left = self.get_variable("heard", "heard"), self.T - past.value
        if mode == "shuffle" and self.has_variable("time", "order"):
            return heard[self.get_variable("time", "order")[past.value]].astype(theta.dtype)
        key = self.make_rng("spikes") if mode in RANDOM else None
        now = None if key is None else jax.random.fold_in(key, past.value)
        if mode == "shuffle" and self.shared_order:
            return heard[jax.random.permutation(key, self.T)[past.value]].astype(theta.dtype)
        if mode == "shuffle":
            u = heard
        else:
            v = max_pool(heard, self.max_pool)
            u = counts.in_thresholds(v, theta)
            self._sow("trace", "potential", v - theta * fired.value)
        match mode:
            case "rounded":
                s = neurons.rounded_step(counts.rounded(v, theta, self.T), left, self.T)
            case "unbiased":  # the count that is drawn when folded
                s = neurons.tpp_step(counts.unbiased(v, theta, self.T, key), fired.value, left, now)
            case "tpp" | "shuffle":
                s = neurons.tpp_step(u, fired.value, left, now)
        fired.value += s
        return s

    def _sow(self, collection, name, value):
        self.sow(collection, name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)


def in_time(T: int) -> dict:
    """What a folded site finds in the collection "time"."""
    return {"T": np.float32(T), "coefficients": counts.polynomial(T)}


def max_pool_refused(mode: str, site: str) -> str:
    """Why a network with max-pooling at `site` has no version of `mode`."""
    return (
        f"mode {mode!r} can't have the max-pool at {site}: its neurons fire at every step, and the maximum over the "
        f"spikes of a step is not the maximum over rates; use a two-phase mode ({', '.join(TWO_PHASE)}), which pools "
        "the potentials before it fires, or train with average pooling"
    )

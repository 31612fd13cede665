"""A spiking network run over time: folded in one pass, or step by step in memory that does not grow with T.

Integrate-and-fire neurons fire in the step in which they get their input. All others take the input of T steps before
they fire, so a network with `n` sites of theirs is run over time `n + 1` times: in run `i` the sites before the `i`-th
fire, by what they got in the runs before, the `i`-th gets its input, and nothing behind it matters. So a layer of
weights is computed at each step just once, in the run of the site it feeds; the rest is dead code that the compiler
drops. (Layers that feed `baseline` sites of a mixed network are computed again in later runs.) Spike trains are not
stored between the runs: what a site fires at a step is drawn anew, the same way each time, from what it got and its
key. Only with one order for a whole layer, where the count does not tell what a neuron fired, are they kept.

A convolution costs as much in these loops as outside of them, on a CPU too, where only its gradient would not.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


class Run(NamedTuple):
    """What a network did over time.

    Attributes:
      mean: what was asked of it, mean over the steps.
      fired: `{site: number of spikes of each neuron}`.
      steps: what was asked of it, at every step, `[T, ...]`; None if not traced, as the two below.
      spikes: `{site: [T, ...]}`.
      potentials: `{site: [T, ...]}`, before firing.
      currents: `{site: [T, ...]}`, the input of a site, after max-pooling if any.
    """

    mean: dict
    fired: dict
    steps: dict | None = None
    spikes: dict | None = None
    potentials: dict | None = None
    currents: dict | None = None


def folded(model: nn.Module, variables, x, keys, modes: dict[str, str], *, apply=nn.Module.apply) -> Run:
    """As `run`, of a network with folded sites: all examples through it once, of a recording the mean."""
    x = x if x.ndim == 4 else x.mean(axis=1)

    def one(x, key):
        rngs = None if key is None else {"spikes": key}
        asked, state = apply(model, variables, x, rngs=rngs, mutable=["activity"])
        flat = traverse_util.flatten_dict(state["activity"], sep="/")
        return Run(asked, {site: flat[f"{site}/count"] for site in modes})

    return jax.vmap(one)(x, keys)


def run(
    model: nn.Module, variables, x, keys, modes: dict[str, str], at_once: int, *, traced=False, apply=nn.Module.apply
) -> Run:
    """A batch of examples through the network, T times.

    Args:
      model: the network, with `Spiking` sites that are not folded.
      variables: its variables.
      x: the examples: images `[B, H, W, C]`, which enter at every step, or recordings `[B, frames, H, W, C]`.
      keys: a PRNG key for each, `[B]`, or None.
      modes: `{site: mode}` in the order in which the sites run.
      at_once: examples side by side; more are run one lot after another, to keep memory small and caches warm.
      traced: whether what happened at every step is kept, in T times the memory.
      apply: `apply(model, variables, x, rngs=, mutable=)` gives what is asked of an example, a tree of arrays, and the
        collections in `mutable`.

    Returns:
      What they did, examples leading.
    """
    one = jax.vmap(lambda x, key: _run(model, variables, x, key, modes, traced, apply))
    if len(x) <= at_once:
        return one(x, keys)
    results = jax.lax.map(lambda lot: one(*jax.tree.map(lambda a: a[lot], (x, keys))), lots(len(x), at_once))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(x)], results)


def lots(n: int, at_once: int) -> np.ndarray:
    """Places of `n` examples in as few lots of at most `at_once` as there can be, `[lots, size]`, all of one size.

    The last lot is filled up with the last example, which is lost work: less than one example a lot.
    """
    number = -(-n // at_once)
    size = -(-n // number)
    return np.minimum(np.arange(number * size), n - 1).reshape(number, size)


def _run(model, variables, x, key, modes: dict[str, str], traced: bool, apply) -> Run:
    """`run` for one example."""
    rngs = None if key is None else {"spikes": key}
    mutable = ["state", "trace"] if traced else ["state"]
    frames = at_steps(x, model.act.T) if x.ndim == 4 else None

    def once(state, heard, frame):
        x_now = x if frame is None else frame
        at = {**variables, "state": state, "heard": traverse_util.unflatten_dict(heard, sep="/")}
        asked, new = apply(model, at, x_now, rngs=rngs, mutable=mutable)
        return asked, *(traverse_util.flatten_dict(new.get(name, {}), sep="/") for name in ("state", "trace"))

    def over_time(heard):
        def step(carry, frame):
            total, state = carry
            asked, state, trace = once(traverse_util.unflatten_dict(state, sep="/"), heard, frame)
            return (jax.tree.map(jnp.add, total, asked), state), (asked, trace) if traced else (None, {})

        (total, state), (steps, trace) = jax.lax.scan(step, start, frames, length=model.act.T)
        return jax.tree.map(lambda a: a / model.act.T, total), state, steps, trace

    asked, state, _ = jax.eval_shape(lambda: once({}, {}, None if frames is None else frames[0]))
    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (asked, state))
    heard, fired, traces = {}, {}, {}
    for site, mode in modes.items():
        if mode == "baseline":
            continue
        _, state, _, trace = over_time(heard)
        heard[f"{site}/heard"] = state.get(f"{site}/heard", state[f"{site}/fired"])
        first = [f"{site}/current"]
        if mode == "shuffle":  # has fired already, in another order
            fired[site] = state[f"{site}/fired"]
            first.append(f"{site}/potential")
        traces |= {name: trace[name] for name in first if traced}
    mean, state, steps, trace = over_time(heard)
    fired = {site: fired.get(site, state[f"{site}/fired"]) for site in modes}
    if not traced:
        return Run(mean, fired)
    traces = trace | traces
    kept = ("spikes", "potential", "current")
    return Run(mean, fired, steps, *({s: traces[f"{s}/{what}"] for s in modes} for what in kept))


def at_steps(frames, T: int):
    """What a network sees at each step, `[T, ...]`: each of the `[F, ...]` T / F times, or the mean of F / T frames."""
    n = len(frames)
    if T % n == 0:
        return jnp.repeat(frames, T // n, axis=0)
    return frames.reshape(T, n // T, *frames.shape[1:]).mean(axis=1)

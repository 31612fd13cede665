"""`python -m benchmarks.guard`: checks the published costs, up to a factor that noise never reaches.

All cases run in one process, each in turns with one compiled forward pass of the ANN, ResNet-20 with random weights. A
bound is three times the figure in docs/speed.md: it is meant to catch factors of ten and more, which occurred twice
unnoticed.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import convert
from benchmarks import cases
from tppjax import data, models, sharding
from tppjax.activations import ReLU
from tppjax.ann import Ann

BATCH, REPEATS = 50, 5
FORWARDS = {  # of the ANN on as many images
    "tpp, T = 8, plain call and key": 3 * 1.6,
    "baseline, T = 8": 3 * 8,
    "shuffle, T = 8": 3 * 11,
    "sweep of 4 seeds of tpp, T = 8": 3 * 4 * 1.6,
    "training step": 3 * 8,
}
SECONDS = {"to_snn": 3.0, "to_snn again": 0.1}


def network() -> convert.Network:
    """ResNet-20 with random weights; its thresholds are the largest activation of each channel."""
    model = models.create("resnet20", 10, ReLU(), shortcut="pad")
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    network = Ann(variables, model, data.info("cifar10"))
    return convert.calibrate(network, cases.images(BATCH), "max")


def measured() -> dict[str, float]:
    """The cost of each case, in the units of its bound."""
    ours, x, key = network(), jax.device_put(cases.images(BATCH)), jax.random.key(0)
    jax.clear_caches()
    costs = {name: _seconds(lambda: convert.to_snn(ours, 8, "tpp")) for name in SECONDS}
    snn = {mode: convert.to_snn(ours, 8, mode) for mode in ("tpp", "baseline", "shuffle")}
    keys = jax.random.split(key, 4)
    cases.TRAIN_BATCH = BATCH
    step, _ = cases.training("resnet20")
    calls = {
        "tpp, T = 8, plain call and key": lambda: snn["tpp"].apply(x, key),
        "baseline, T = 8": lambda: snn["baseline"].apply(x),
        "shuffle, T = 8": lambda: snn["shuffle"].apply(x, key),
        "sweep of 4 seeds of tpp, T = 8": lambda: sharding.sweep(convert.Snn.apply, keys, snn["tpp"], x),
        "training step": step,
    }
    forward = jax.jit(ours.apply)
    for name, call in calls.items():
        _seconds(call), _seconds(call), _seconds(lambda: forward(x))  # compile
        ratios = [_seconds(call) / _seconds(lambda: forward(x)) for _ in range(REPEATS)]
        costs[name] = float(np.median(ratios))
    return costs


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def main() -> None:
    """Prints every figure with its bound, and exits with status 1 if one exceeds it."""
    costs, over = measured(), []
    for name, bound in {**FORWARDS, **SECONDS}.items():
        unit = "s" if name in SECONDS else "ANN forwards"
        print(f"{name:32} {costs[name]:7.2f} {unit}, at most {bound:.2f}", flush=True)
        over += [name] * (costs[name] > bound)
    if over:
        sys.exit(f"over the bound: {', '.join(over)}")


if __name__ == "__main__":
    main()

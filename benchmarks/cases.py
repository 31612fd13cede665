"""One measurement in a process of its own: `python -m benchmarks.cases NET CASE` prints it as a line of JSON.

A case returns a function without arguments that does the work once and waits for it, and the number of its images.
"""

import functools
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Call = tuple[Callable[[], Any], int]  # the work, and its number of images
BATCH, SLOW_BATCH, TRAIN_BATCH, SEEDS = 250, 25, 128, 8
STEPPED_BATCH = {"resnet20": BATCH, "vgg16": SLOW_BATCH}
ON_ACCELERATORS = 10  # times as many images in a batch for inference: fewer would not fill one
REPEATS = 5
THEIRS = ("torch_ann", "algorithm3", "spikingjelly", "torch_training")  # which PyTorch computes


def scaled(batch: int) -> int:
    """The number of images of a batch on this machine."""
    import jax

    return batch * (1 if jax.default_backend() == "cpu" else ON_ACCELERATORS)


def torch_device() -> str:
    """Where PyTorch computes: on the GPU if it can."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.cache
def state(net: str) -> dict[str, np.ndarray]:
    """Random weights, by PyTorch's keys: the time that a network takes does not depend on them."""
    import torch

    from benchmarks import pytorch

    torch.manual_seed(0)
    return {key: value.numpy() for key, value in pytorch.NETWORKS[net](torch.nn.ReLU).state_dict().items()}


def images(n: int) -> np.ndarray:
    """Network input, normally distributed, `[n, 32, 32, 3]`."""
    return np.random.default_rng(0).normal(size=(n, 32, 32, 3)).astype(np.float32)


def pixels(n: int) -> np.ndarray:
    """Pixels for training, `[n, 32, 32, 3]`, uint8."""
    return np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


@functools.cache
def imported(net: str) -> Any:
    """Our network with those weights; its thresholds are the largest activation of each channel."""
    import convert
    from convert.torch import import_state_dict

    network = import_state_dict(state(net), net, dataset="cifar10", pool={"vgg16": "avg"}.get(net))
    return convert.calibrate(network, images(50), "max")


def ann(net: str, batch: int | None = None) -> Call:
    """The forward pass of our ANN."""
    return _ours(lambda network, x, key: network.apply(x), imported(net), batch or scaled(BATCH))


def snn(net: str, mode: str, T: str) -> Call:
    """`Snn.apply` of this mode and T."""
    import convert

    network = convert.to_snn(imported(net), int(T), mode)
    return _ours(convert.Snn.apply, network, scaled(BATCH if network.folded else STEPPED_BATCH[net]))


def _ours(apply: Callable, network: Any, batch: int) -> Call:
    import jax

    from tppjax import prng

    fn, x, key = jax.jit(apply), jax.device_put(images(batch)), jax.random.key(0, impl=prng.HASH)
    return lambda: jax.block_until_ready(fn(network, x, key)), batch


def seeds(net: str, method: str) -> Call:
    """TPP at T = 8 with 8 seeds: by one `sharding.sweep` (method "sweep"), or one after another."""
    import jax

    import convert
    from tppjax import prng, sharding

    batch = scaled(BATCH)
    network, x = convert.to_snn(imported(net), 8, "tpp"), jax.device_put(images(batch))
    keys = jax.vmap(lambda s: jax.random.key(s, impl=prng.HASH))(np.arange(SEEDS))
    fn = jax.jit(convert.Snn.apply)
    if method == "sweep":
        return lambda: jax.block_until_ready(sharding.sweep(convert.Snn.apply, keys, network, x)), SEEDS * batch
    return lambda: jax.block_until_ready([fn(network, x, key) for key in keys]), SEEDS * batch


def training(net: str) -> Call:
    """Steps of SGD as one call of `python -m train.cifar`: QCFS, augmentation, batches out of the data set."""
    import jax

    from configs.cifar import Cifar, recipe
    from tppjax import data, memory, sharding
    from tppjax.data import Images
    from train import cifar, input_pipeline, loop
    from train.initial_network import initial_network, new

    memory.keep()
    config = recipe(Cifar("", arch=net, shortcut="pad", batch_size=TRAIN_BATCH, validation=1))
    some = Images(pixels(10 * TRAIN_BATCH), np.zeros(10 * TRAIN_BATCH, np.int32))
    network = initial_network(config, new(config, 10), data.info("cifar10"), some)
    mesh, tx = sharding.device_mesh(), loop.optimizer(config, 371)  # steps of an epoch
    step = functools.partial(loop.train_step, network, tx, cifar.augmentation(config, network.preprocessing), config)
    batches = np.arange(steps_a_call() * TRAIN_BATCH).reshape(-1, TRAIN_BATCH) % len(some)
    feed, state = input_pipeline.resident(step, some, mesh), sharding.replicate(loop.initial_state(network, tx), mesh)

    def call() -> None:
        nonlocal state
        ((_, state),) = feed(state, batches, 0, jax.random.key(0), (0, 0))
        jax.block_until_ready(state)

    return call, batches.size


def steps_a_call() -> int:
    """The number of training steps that one call of this machine's devices makes."""
    from tppjax import sharding
    from train import input_pipeline

    return input_pipeline.SCANNED if sharding.loops_are_fast(sharding.device_mesh()) else 1


def torch_ann(net: str) -> Call:
    """The forward pass of the ANN in PyTorch."""
    return _theirs(net, scaled(BATCH))


def algorithm3(net: str, T: str) -> Call:
    """TPP neurons in PyTorch, T convolutions a layer."""
    from benchmarks import pytorch

    return _theirs(net, scaled(SLOW_BATCH), pytorch.Tpp, int(T))


def spikingjelly(net: str, T: str) -> Call:
    """Integrate-and-fire neurons of SpikingJelly."""
    from benchmarks import pytorch

    return _theirs(net, scaled(SLOW_BATCH), pytorch.SpikingJelly, int(T))


def _theirs(net: str, batch: int, neuron: Callable | None = None, T: int = 1) -> Call:
    import torch

    from benchmarks import pytorch

    network = imported(net)
    thetas = [np.asarray(network.thetas[name]) for name in network.sites]
    fn = pytorch.network(net, state(net), neuron, thetas, T, torch_device())
    x = torch.from_numpy(images(batch).transpose(0, 3, 1, 2).copy()).to(torch_device())

    def call() -> np.ndarray:
        with torch.inference_mode():
            return fn(x).cpu().numpy()

    return call, batch


def torch_training(net: str) -> Call:
    """As many steps of SGD in PyTorch, with the same activation and augmentation as ours."""
    import torch

    from benchmarks import pytorch

    device, steps = torch_device(), steps_a_call()
    network = pytorch.NETWORKS[net](pytorch.Qcfs).train().to(device)
    tx = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    x = torch.from_numpy(pixels(10 * TRAIN_BATCH).transpose(0, 3, 1, 2).copy()).to(device)
    y = torch.zeros(len(x), dtype=torch.long, device=device)

    def call() -> None:
        for _ in range(steps):
            batch = torch.randperm(len(x), device=device)[:TRAIN_BATCH]
            tx.zero_grad()
            torch.nn.functional.cross_entropy(network(pytorch.augmented(x[batch])), y[batch]).backward()
            tx.step()
        next(network.parameters()).flatten()[0].item()  # waits for a GPU

    return call, steps * TRAIN_BATCH


def measure(net: str, case: str, *options: str) -> dict[str, Any]:
    """Seconds of each repeat after two calls to warm up, seconds of the first call, peak memory.

    An SNN takes turns with its ANN on the same images, so that a drift of the machine's speed cancels out.
    """
    call, n = globals()[case](net, *options)
    beside = ann(net, n)[0] if case == "snn" else lambda: None
    first = _seconds(call)
    for fn in (call, beside, beside):
        fn()
    anns, repeats = zip(*((_seconds(beside), _seconds(call)) for _ in range(REPEATS)), strict=True)
    paired = {"ann_forwards": float(np.median(np.divide(repeats, anns)))} if case == "snn" else {}
    return {
        "net": net,
        "case": " ".join((case, *options)),
        "images": n,
        "seconds": repeats,
        **paired,
        "median": float(np.median(repeats)),
        "per_image": float(np.median(repeats)) / n,
        "first_call": first,
        "peak_mb": _peak(case) / 2**20,
    }


def _peak(case: str) -> int:
    """Bytes of memory that this process used at most: the device's, or the process's own on CPUs."""
    import jax

    if case in THEIRS and torch_device() != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    statistics = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return statistics["peak_bytes_in_use"] if statistics else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))

"""One measurement in a process of its own: `python -m benchmarks.cases NET CASE` prints it as a line of JSON.

A case makes a function without arguments that does the work once and waits for it, and says how many images that is.
"""

import functools
import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

BATCH, SLOW_BATCH, TRAIN_BATCH, SEEDS = 250, 25, 128, 8
STEPPED_BATCH = {"resnet20": BATCH, "vgg16": SLOW_BATCH}
REPEATS = 5
FILE = Path(os.environ.get("TPPJAX_WEIGHTS_DIR", ".")) / "resnet20-12fca82f.th"


@functools.cache
def state(net):
    """The weights by PyTorch's keys: the published ones of ResNet-20, random ones of VGG-16."""
    import torch

    from benchmarks import pytorch
    from convert import torch_files

    if net == "resnet20":
        return {key.removeprefix("module."): array for key, array in torch_files.read(FILE).items()}
    torch.manual_seed(0)
    return {key: value.numpy() for key, value in pytorch.Vgg16(torch.nn.ReLU).state_dict().items()}


def images(n):
    """Network input, normally distributed, `[n, 32, 32, 3]`."""
    return np.random.default_rng(0).normal(size=(n, 32, 32, 3)).astype(np.float32)


@functools.cache
def imported(net):
    """Our network with those weights, its thresholds the largest activation of each channel."""
    import convert
    from convert.from_torch import import_state_dict

    network = import_state_dict(state(net), net, dataset="cifar10", pool={"vgg16": "avg"}.get(net))
    return convert.calibrate(network, images(50), "max")


def ann(net, batch=BATCH):
    """Our ANN's forward pass."""
    return _ours(lambda network, x, key: network.apply(x), imported(net), batch)


def snn(net, mode, T):
    """`Snn.apply` of this mode and T."""
    import convert

    network = convert.to_snn(imported(net), int(T), mode)
    return _ours(convert.Snn.apply, network, BATCH if network.model.act.folded else STEPPED_BATCH[net])


def _ours(apply, network, batch):
    import jax

    from tppjax import prng

    fn, x, key = jax.jit(apply), jax.device_put(images(batch)), jax.random.key(0, impl=prng.HASH)
    return lambda: jax.block_until_ready(fn(network, x, key)), batch


def seeds(net, how):
    """TPP at T = 8 with 8 seeds: by one `sharding.sweep`, or one after another."""
    import jax

    import convert
    from tppjax import prng, sharding

    network, x = convert.to_snn(imported(net), 8, "tpp"), jax.device_put(images(BATCH))
    keys = jax.vmap(lambda s: jax.random.key(s, impl=prng.HASH))(np.arange(SEEDS))
    fn = jax.jit(convert.Snn.apply)
    if how == "sweep":
        return lambda: jax.block_until_ready(sharding.sweep(convert.Snn.apply, keys, network, x)), SEEDS * BATCH
    return lambda: jax.block_until_ready([fn(network, x, key) for key in keys]), SEEDS * BATCH


def training(net):
    """A step of SGD with QCFS, augmentation included."""
    import jax
    import jax.numpy as jnp

    from configs.cifar import Cifar, recipe
    from tppjax import data, models
    from tppjax.data import augment
    from train import loop
    from train.start import activation

    config, about = recipe(Cifar("", arch=net, shortcut="pad" if net == "resnet20" else None)), data.info("cifar10")
    options = {"shortcut": "pad"} if net == "resnet20" else {"hidden": ()}
    model = models.create(net, 10, activation(config), **options)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    tx = loop.optimizer(config, 100)
    state = loop.State(variables, tx.init(variables["params"]), epoch=jnp.array(0), best=jnp.array(0.0))
    pixels, labels = jnp.zeros((1000, 32, 32, 3), jnp.uint8), jnp.zeros(1000, jnp.int32)
    augmented = lambda x, key: augment.flip(augment.crop(x, key, 4), key)  # noqa: E731
    step = jax.jit(functools.partial(loop.train_step, model, about, tx, augmented, jnp.dtype("float32")))
    return lambda: jax.block_until_ready(
        step(state, pixels, labels, jnp.arange(TRAIN_BATCH), jax.random.key(0))
    ), TRAIN_BATCH


def torch_ann(net):
    """The ANN's forward pass in PyTorch."""
    return _theirs(net, BATCH)


def algorithm3(net, T):
    """TPP neurons in PyTorch, T convolutions a layer."""
    from benchmarks import pytorch

    return _theirs(net, SLOW_BATCH, pytorch.Tpp, int(T))


def spikingjelly(net, T):
    """Integrate-and-fire neurons of SpikingJelly."""
    from benchmarks import pytorch

    return _theirs(net, SLOW_BATCH, pytorch.SpikingJelly, int(T))


def _theirs(net, batch, neuron=None, T=1):
    import torch

    from benchmarks import pytorch
    from tppjax.ann import sites, thresholds

    network = imported(net)
    found = thresholds(network.variables)
    thetas = [np.asarray(found[site]) for site in sites(network.model, (32, 32, 3))]
    fn = pytorch.network(net, state(net), neuron, thetas, T)
    x = torch.from_numpy(images(batch).transpose(0, 3, 1, 2).copy())

    def call():
        with torch.inference_mode():
            return fn(x).numpy()

    return call, batch


def torch_training(net):
    """A step of SGD in PyTorch, with ReLU and without augmentation."""
    import torch

    from benchmarks import pytorch

    network = pytorch.NETWORKS[net](torch.nn.ReLU).train()
    tx = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    x = torch.from_numpy(images(TRAIN_BATCH).transpose(0, 3, 1, 2).copy())
    y = torch.zeros(TRAIN_BATCH, dtype=torch.long)

    def call():
        tx.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        tx.step()

    return call, TRAIN_BATCH


def measure(net, case, *options) -> dict:
    """Seconds of each repeat after two calls to warm up, seconds of the first call, peak memory.

    An SNN takes turns with its ANN on the same images, so that a machine whose speed drifts does not blur their ratio.
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
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _seconds(call):
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))

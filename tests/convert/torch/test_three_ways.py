"""One published network in three forms gives the same thresholds, logits and accuracies on the real CIFAR-10."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from convert.torch import files
from convert.torch.checkpoints import import_state_dict
from tppjax import data

IMAGES, T = 500, 8


class Block(nn.Module):
    """Of akamaster's ResNet, as one would write it in Flax: option A's shortcut, `nn.relu`, nothing of ours."""

    channels: int
    stride: int

    @nn.compact
    def __call__(self, x):
        norm = lambda x: nn.BatchNorm(use_running_average=True, epsilon=1e-5)(x)  # noqa: E731
        conv = lambda stride: nn.Conv(self.channels, (3, 3), stride, [(1, 1)] * 2, use_bias=False)  # noqa: E731
        y = nn.relu(norm(conv(self.stride)(x)))
        y = norm(conv(1)(y))
        more = (self.channels - x.shape[-1]) // 2
        x = jnp.pad(x[:, :: self.stride, :: self.stride], [(0, 0)] * 3 + [(more, more)])
        return nn.relu(y + x)


class ResNet20(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(16, (3, 3), 1, [(1, 1)] * 2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5)(x))
        for stage, channels in enumerate((16, 32, 64)):
            for block in range(3):
                x = Block(channels, 2 if stage and not block else 1)(x)
        return nn.Dense(10)(x.mean((1, 2)))


def linen(state):
    """The module, and its variables from PyTorch's, layer by layer in the order in which they are written."""
    kernels = [w.transpose(2, 3, 1, 0) for w in state.values() if w.ndim == 4]
    norms = [key.removesuffix(".running_mean") for key in state if key.endswith("running_mean")]
    variables = ResNet20().init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
    params, stats = variables["params"], variables["batch_stats"]
    places = [((), 0)] + [((f"Block_{i // 2}",), i % 2) for i in range(18)]
    for (block, i), kernel, norm in zip(places, kernels, norms, strict=True):
        at, means = (tree[block[0]] if block else tree for tree in (params, stats))
        at[f"Conv_{i}"]["kernel"] = kernel
        at[f"BatchNorm_{i}"] = {"scale": state[f"{norm}.weight"], "bias": state[f"{norm}.bias"]}
        means[f"BatchNorm_{i}"] = {"mean": state[f"{norm}.running_mean"], "var": state[f"{norm}.running_var"]}
    params["Dense_0"] = {"kernel": state["linear.weight"].T, "bias": state["linear.bias"]}
    return ResNet20(), variables


@pytest.mark.slow
def test_the_published_resnet20(real_weights, real_cifar10, torch):
    from benchmarks import pytorch

    state = {key.removeprefix("module."): w for key, w in files.read(real_weights).items()}
    module = pytorch.ResNet20(torch.nn.ReLU)
    module.load_state_dict({key: torch.from_numpy(np.array(w)) for key, w in state.items()}, strict=False)
    layout = convert.trace(import_state_dict(state, "resnet20"))
    train, test = (data.load("cifar10", split, real_cifar10) for split in ("train", "test"))
    x, y = (layout.preprocessing(jnp.asarray(i)) for i in (train.images[:200], test.images[:IMAGES]))
    first = lambda a: a.transpose(0, 3, 1, 2)  # noqa: E731
    forms = {
        "layout": (layout, x, y),
        "linen": (convert.trace(linen(state), x), x, y),
        "torch": (convert.from_torch(module, first(x[:1])), first(x), first(y)),
    }
    found = {name: measured(*form, test.labels[:IMAGES]) for name, form in forms.items()}
    for name in ("linen", "torch"):
        for (wanted, theta), (site, got) in zip(found["layout"][0].items(), found[name][0].items(), strict=True):
            np.testing.assert_allclose(got, theta, rtol=1e-5, err_msg=f"{wanted}, {site}")
        np.testing.assert_allclose(found[name][1], found["layout"][1], atol=2e-4)
        assert np.abs(np.subtract(found[name][2], found["layout"][2])).max() <= 0.4  # two images whose rates are near


def measured(network, calibration, x, labels):
    """Thresholds, logits of the ANN, and accuracies of the ANN and its spiking versions, in percent."""
    network = convert.calibrate(network, calibration, T=T, mode="tpp")
    logits = [network.apply(x)]
    for mode in ("rounded", "tpp", "unbiased"):
        logits.append(convert.to_snn(network, T, mode).apply(x, jax.random.key(0)))
    thetas = {name: network.thetas[name] for name in network.sites}
    return thetas, np.asarray(logits[0]), [100 * float((np.asarray(a).argmax(-1) == labels).mean()) for a in logits]

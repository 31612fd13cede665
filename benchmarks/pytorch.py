"""The same networks in PyTorch, with the same weights, written in the usual way, time step by time step."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

MEAN, STD = (torch.tensor(c).reshape(3, 1, 1) for c in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
STAGES = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


class Tpp(nn.Module):
    """Algorithm 3 as published: accumulate over all steps, then draw step by step. Time is part of the batch axis."""

    def __init__(self, theta: torch.Tensor, T: int) -> None:
        super().__init__()
        self.T = T
        self.register_buffer("theta", theta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = x.unflatten(0, (self.T, -1)).sum(0)
        spikes = []
        for t in range(1, self.T + 1):
            s = torch.bernoulli(torch.clamp(v / (self.theta * (self.T - t + 1)), 0, 1))
            v = v - self.theta * s
            spikes.append(s)
        return (torch.stack(spikes) * self.theta).flatten(0, 1)


class SpikingJelly(nn.Module):
    """The multi-step integrate-and-fire neuron of SpikingJelly, with soft reset, starting at theta / 2."""

    def __init__(self, theta: torch.Tensor, T: int) -> None:
        from spikingjelly.activation_based import neuron

        super().__init__()
        self.T = T
        self.register_buffer("theta", theta)
        self.neuron = neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.neuron.reset()
        x = (x / self.theta).unflatten(0, (self.T, -1))
        self.neuron.v = torch.full_like(x[0], 0.5)
        return (self.neuron(x) * self.theta).flatten(0, 1)


class Qcfs(nn.Module):
    """QCFS of 8 levels with a trained threshold and a straight-through gradient of the rounding."""

    def __init__(self, L: int = 8, theta: float = 8.0) -> None:
        super().__init__()
        self.L, self.theta = L, nn.Parameter(torch.tensor(theta))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = torch.clamp(x / self.theta, 0, 1)
        return self.theta * (u + (torch.floor(self.L * u + 0.5) / self.L - u).detach())


def augmented(pixels: torch.Tensor, pad: int = 4, hole: int = 16) -> torch.Tensor:
    """Random crop, flip and cutout of a batch of `pixels` `[B, C, H, W]`, uint8; returns normalised floats."""
    with pixels.device:  # where new tensors go
        return _augmented(pixels, pad, hole)


def _augmented(pixels: torch.Tensor, pad: int, hole: int) -> torch.Tensor:
    b, _, h, w = pixels.shape
    padded = nn.functional.pad(pixels, (pad, pad, pad, pad))
    top, left, row, column = (torch.randint(n, (b, 1)) for n in (2 * pad + 1, 2 * pad + 1, h, w))
    rows, columns = top + torch.arange(h), left + torch.arange(w)
    columns = torch.where(torch.rand(b, 1) < 0.5, columns.flip(1), columns)
    x = padded[torch.arange(b)[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [B, H, W, C]
    x = (x.permute(0, 3, 1, 2) / 255 - MEAN.to(x.device)) / STD.to(x.device)
    outside = [((torch.arange(n) - at + hole // 2) // hole != 0) for n, at in ((h, row), (w, column))]
    return x * (outside[0][:, None, :, None] | outside[1][:, None, None, :])


class Block(nn.Module):
    def __init__(self, i: int, o: int, stride: int, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.stride, self.extra = stride, (o - i) // 2
        self.act1, self.act2 = act(), act()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return self.act2(y + x)


class ResNet20(nn.Module):
    """ResNet-20 with the keys of akamaster's file; `act` is called once per site, in the order in which they run."""

    def __init__(self, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.bn1, self.act = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), act()
        channels, i = (16, 32, 64), 16
        for stage, o in enumerate(channels, 1):
            blocks = []
            for block in range(3):
                blocks.append(Block(i, o, 2 if stage > 1 and block == 0 else 1, act))
                i = o
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class Vgg16(nn.Module):
    """VGG-16 with the keys of SNNC's file."""

    def __init__(self, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        layers, i = [], 3
        for o in STAGES:
            if o == "pool":
                layers.append(nn.AvgPool2d(2))
            else:
                layers += [nn.Conv2d(i, o, 3, 1, 1), nn.BatchNorm2d(o), act()]
                i = o
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(512, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).flatten(1))


NETWORKS = {"resnet20": ResNet20, "vgg16": Vgg16}


def network(
    name: str,
    state: dict[str, np.ndarray],
    neuron: Callable | None = None,
    thetas: list[np.ndarray] | None = None,
    T: int = 1,
    device: str = "cpu",
) -> Callable:
    """The network on `device` with `state` as its weights: with ReLU, or a `neuron` for each threshold over `T` steps.

    It takes images `[B, C, H, W]`, repeats them `T` times, and returns the mean of the logits over time, `[B, K]`.
    """
    remaining = iter(thetas or ())

    def act() -> nn.Module:
        if neuron is None:
            return nn.ReLU()
        return neuron(torch.from_numpy(next(remaining)).reshape(-1, 1, 1), T)

    net = NETWORKS[name](act)
    tensors = {key: torch.from_numpy(array) for key, array in state.items()}
    missing, _ = net.load_state_dict(tensors, strict=False)
    if lost := [key for key in missing if not key.endswith(("theta", "num_batches_tracked"))]:
        raise ValueError(f"no weights for {lost}")
    net.eval().to(device)
    return net if neuron is None else lambda x: net(x.repeat(T, 1, 1, 1)).unflatten(0, (T, -1)).mean(0)

"""Networks in PyTorch with the key names of public repositories, and random weights; narrower, where that is free."""

from collections import OrderedDict

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

STAGES = ((4, 4), (6, 6), (8, 8, 8), (6, 6, 6), (7, 7, 7))


class Qcfs(nn.Module):
    """Threshold `up` in the old repository, `thresh` in the new one."""

    def __init__(self, name, L):
        super().__init__()
        self.name, self.L = name, L
        self.register_parameter(name, nn.Parameter(torch.rand(1) + 1))

    def forward(self, x):
        theta = getattr(self, self.name)
        return theta * torch.clamp(torch.floor(x * self.L / theta + 0.5) / self.L, 0, 1)


class Pad(nn.Module):
    """Option A: every second pixel, zeros for the new channels on both sides."""

    def forward(self, x):
        channels = x.shape[1] // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, channels, channels))


def conv_norm(i, o, size, stride, groups=1):
    return [nn.Conv2d(i, o, size, stride, size // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]


class Block(nn.Module):
    """akamaster, SNNC and torchvision: conv1, bn1, conv2, bn2 and a shortcut called otherwise."""

    def __init__(self, i, o, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(i, o, 3, stride)
        self.conv2, self.bn2 = conv_norm(o, o, 3, 1)
        self.name = "downsample" if shortcut == "downsample" else "shortcut"
        changes = stride != 1 or i != o
        projection = nn.Sequential(*conv_norm(i, o, 1, stride)) if changes else nn.Sequential()
        setattr(self, self.name, Pad() if changes and shortcut == "pad" else projection)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + getattr(self, self.name)(x))


class ResNet(nn.Module):
    def __init__(self, blocks, channels, classes=10, stem="cifar", pool=None, shortcut="downsample", head="fc"):
        super().__init__()
        half = channels // 2
        self.conv1 = {
            "cifar": lambda: nn.Conv2d(3, channels, 3, 1, 1, bias=False),
            "imagenet": lambda: nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            "deep": lambda: nn.Sequential(
                *conv_norm(3, half, 3, 2),
                nn.ReLU(),
                *conv_norm(half, half, 3, 1),
                nn.ReLU(),
                nn.Conv2d(half, channels, 3, 1, 1, bias=False),
            ),
        }[stem]()
        self.bn1, self.pool, self.head, self.stages = nn.BatchNorm2d(channels), pool or nn.Identity(), head, len(blocks)
        i = channels
        for stage, n in enumerate(blocks):
            o = channels * 2**stage
            first = Block(i, o, 2 if stage else 1, shortcut)
            setattr(self, f"layer{stage + 1}", nn.Sequential(first, *(Block(o, o, 1, shortcut) for _ in range(n - 1))))
            i = o
        setattr(self, head, nn.Linear(i, classes))

    def forward(self, x):
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


class QcfsBlock(nn.Module):
    def __init__(self, i, o, stride, threshold, L):
        super().__init__()
        self.residual_function = nn.Sequential(*conv_norm(i, o, 3, stride), Qcfs(threshold, L), *conv_norm(o, o, 3, 1))
        self.shortcut = nn.Sequential(*(conv_norm(i, o, 1, stride) if stride != 1 or i != o else []))
        self.last = "relu" if threshold == "up" else "act"
        setattr(self, self.last, Qcfs(threshold, L))

    def forward(self, x):
        return getattr(self, self.last)(self.residual_function(x) + self.shortcut(x))


class QcfsResNet(nn.Module):
    def __init__(self, blocks, channels, threshold, L, classes=10):
        super().__init__()
        self.conv1 = nn.Sequential(*conv_norm(3, channels, 3, 1), Qcfs(threshold, L))
        i, self.stages = channels, len(blocks)
        for stage, n in enumerate(blocks):
            o = channels * 2**stage
            rest = (QcfsBlock(o, o, 1, threshold, L) for _ in range(n - 1))
            first = QcfsBlock(i, o, 2 if stage else 1, threshold, L)
            setattr(self, f"conv{stage + 2}_x", nn.Sequential(first, *rest))
            i = o
        self.fc = nn.Linear(i, classes)

    def forward(self, x):
        x = self.conv1(x)
        for stage in range(self.stages):
            x = getattr(self, f"conv{stage + 2}_x")(x)
        return self.fc(x.mean((2, 3)))


class QcfsVgg(nn.Module):
    """A sequence for each stage. The new repository's network without batch norm has max-pooling."""

    def __init__(self, threshold, L, norm=True, side=1, hidden=(16, 12), classes=10):
        super().__init__()
        i = 3
        for stage, channels in enumerate(STAGES):
            layers = []
            for o in channels:
                layers += [nn.Conv2d(i, o, 3, padding=1), *([nn.BatchNorm2d(o)] if norm else [])]
                layers += [Qcfs(threshold, L), nn.Dropout(0.0)]
                i = o
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers, nn.AvgPool2d(2) if norm else nn.MaxPool2d(2)))
        a, b = hidden
        dense = [nn.Linear(i * side * side, a), Qcfs(threshold, L), nn.Dropout(0.0)]
        dense += [nn.Linear(a, b), Qcfs(threshold, L), nn.Dropout(0.0)]
        self.classifier = nn.Sequential(nn.Flatten(), *dense, nn.Linear(b, classes))

    def forward(self, x):
        for stage in range(5):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.classifier(x)


class SnncVgg(nn.Module):
    """Dropout stands where batch norm would. With max-pooling kuangliu's."""

    def __init__(self, norm=True, pixels=1, classes=10, pool=nn.AvgPool2d):
        super().__init__()
        layers, i = [], 3
        for channels in STAGES:
            for o in channels:
                layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o) if norm else nn.Dropout(0.25), nn.ReLU()]
                i = o
            layers.append(pool(2))
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(i * pixels, classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


class TorchvisionVgg(nn.Module):
    """SNNC's for ImageNet, too, with average pooling."""

    def __init__(self, norm, pool=nn.MaxPool2d, hidden=(16, 12), classes=10):
        super().__init__()
        layers, i = [], 3
        for channels in STAGES:
            for o in channels:
                layers += [nn.Conv2d(i, o, 3, padding=1), *([nn.BatchNorm2d(o)] if norm else []), nn.ReLU()]
                i = o
            layers.append(pool(2))
        a, b = hidden
        self.features, self.avgpool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(7)
        dense = [nn.Linear(i * 49, a), nn.ReLU(), nn.Dropout(), nn.Linear(a, b), nn.ReLU(), nn.Dropout()]
        self.classifier = nn.Sequential(*dense, nn.Linear(b, classes))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def named(**modules):
    return nn.Sequential(OrderedDict(modules))


class TimmBlock(nn.Module):
    def __init__(self, i, o, stride, group):
        super().__init__()
        shapes = {"conv1": (i, o, 1, 1), "conv2": (o, o, 3, stride, o // group), "conv3": (o, o, 1, 1)}
        if stride != 1 or i != o:
            shapes["downsample"] = (i, o, 1, stride)
        for name, shape in shapes.items():
            setattr(self, name, named(**dict(zip(("conv", "bn"), conv_norm(*shape), strict=True))))

    def forward(self, x):
        y = self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(x)))))
        return torch.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class PyclsBlock(nn.Module):
    def __init__(self, i, o, stride, group):
        super().__init__()
        if stride != 1 or i != o:
            self.proj, self.bn = conv_norm(i, o, 1, stride)
        a, a_bn = conv_norm(i, o, 1, 1)
        b, b_bn = conv_norm(o, o, 3, stride, o // group)
        c, c_bn = conv_norm(o, o, 1, 1)
        self.f = named(a=a, a_bn=a_bn, a_relu=nn.ReLU(), b=b, b_bn=b_bn, b_relu=nn.ReLU(), c=c, c_bn=c_bn)

    def forward(self, x):
        return torch.relu(self.f(x) + (self.bn(self.proj(x)) if hasattr(self, "proj") else x))


class RegNet(nn.Module):
    """RegNetX-4GF, as deep and narrower; `bgr` as pycls, which reads its images with blue first."""

    def __init__(self, block, bgr=False, widths=(4, 6, 8, 10), group=2, stem=3, classes=10):
        super().__init__()
        conv, bn = conv_norm(3, stem, 3, 2)
        self.stem, self.bgr, i = named(conv=conv, bn=bn), bgr, stem
        for stage, (n, o) in enumerate(zip((2, 5, 14, 2), widths, strict=True), 1):
            blocks = {f"b{j + 1}": block(o if j else i, o, 1 if j else 2, group) for j in range(n)}
            setattr(self, f"s{stage}", named(**blocks))
            i = o
        self.head = named(fc=nn.Linear(i, classes))

    def forward(self, x):
        """Images with red first."""
        x = torch.relu(self.stem(x.flip(1) if self.bgr else x))
        for stage in (self.s1, self.s2, self.s3, self.s4):
            x = stage(x)
        return self.head(x.mean((2, 3)))


@torch.no_grad()
def drawn(network):
    """The network ready for inference, with random numbers everywhere, of a size that lets the image come through."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, 0.8), (module.bias, -0.3), (module.running_var, 0.7)):
                tensor.data.uniform_(low, low + 0.6)
            module.running_mean.normal_(0, 0.3)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight).mul_(1.3)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.1)
    return network.eval()

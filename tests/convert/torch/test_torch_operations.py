"""Single operations of PyTorch against what the table makes of them, family by family."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: make test-torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from convert.torch import to_jax  # noqa: E402


def up(**options):
    return lambda x: F.interpolate(x, **options)


def pad(mode, *pads):
    return lambda x: F.pad(x, pads, mode)


def in_place(x):
    y = x.clone()
    y[:, 1:3] += 1
    y[:, ::2] *= 2
    y[:, 0, 1] = 7
    return F.relu_(y.sub_(0.5)) + x


def assigned(mask, value):
    """A function that assigns a value where a mask is true."""

    def f(x):
        y = x * 1
        y[mask(y)] = value
        return y

    return f


def tensor(*shape):
    return torch.tensor(np.sin(np.arange(np.prod(shape)) + 1).reshape(shape).astype(np.float32))


VECTOR, SEQUENCE, IMAGE, VOLUME = (6,), (6, 11), (6, 10, 9), (4, 5, 6, 7)
FAMILIES = {
    "convolution of images": (
        IMAGE,
        {
            "plain": nn.Conv2d(6, 4, 3),
            "stride, padding": nn.Conv2d(6, 4, (3, 2), (2, 1), (1, 0)),
            "same": nn.Conv2d(6, 4, 4, padding="same", bias=False),
            "dilation, groups": nn.Conv2d(6, 4, 3, padding=2, dilation=2, groups=2),
            "depthwise": nn.Conv2d(6, 12, 3, groups=6),
            "reflect": nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
            "replicate": nn.Conv2d(6, 4, 3, padding=1, padding_mode="replicate"),
            "circular": nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"),
            "transposed": nn.ConvTranspose2d(6, 4, 2, 2),
            "transposed in groups": nn.ConvTranspose2d(6, 9, 3, (2, 3), 1, 1, groups=3, bias=False),
            "transposed, dilated": nn.ConvTranspose2d(6, 4, 3, 1, 0, dilation=2),
        },
    ),
    "convolution of others": (
        SEQUENCE,
        {
            "1d": nn.Conv1d(6, 4, 3, 2, 1, groups=2),
            "1d transposed": nn.ConvTranspose1d(6, 4, 3, 2, 1),
            "3d": lambda x: F.conv3d(x[..., None, None], tensor(2, 6, 3, 1, 1)),
            "3d transposed": lambda x: F.conv_transpose3d(x[..., None, None], tensor(6, 2, 3, 2, 2)),
        },
    ),
    "pooling of images": (
        IMAGE,
        {
            "max": nn.MaxPool2d(2),
            "max, padding": nn.MaxPool2d(3, 2, 1),
            "max, ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
            "max, ceil, padding": nn.MaxPool2d(3, 3, 1, ceil_mode=True),
            "max, dilation": nn.MaxPool2d((2, 3), 1, dilation=2),
            "avg": nn.AvgPool2d(2),
            "avg, padding": nn.AvgPool2d(3, 2, 1),
            "avg, not padding": nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False),
            "avg, ceil": nn.AvgPool2d(3, 2, ceil_mode=True),
            "avg, ceil, padding": nn.AvgPool2d(3, 3, 1, ceil_mode=True),
            "avg, ceil, not padding": nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
            "avg, divisor": nn.AvgPool2d(2, divisor_override=3),
            "adaptive 1": nn.AdaptiveAvgPool2d(1),
            "adaptive even": nn.AdaptiveAvgPool2d((5, 3)),
            "adaptive uneven": nn.AdaptiveAvgPool2d((7, 4)),
            "adaptive larger": nn.AdaptiveAvgPool2d((13, None)),
            "adaptive max": nn.AdaptiveMaxPool2d((4, 3)),
            "adaptive max, even": nn.AdaptiveMaxPool2d((5, 3)),
            "lp": nn.LPPool2d(2, 2),
        },
    ),
    "pooling of sequences": (
        SEQUENCE,
        {
            "max": nn.MaxPool1d(3, 2, 1),
            "avg": nn.AvgPool1d(3, 2, 1),
            "adaptive": nn.AdaptiveAvgPool1d(4),
            "adaptive max": nn.AdaptiveMaxPool1d(4),
        },
    ),
    "volumes": (
        VOLUME,
        {
            "max": nn.MaxPool3d(2, ceil_mode=True),
            "avg": nn.AvgPool3d(3, 2, 1),
            "adaptive": nn.AdaptiveAvgPool3d((2, 3, 4)),
            "conv": nn.Conv3d(4, 4, (1, 3, 2), groups=2),
            "batch norm": nn.BatchNorm3d(4),
            "up": up(scale_factor=2, mode="trilinear"),
            "nearest": up(scale_factor=2),
            "reflect": pad("reflect", 1, 1, 2, 0, 0, 1),
            "reflect and crop": pad("reflect", 2, -1, -1, 2, 0, 0),
            "replicate": pad("replicate", 1, 1, 2, 0, 0, 1),
        },
    ),
    "resizing": (
        IMAGE,
        {
            "nearest": nn.Upsample(scale_factor=2),
            "nearest, size": up(size=(13, 7)),
            "nearest, rounded": up(size=(50, 61)),
            "nearest, factor": up(scale_factor=(1.5, 0.7)),
            "nearest, recomputed": up(scale_factor=1.3, recompute_scale_factor=True),
            "exact": up(size=(13, 7), mode="nearest-exact"),
            "exact, rounded": up(size=(50, 61), mode="nearest-exact"),
            "bilinear": nn.UpsamplingBilinear2d(scale_factor=2),
            "bilinear, size": up(size=(15, 4), mode="bilinear"),
            "bilinear, corners": up(size=(15, 4), mode="bilinear", align_corners=True),
            "bilinear, factor": up(scale_factor=1.7, mode="bilinear"),
            "bicubic": up(size=(15, 20), mode="bicubic"),
            "bicubic, corners": up(size=(15, 20), mode="bicubic", align_corners=True),
            "area": up(size=(4, 5), mode="area"),
            "like another": lambda x: F.interpolate(x[:, :, ::2], size=x.shape[2:], mode="bilinear"),
            "pixel shuffle": lambda x: F.pixel_shuffle(x[:, :4], 2),
            "pixel unshuffle": lambda x: F.pixel_unshuffle(x[:, :, :, :8], 2),
            "channel shuffle": nn.ChannelShuffle(3),
        },
    ),
    "resizing sequences": (
        SEQUENCE,
        {
            "linear": up(scale_factor=2, mode="linear"),
            "nearest": up(size=17),
            "exact": up(size=5, mode="nearest-exact"),
        },
    ),
    "padding": (
        IMAGE,
        {
            "constant": nn.ConstantPad2d((1, 2, 0, 3), 0.5),
            "zero": nn.ZeroPad2d(2),
            "cropped": pad("constant", -1, -2, 1, 1),
            "channels": pad("constant", 0, 0, 0, 0, 2, 2),
            "reflect": nn.ReflectionPad2d((1, 2, 3, 0)),
            "replicate": nn.ReplicationPad2d((1, 2, 3, 0)),
            "circular": pad("circular", 1, 2, 3, 0),
            "reflect 1d": lambda x: F.pad(x[:, :, 0], (2, 1), "reflect"),
            "replicate 1d": lambda x: F.pad(x[:, :, 0], (2, 1), "replicate"),
        },
    ),
    "dense": (
        VECTOR,
        {
            "linear": nn.Linear(6, 4),
            "no bias": nn.Linear(6, 4, bias=False),
            "matmul": lambda x: x @ tensor(6, 3) + tensor(3),
            "addmm": lambda x: torch.addmm(tensor(3), x, tensor(6, 3), beta=0.5, alpha=2),
            "addmm, beta 0": lambda x: torch.addmm(torch.full((3,), torch.nan), x, tensor(6, 3), beta=0),
            "matrix, vector": lambda x: x @ tensor(6),
            "einsum": lambda x: torch.einsum("bi,ijk->bkj", x, tensor(6, 2, 3)),
            "batch norm": nn.BatchNorm1d(6),
            "dropout": nn.Dropout(0.5),
            "embedding": lambda x: F.embedding(torch.arange(3), tensor(5, 4)) * x[:, :1, None],
        },
    ),
    "normalisation": (
        IMAGE,
        {
            "batch": nn.BatchNorm2d(6),
            "batch, plain": nn.BatchNorm2d(6, affine=False, eps=0.1),
            "group": nn.GroupNorm(3, 6),
            "layer": nn.LayerNorm(9),
            "layer, plain": nn.LayerNorm((10, 9), elementwise_affine=False),
            "instance": nn.InstanceNorm2d(6, affine=True),
            "instance, statistics": nn.InstanceNorm2d(6, track_running_stats=True),
            "rms": nn.RMSNorm(9),
            "local response": nn.LocalResponseNorm(3),
            "length": lambda x: F.normalize(x),
            "softmax": nn.Softmax2d(),
            "log softmax": nn.LogSoftmax(1),
            "dropout": nn.Dropout2d(),
        },
    ),
    "activations": (
        IMAGE,
        {
            "relu": nn.ReLU(),
            "torch": torch.relu,
            "in place": lambda x: F.relu_(x + 1),
            "relu6": nn.ReLU6(),
            "hardtanh": nn.Hardtanh(-0.3, 0.4),
            "clamp": lambda x: x.clamp(0, 1),
            "clamp_min": lambda x: torch.clamp_min(x, 0),
            "clamp, tensor": lambda x: torch.clamp(x, max=torch.tensor(0.5)),
            "maximum": lambda x: torch.maximum(x, torch.tensor(0.0)),
            "max": lambda x: torch.max(x, torch.zeros_like(x)),
            "where": lambda x: torch.where(x > 0, x, 0.0),
            "mask": lambda x: x * (x > 0),
            "threshold": nn.Threshold(0.1, -1),
            "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
            "assigned": assigned(lambda y: y < 0, 0.0),
            "assigned, axes": assigned(lambda y: y[..., 0, 0] < 0, 0.5),
            "assigned, indices": assigned(lambda y: (slice(None), torch.tensor([4, 1])), 2.0),
            "leaky": nn.LeakyReLU(0.2),
            "prelu": nn.PReLU(),
            "prelu, channels": nn.PReLU(6, init=0.3),
            **{f.__name__: f() for f in (nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh)},
            **{f.__name__: f() for f in (nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign, nn.LogSigmoid)},
            **{f.__name__: f() for f in (nn.Hardshrink, nn.Softshrink, nn.Tanhshrink)},
            "glu": nn.GLU(1),
            "gelu, tanh": nn.GELU("tanh"),
            "celu, alpha": nn.CELU(0.5),
        },
    ),
    "arithmetic": (
        IMAGE,
        {
            "scalars": lambda x: (2 - x / 3 + 1) * -0.5,
            "add, alpha": lambda x: torch.add(x, x.flip(1), alpha=2),
            "rsub": lambda x: torch.rsub(x, 1, alpha=2),
            "ranks": lambda x: x * tensor(9) + tensor(6, 1, 1),
            "addcmul": lambda x: torch.addcmul(x, x, x, value=0.5),
            "lerp": lambda x: torch.lerp(x, -x, 0.3),
            "floor": lambda x: torch.floor(x * 4 + 0.5) / 4,
            "modes": lambda x: torch.div(x, 0.3, rounding_mode="floor") + torch.div(x, 0.3, rounding_mode="trunc"),
            "remainders": lambda x: torch.remainder(x, 0.3) + torch.fmod(x, 0.3),
            "powers": lambda x: x**2 + x.abs() ** 0.5 + 2**x,
            "exp": lambda x: x.exp() + x.expm1() + (x.abs() + 1).log() + x.abs().log1p() + x.abs().add(1).rsqrt(),
            "sin": lambda x: x.sin() + x.cos() + x.tanh() + x.atan() + x.erf(),
            "types": lambda x: (x > 0).sum((2, 3)) / 3 + (x * 5).int().float().mean((2, 3)),
            "whole": lambda x: (x * 5).long() // 2 + torch.arange(9),
            "logic": lambda x: ((x > 0) & (x < 1)) | ~(x >= -1),
            "compared": lambda x: torch.stack(
                [x == 0, x != 0, x <= 0, torch.isnan(x), torch.logical_xor(x > 0, x < 1)]
            ),
        },
    ),
    "along axes": (
        IMAGE,
        {
            "mean": lambda x: x.mean((2, 3)) + x.sum(2).mean(-1),
            "all": lambda x: x + x.mean() + x.max() - x.min() + x.sum(),
            "var": lambda x: x.var(1) + x.std((1,), correction=0),
            "max": lambda x: x.max(1).values + x.amax(1) + x.min(1)[0] + x.amin((1,)),
            "places": lambda x: (x.argmax(1), x.argmin(2, keepdim=True), x.max(2).indices),
            "prod": lambda x: x.prod(1),
            "any": lambda x: ((x > 2).any(1), (x > -9).all(1)),
            "norm": lambda x: x.norm(dim=1) + torch.linalg.vector_norm(x, 1, 1),
            "norms": lambda x: [torch.linalg.vector_norm(x, p, (2, 3)) for p in (0, 0.5, 3, torch.inf, -torch.inf)],
            "norm of all": lambda x: torch.linalg.vector_norm(x),
            "logsumexp": lambda x: x.logsumexp(1),
            "cumsum": lambda x: x.cumsum(2),
            "sort": lambda x: x.sort(1, descending=True),
            "topk": lambda x: x.topk(2, 1),
        },
    ),
    "shapes": (
        IMAGE,
        {
            "flatten": nn.Flatten(),
            "views": lambda x: x.view(x.size(0), 2, -1, 9).transpose(1, 2).reshape(x.size(0), -1),
            "first": lambda x: x.view(-1, 3, 10, 9),
            "unflatten": nn.Unflatten(1, (2, 3)),
            "permute": lambda x: x.permute(0, 2, 3, 1).contiguous(),
            "squeeze": lambda x: x[:, :1].squeeze(1).unsqueeze(-1).squeeze(),
            "expand": lambda x: x[:, :1].expand(-1, 4, -1, -1) + tensor(9).expand_as(x[:, :1]),
            "repeat": lambda x: x.repeat(1, 2, 1, 3).repeat_interleave(2, 1),
            "cat": lambda x: torch.cat([x, x * 2], 1),
            "stack": lambda x: torch.stack([x, x * 2], -1),
            "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
            "split": lambda x: x.split([1, 2, 3], 1)[1],
            "unbind": lambda x: x.unbind(1)[-1],
            "slices": lambda x: x[:, 1:5:2, -3:, ..., None],
            "option A": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 3, 3)),
            "indices": lambda x: x[:, [3, 0, 0]] + x.index_select(1, torch.tensor([1, 2, 1])),
            "gather": lambda x: x.gather(1, x.argsort(1)),
            "gather, smaller": lambda x: x.gather(-1, x[:, 1:4, :7].argsort(-1)[..., :2]),
            "flip": lambda x: x.flip((2, 3)),
            "roll": lambda x: x.roll((1, -2), (2, 3)),
            "shuffle": lambda x: x.view(-1, 2, 3, 10, 9).transpose(1, 2).contiguous().view(-1, 6, 10, 9),
            "diagonal": lambda x: x.diagonal(0, 2, 3),
            "triangle": lambda x: x.tril() + x.triu(1),
            "unfold": lambda x: F.unfold(x, 3, stride=2),
            "window": lambda x: x.unfold(2, 2, 2),
            "in place": in_place,
            "constants": lambda x: (
                x + torch.ones(9) * torch.linspace(0, 1, 9) + torch.full((10, 1), 3.0) + torch.eye(10, 9)
            ),
        },
    ),
    "attention": (
        SEQUENCE,
        {
            "layer": nn.TransformerEncoderLayer(11, 1, 8, batch_first=True),
            "multihead": lambda x: F.scaled_dot_product_attention(x, x, x),
            "causal": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
            "mask": lambda x: F.scaled_dot_product_attention(x, x, x, tensor(6, 6)),
        },
    ),
}


class Each(nn.Module):
    """The results of several modules and functions, by name."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts
        self.modules_ = nn.ModuleList(part for part in parts.values() if isinstance(part, nn.Module))

    def forward(self, x):
        return {name: part(x) for name, part in self.parts.items()}


def randomise(module):
    """Weights and statistics that no mistake leaves as they were."""
    generator = torch.Generator().manual_seed(0)
    for name, array in module.state_dict().items():
        if array.is_floating_point():
            array.uniform_(0.5, 1.5, generator=generator) if "var" in name else array.normal_(
                0, 0.4, generator=generator
            )
    return module.eval()


def images(shape, batch):
    return np.random.default_rng(0).normal(0, 1.5, (batch, *shape)).astype(np.float32)


def check(module, x, atol=2e-5):
    """The function against the module, for each example of a batch."""
    fn, params = to_jax(module, x[:1])
    compiled = jax.jit(fn)
    for part in (x[i : i + 1] for i in range(len(x))):
        with torch.no_grad():
            expected = torch.utils._pytree.tree_flatten_with_path(module(torch.tensor(part)))[0]
        results = jax.tree.leaves(compiled(params, part))
        assert len(results) == len(expected)
        for (path, wanted), got in zip(expected, results, strict=True):
            assert got.dtype == jax.dtypes.canonicalize_dtype(wanted.numpy().dtype), path
            np.testing.assert_allclose(got, wanted.numpy(), 1e-4, atol, err_msg=str(path))
    return fn, params


@pytest.mark.parametrize("family", FAMILIES)
def test_as_pytorch(family):
    shape, parts = FAMILIES[family]
    check(randomise(Each(dict(sorted(parts.items())))), images(shape, 2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    module = randomise(module).to(getattr(torch, dtype))
    x = images((3, 8, 8), 2)
    fn, params = to_jax(module, x[:1])
    assert {str(array.dtype) for array in params.values()} == {dtype}
    got = jnp.concatenate([fn(params, x[:1]), fn(params, x[1:])])
    assert got.dtype == jnp.dtype(dtype)
    with torch.no_grad():
        expected = module(torch.tensor(x).to(getattr(torch, dtype))).float().numpy()
    np.testing.assert_allclose(got.astype(jnp.float32), expected, 0.05, 0.1)

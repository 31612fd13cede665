"""What becomes of networks when they are traced: sites and the same function, or a refusal that says where and why."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tppjax.activations import clipped_relu, qcfs
from tppjax.errors import InputError
from tppjax.graph import trace

relu = jax.nn.relu
RNG = np.random.default_rng(0)
X3 = RNG.normal(size=(4, 6, 8)).astype(np.float32)
X = X3[:, 0]
IMAGES = RNG.normal(size=(4, 8, 8, 3)).astype(np.float32)


def matrix(i, o):
    return (RNG.normal(size=(i, o)) / np.sqrt(i)).astype(np.float32)


P = {
    **{"a": {"w": matrix(8, 16)}, "b": {"w": matrix(16, 16)}, "c": {"w": matrix(16, 5)}},
    **{"t": {"w": matrix(6, 12)}, "u": {"w": matrix(12, 6)}},
    "s": {"w": np.stack([matrix(16, 16) for _ in range(3)])},
    "conv": {"w": RNG.normal(size=(3, 3, 3, 4)).astype(np.float32) / 5},
    "deep": {"w": RNG.normal(size=(3, 3, 4, 4)).astype(np.float32) / 6},
}


def a(p, x):
    return x @ p["a"]["w"]


def b(p, x):
    return x @ p["b"]["w"]


def c(p, x):
    return x @ p["c"]["w"]


def conv(p, x, name="conv", strides=(1, 1)):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, p[name]["w"], strides, "SAME", dimension_numbers=dimensions)


def traced(fn, x, variables=P):
    """The graph, after it was seen to be the same function on a batch."""
    graph, weights = trace(fn, variables, x[:1])
    for wanted, got in zip(*(jax.tree.leaves(f) for f in (fn(variables, x), graph.apply(weights, x))), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    return graph, weights


def kinds(graph):
    return [(site.name, site.kind) for site in graph.sites.values()]


@jax.custom_vjp
def own_gradient(x):
    return jnp.maximum(x, 0)


own_gradient.defvjp(lambda x: (own_gradient(x), x), lambda x, g: (g * (x > 0),))
theta = np.linspace(1, 2, 16, dtype=np.float32)
WRITTEN = {  # the activation, and what it must be taken for
    "relu": (relu, "relu", None),
    "maximum": (lambda x: jnp.maximum(x, 0), "relu", None),
    "where": (lambda x: jnp.where(x > 0, x, 0), "relu", None),
    "x * (x > 0)": (lambda x: x * (x > 0), "relu", None),
    "(x + |x|) / 2": (lambda x: (x + jnp.abs(x)) / 2, "relu", None),
    "-min(-x, 0)": (lambda x: -jnp.minimum(-x, 0), "relu", None),
    "(|x| - |x - 1.7| + 1.7) / 2": (lambda x: (jnp.abs(x) - jnp.abs(x - 1.7) + 1.7) / 2, "clip", 1.7),
    "relu(relu)": (lambda x: relu(relu(x)), "relu", None),
    "relu(x / 6) * 6": (lambda x: relu(x / 6) * 6, "relu", None),
    "y + 1 * y": (lambda x: relu(x) + 1.0 * relu(x), "relu", None),
    "relu(x - 1)": (lambda x: relu(x - 1), "relu", None),
    "min(relu, 6)": (lambda x: jnp.minimum(relu(relu(x)), 6), "clip", 6),
    "max(x, -1)": (lambda x: jnp.maximum(x, -1), "relu", None),
    "own gradient": (own_gradient, "relu", None),
    "jit": (jax.jit(relu), "relu", None),
    "remat": (jax.checkpoint(lambda x: relu(x) * 2.0), "relu", None),
    "relu6": (jax.nn.relu6, "clip", 6),
    "clamp": (lambda x: jax.lax.clamp(0.0, x, 2.0), "clip", 2),
    "hard_tanh": (jax.nn.hard_tanh, "clip", 2),
    "clipped_relu": (lambda x: clipped_relu(x, jnp.float32(1.5)), "clip", 1.5),
    "a bound a channel": (lambda x: jnp.clip(x, 0, theta[None]), "clip", theta),
    "qcfs": (lambda x: qcfs(x, jnp.float32(1.5), 8), "qcfs", 1.5),
    "a small qcfs": (lambda x: qcfs(x, jnp.float32(1e-5), 8), "qcfs", 1e-5),
    "qcfs of 3 levels": (lambda x: qcfs(x, jnp.float32(1.2), 3), "qcfs", 1.2),
    "qcfs as others write it": (lambda x: jnp.clip(jnp.floor(x * 4 / 1.2 + 0.5), 0, 4) * 1.2 / 4, "qcfs", 1.2),
    "qcfs of a theta a channel": (lambda x: qcfs(x, theta[None], 8), "qcfs", theta),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_activations_are_told_by_what_they_compute(name):
    activation, kind, bound = WRITTEN[name]
    graph, weights = traced(lambda p, x: c(p, b(p, activation(a(p, x)))), X)
    (site,) = graph.sites.values()
    assert (site.name, site.kind, site.shape, site.axis, site.layers) == ("a", kind, (16,), 0, ("a",))
    if bound is not None:
        np.testing.assert_array_equal(np.ravel(weights[site.bound]), np.float32(bound))
    assert site.levels == {"qcfs": 8}.get(kind, 0) or name in ("qcfs of 3 levels", "qcfs as others write it")


def three_times(p, x):
    x = relu(a(p, x))
    for _ in range(2):
        x = relu(b(p, x))
    return c(p, x)


def residual_qcfs(p, x):
    """With lambda equal to the number of levels, as it begins in the paper: its factors cancel out."""
    x = qcfs(a(p, x), jnp.float32(8), 8)
    return c(p, qcfs(b(p, x) + x, jnp.float32(8), 8))


def low_pass(p, x):
    return c(p, relu(jnp.cumsum(jnp.flip(a(p, x), -1), -1) * 0.1 + jnp.roll(a(p, x), 1, -1)))


def mixer(p, x):
    tokens = jnp.einsum("bhd,hs->bsd", relu(jnp.einsum("bsd,sh->bhd", x, p["t"]["w"])), p["u"]["w"])
    return c(p, relu(a(p, x + tokens))).mean(1)


def in_a_scan(p, x):
    return c(p, jax.lax.scan(lambda y, w: (relu(y @ w), None), relu(a(p, x)), p["s"]["w"])[0])


def cumulative(p, x):
    body = lambda y, now: (0.5 * y + now, None)  # noqa: E731
    return c(p, relu(a(p, jax.lax.scan(body, jnp.zeros((x.shape[0], 8)), x.swapaxes(0, 1))[0])))


WIRED = {  # the network, its input, and how many sites it has
    "shared weights": (three_times, X, 3),
    "shortcut of qcfs": (residual_qcfs, 9 * X, 2),
    "layers in a scan": (in_a_scan, X, 4),
    "a linear scan": (cumulative, X3, 1),
    "layers in a loop": (
        lambda p, x: c(p, jax.lax.fori_loop(0, 3, lambda i, y: relu(y @ jnp.asarray(p["s"]["w"])[i]), relu(a(p, x)))),
        X,
        4,
    ),
    "mixer": (mixer, X3, 2),
    "merged batch": (lambda p, x: c(p, relu(a(p, x.reshape(-1, 8)))).reshape(x.shape[0], 6, 5).mean(1), X3, 1),
    "batch in a middle axis": (lambda p, x: c(p, relu(a(p, x.swapaxes(0, 1)))).mean(0), X3, 1),
    "one example, mapped": (lambda p, x: jax.vmap(lambda x: c(p, relu(a(p, x))))(x), X, 1),
    "moved about": (low_pass, X, 1),
    "stacked": (lambda p, x: c(p, relu(jnp.stack([a(p, x), jnp.tile(x, (1, 2))], 1).sum(1))), X, 1),
    "split": (lambda p, x: c(p, jnp.concatenate([relu(v) for v in jnp.split(a(p, x), 2, -1)], -1)), X, 2),
    "a gather": (lambda p, x: c(p, relu(a(p, x)[:, jnp.arange(16)[::-1]])), X, 1),
    "a scatter": (lambda p, x: c(p, relu(jnp.zeros((x.shape[0], 16)).at[:, ::2].set(x))), X, 1),
    "a scatter that adds": (lambda p, x: c(p, relu(jnp.asarray(a(p, x)).at[:, 3].add(x[:, 0]))), X, 1),
    "a mask": (lambda p, x: c(p, relu(jnp.where(jnp.arange(16) % 2 == 0, a(p, x), 0.0))), X, 1),
    "a known branch": (lambda p, x: c(p, jax.lax.cond(True, relu, jnp.tanh, a(p, x))), X, 1),
    "a skip past the activation": (lambda p, x: c(p, a(p, x) + relu(a(p, x))), X, 1),
    "at the very ends": (lambda p, x: relu(c(p, relu(a(p, relu(x))))), X, 3),
    "constants in the closure": (lambda p, x: c(P, relu(x @ P["a"]["w"])), X, 1),
    "several outputs": (lambda p, x: {"logits": c(p, relu(a(p, x))), "norm": (b(p, relu(a(p, x))), 3.0 * x)}, X, 1),
    "bilinear resize": (
        lambda p, x: jax.image.resize(relu(conv(p, x)), (x.shape[0], 16, 16, 4), "bilinear"),
        IMAGES,
        1,
    ),
    "nearest upsampling": (lambda p, x: relu(conv(p, x)).repeat(2, axis=1).repeat(2, axis=2), IMAGES, 1),
}


@pytest.mark.parametrize("name", WIRED)
def test_networks_of_any_wiring(name):
    fn, x, sites = WIRED[name]
    graph, _ = traced(fn, x)
    assert len(graph.sites) == sites
    assert f"{sites} site" in str(graph)


def channels_first(p, x):
    """As PyTorch's networks are: [B, C, H, W], kernels OIHW."""
    conv = lambda x, w, **how: jax.lax.conv_general_dilated(x, w.transpose(3, 2, 0, 1), (1, 1), "SAME", **how)  # noqa: E731
    y = relu(conv(x, p["conv"]["w"]) * jnp.arange(1.0, 5)[None, :, None, None])
    y = jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")[:, :, ::-1]
    z = relu(conv(jnp.concatenate([y, y - 1], 1), p["deep"]["w"], feature_group_count=2))
    y = jnp.pad(y[:, 1:3], ((0, 0), (1, 1), (0, 0), (0, 0)))
    return relu(z + y).mean((2, 3))


def test_channels_are_last_inside_whatever_the_layout():
    graph, weights = traced(channels_first, IMAGES.transpose(0, 3, 1, 2), P)
    assert [(site.shape, site.axis) for site in graph.sites.values()] == [
        ((8, 8, 4), 2),
        ((4, 4, 4), 2),
        ((4, 4, 4), 2),
    ]
    assert [item.place.line for item in graph.items if item[0] == "transpose"] == [graph.items[0].place.line]
    assert weights["conv/w"].shape == (3, 3, 3, 4)


def max_pool(x, size=2):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, size, size, 1), "VALID")


def pooled_and_not(p, x):
    y = relu(conv(p, x))
    return max_pool(y, 8) + y.sum((1, 2), keepdims=True)


def side_by_side(p, x):
    return max_pool(jnp.concatenate([relu(conv(p, x)), jax.nn.relu6(conv(p, x))], -1))


HEIGHTS = np.float32([0.1, 0.2, 0.3, 0.4]).reshape(1, 1, 1, 4)


def capped(heights):
    return lambda p, x: conv(p, max_pool(jnp.minimum(relu(conv(p, x)), heights)), "deep")


POOLED = {  # the network, and its sites with the operations before each
    "pool, relu": (lambda p, x: conv(p, relu(max_pool(conv(p, x))), "deep"), [("conv", 1)]),
    "relu, pool": (lambda p, x: conv(p, max_pool(relu(conv(p, x))), "deep"), [("conv", 1)]),
    "relu6, pool": (lambda p, x: conv(p, max_pool(jax.nn.relu6(conv(p, x))), "deep"), [("conv", 1)]),
    "clips of each channel, pool": (capped(HEIGHTS), [("conv", 1)]),
    "clips of each column, pool": (capped(HEIGHTS.reshape(1, 1, 4, 1).repeat(2, 2)), [("conv", 0), ("max_pool", 1)]),
    "pool, norm, relu": (lambda p, x: conv(p, relu(2 * max_pool(conv(p, x)) - 0.5), "deep"), [("conv", 3)]),
    "relu, pool, and the relu": (pooled_and_not, [("conv", 0), ("conv#2", 1)]),
    "relus side by side, pool": (side_by_side, [("conv", 0), ("conv#2", 0), ("max_pool", 1)]),
    "global": (lambda p, x: relu(conv(p, x)).max((1, 2)) @ P["c"]["w"][:4], [("conv", 1)]),
}


@pytest.mark.parametrize("name", POOLED)
def test_max_pooling_is_of_what_neurons_accumulate(name):
    fn, expected = POOLED[name]
    graph, _ = traced(fn, IMAGES)
    assert sorted((site.name, len(site.before)) for site in graph.sites.values()) == sorted(expected)


def attention(p, x):
    q, k, v = jnp.split(jnp.concatenate([a(p, x), x], -1), 3, -1)
    return relu(jax.nn.softmax(q @ k.swapaxes(-1, -2), -1) @ v).mean(1)


def recurrent(p, x):
    def step(h, now):
        h = jnp.tanh(a(p, now) + b(p, h))
        return h, h

    return c(p, jax.lax.scan(step, jnp.zeros((x.shape[0], 16)), x.swapaxes(0, 1))[0].mean(0))


def layer_norm(p, x):
    x = a(p, x)
    return c(p, relu((x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)))


def gate(p, x):
    return c(p, relu(a(p, x)) * jax.nn.sigmoid(a(p, x)))


def whole_numbers(p, x):
    return c(p, b(p, relu(a(p, x))).astype(jnp.int32).astype(jnp.float32))


def dropout(p, x):
    return c(p, relu(a(p, x)) * jax.random.bernoulli(jax.random.key(0), 0.5, (1, 16)))


def two_things(p, x):
    x = jax.nn.gelu(a(p, x), approximate=False)
    return c(p, jnp.tanh(b(p, x)))


FAR = np.r_[99, 1:16]  # the first is beyond the last pixel
LINEAR = "not linear between its activations"
REFUSED = {
    "softmax": (attention, X3, f"{LINEAR}.*softmax"),
    "an RNN of tanh": (recurrent, X3, f"{LINEAR}.*tanh"),
    "layer norm": (layer_norm, X, f"{LINEAR}.*normalisation"),
    "a sigmoid gate": (gate, X, f"{LINEAR}.*sigmoid"),
    "silu": (lambda p, x: c(p, jax.nn.silu(a(p, x))), X, f"{LINEAR}.*SiLU"),
    "gelu": (lambda p, x: c(p, jax.nn.gelu(a(p, x), approximate=False)), X, f"{LINEAR}.*GELU"),
    "leaky relu": (lambda p, x: c(p, jax.nn.leaky_relu(a(p, x))), X, f"{LINEAR}.*leaky ReLU"),
    "elu": (lambda p, x: c(p, jax.nn.elu(a(p, x))), X, f"{LINEAR}.*ELU"),
    "hard swish": (lambda p, x: c(p, jax.nn.hard_swish(a(p, x))), X, f"{LINEAR}.*such as a gate"),
    "softplus": (lambda p, x: c(p, jax.nn.softplus(a(p, x))), X, f"{LINEAR}.*log1p"),
    "exp": (lambda p, x: c(p, jnp.exp(a(p, x))), X, f"{LINEAR}.*exp"),
    "a minimum": (lambda p, x: c(p, jnp.minimum(a(p, x), 6.0)), X, f"{LINEAR}.*no clip"),
    "a step": (lambda p, x: c(p, jnp.where(a(p, x) > 0, 1.0, 0.0)), X, LINEAR),
    "threshold": (lambda p, x: c(p, jnp.where(a(p, x) > 0.5, a(p, x), 0.0)), X, LINEAR),
    "maxout": (lambda p, x: c(p, jnp.maximum(a(p, x), a(p, x)[:, ::-1])), X, f"{LINEAR}.*maxout"),
    "a small step": (lambda p, x: c(p, (a(p, x) > 0) * 1e-4), X, LINEAR),
    "a gap": (lambda p, x: c(p, jnp.where(a(p, x) > 1e-3, a(p, x), 0)), X, f"{LINEAR}.*choice by the input"),
    "x relu(x)": (lambda p, x: c(p, a(p, x) * relu(a(p, x))), X, f"{LINEAR}.*product of two values"),
    "argmax": (lambda p, x: c(p, jax.nn.one_hot(a(p, x).argmax(-1), 16)), X, f"{LINEAR}.*choice by the largest"),
    "whole numbers": (whole_numbers, X, f"{LINEAR}.*rounding to whole numbers"),
    "a fill of ones": (lambda p, x: c(p, relu(jnp.take(a(p, x), FAR, 1, mode="fill", fill_value=1.0))), X, "gather at"),
    "max-pooling of anything": (lambda p, x: conv(p, max_pool(conv(p, x)), "deep"), IMAGES, f"{LINEAR}.*max-pooling"),
    "log softmax at the end": (lambda p, x: jax.nn.log_softmax(c(p, relu(a(p, x)))), X, LINEAR),
    "dropout": (dropout, X, "draws at random at .*test_trace.py.*switch dropout off"),
    "a while loop": (
        lambda p, x: jax.lax.while_loop(lambda y: y.sum() < 9, lambda y: relu(y) + 1, a(p, x)),
        X,
        "loops by its",
    ),
    "a branch by the input": (
        lambda p, x: jax.lax.cond(x.sum() > 0, relu, jnp.abs, a(p, x)),
        X,
        "branches by its input",
    ),
    "no activation": (lambda p, x: c(p, a(p, x)), X, "has no activation"),
    "no batch axis": (
        lambda p, x: c(p, relu(a(p, x))).sum(),
        X,
        r"array of shape \(\), whose first axis is not the batch",
    ),
    "no batch axis for one": (
        lambda p, x: c(p, relu(a(p, x))).squeeze(),
        X,
        "whose first axis is not the batch: keep it there, with squ",
    ),
    "no input": (lambda p, x: c(p, relu(p["b"]["w"])), X, "does not depend on its input"),
    "batch statistics": (lambda p, x: c(p, relu(a(p, x - x.mean(0, keepdims=True)))), X, "mixes examples"),
    "a fixed batch": (
        lambda p, x: c(p, relu(a(p, x)).reshape(1, 16)) if len(x) == 1 else c(p, x @ x.T @ a(p, x)),
        X,
        "mixes",
    ),
    "two things": (two_things, X, f"(?s){LINEAR}.*erf.*GELU.*\n  tanh"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_is_refused_with_its_line(name):
    fn, x, said = REFUSED[name]
    with pytest.raises(InputError, match=f"(?s){said}") as refused:
        trace(fn, P, x[:1])
    if LINEAR in said:
        assert "test_trace.py:" in str(refused.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_weights_that_are_not_finite_are_named(value):
    """Those behind the last site too, and what follows from them, as from a negative variance."""
    variables = {**P, "norm": {"var": np.float32([1] * 4 + [value])}}
    with pytest.raises(InputError, match=r"^norm/var, or .* from it alone, is not finite"):
        trace(lambda p, x: c(p, relu(a(p, x))) / jnp.sqrt(p["norm"]["var"])[None], variables, X)


def test_half_precision():
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), P)
    x = jnp.asarray(X, jnp.bfloat16)
    graph, weights = trace(lambda p, x: c(p, relu(a(p, x))), half, x)
    assert weights["a/w"].dtype == jnp.bfloat16
    np.testing.assert_allclose(graph.apply(weights, x), c(half, relu(a(half, x))), rtol=0.05, atol=0.05)
    mixed, _ = trace(lambda p, x: c(P, relu(a(p, x.astype(jnp.bfloat16))).astype(jnp.float32)), half, X)
    assert kinds(mixed) == [("a", "relu")]


def test_a_relu_of_halves_in_float16():
    p = jax.tree.map(lambda a: np.asarray(a, np.float16), P)
    graph, _ = trace(lambda p, x: c(p, x_and_abs(a(p, x))), p, X.astype(np.float16))
    assert [site.kind for site in graph.sites.values()] == ["relu"]


def x_and_abs(x):
    return 0.5 * x + 0.5 * jnp.abs(x)


def test_float16_has_room_for_the_numbers_that_tell_an_activation():
    half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float16), P)
    graph, _ = trace(lambda p, x: c(p, jnp.minimum(relu(a(p, x)), 6) + relu(b(p, a(p, x)))), half, jnp.float16(X))
    assert kinds(graph) == [("a", "clip"), ("b", "relu")]


def test_the_identity_behind_something_not_linear_is_no_site():
    """It is `max(x, low)` for every number it was tried on, if `low` is the least of them."""

    def fn(p, x):
        y = relu(a(p, x))
        return y * (y > 0) * 0.3 * p["ones"]

    graph, _ = traced(fn, X, P | {"ones": np.ones((1, 16), np.float32)})
    assert kinds(graph) == [("a", "relu")]


def test_graphs_of_equal_structure_are_equal():
    fn = lambda p, x: c(p, relu(a(p, x)))  # noqa: E731
    (one, weights), (other, _) = trace(fn, P, X), trace(fn, jax.tree.map(lambda leaf: 2 * leaf, P), X)
    wider, _ = trace(lambda p, x: c(p, jax.nn.relu6(a(p, x))), P, X)
    assert one == other != wider
    assert hash(one) == hash(other)
    assert list(weights) == ["a/w", "c/w"]
    assert weights["a/w"] is P["a"]["w"]


def test_inputs_are_what_reaches_the_sites():
    graph, weights = trace(lambda p, x: c(p, jax.nn.hard_tanh(b(p, relu(a(p, x))))), P, X)
    inputs = graph.inputs(weights, X)
    assert list(inputs) == ["a", "b"]
    np.testing.assert_allclose(inputs["a"], a(P, X), rtol=1e-5)
    np.testing.assert_allclose(inputs["b"], b(P, relu(a(P, X))) + 1, rtol=1e-5)  # what is above the least value, -1


def test_the_table_of_sites():
    graph, _ = trace(lambda p, x: max_pool(jax.nn.relu6(conv(p, relu(conv(p, x)), "deep"))), P, IMAGES)
    assert [line.split() for line in str(graph).splitlines()] == [
        ["site", "kind", "shape", "channels", "fed", "by"],
        ["conv", "relu", "8", "x", "8", "x", "4", "4", "conv"],
        ["deep", "clip,", "after", "max-pool", "4", "x", "4", "x", "4", "4", "deep"],
        ["2", "sites,", "320", "neurons"],
    ]
    assert "clip  16" in str(trace(lambda p, x: c(p, jax.nn.hard_tanh(a(p, x))), P, X)[0])  # not "after max-pool"

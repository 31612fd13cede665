"""What can't be converted, or is used wrongly, is refused with a sentence that says what to do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from tests.convert.networks import Pooled, exact, images, mlp
from tppjax import ann, data
from tppjax.activations import QCFS, ReLU

KEY = jax.random.key(11)


@pytest.mark.parametrize("T", [0, -3, 1.5, True])
def test_steps_are_refused(digits_ann, T):
    with pytest.raises(ValueError, match="T is the number of time steps, a whole number of at least 1"):
        convert.to_snn(digits_ann, T=T)


def test_modes_are_refused(digits_ann):
    with pytest.raises(
        ValueError, match="unknown mode 'poisson' for all sites; known: baseline, shuffle, tpp, rounded"
    ):
        convert.to_snn(digits_ann, mode="poisson")
    with pytest.raises(
        ValueError, match=r"one entry for every site; unknown: \['act9'\]; missing: \['act1_1', 'act1_2'"
    ):
        convert.to_snn(digits_ann, mode={"act9": "tpp"})


@pytest.mark.parametrize("theta", [0.0, -1.0, np.nan, np.inf])
def test_thresholds_are_refused(digits_ann, theta):
    params = {**digits_ann.variables["params"], "act1_2": {"theta": np.float32(theta)}}
    network = digits_ann.replace(variables={**digits_ann.variables, "params": params})
    with pytest.raises(ValueError, match=r"params/act1_2/theta has a .* not (positive, |finite)"):
        convert.to_snn(network)


def test_keys_are_refused(digits_ann, digits_test):
    snn, x = convert.to_snn(digits_ann, T=2, mode="tpp"), digits_test.images[:3]
    with pytest.raises(ValueError, match=r"mode 'tpp' draws at random and needs a key: pass key=jax\.random\.key"):
        snn.apply(x)
    for key in (jax.random.PRNGKey(0), 0, jax.random.split(KEY, 2)):
        with pytest.raises(ValueError, match=r"one typed PRNG key.* or one per example, \[3\]; got"):
            snn.apply(x, key)


def test_inputs_are_refused(digits_ann, digits_test):
    snn = convert.to_snn(digits_ann, T=2, mode="rounded")
    with pytest.raises(ValueError, match=r"batch of images \[B, H, W, C\]; got shape \(8, 8, 1\)"):
        snn.apply(digits_test.images[0])
    with pytest.raises(ValueError, match=r"takes images of shape \(8, 8, 1\)"):
        snn.apply(np.zeros((1, 9, 9, 1), np.uint8))
    variables, model = mlp()
    with pytest.raises(ValueError, match="takes floats, already normalised; got uint8"):
        convert.to_snn(variables, mode="rounded", model=model).apply(np.zeros((1, 2, 2, 2), np.uint8))


def test_other_things_are_refused(digits_ann):
    with pytest.raises(ValueError, match=r"to_snn takes an Ann .* got dict without model="):
        convert.to_snn(digits_ann.variables)
    with pytest.raises(ValueError, match="to_snn takes an Ann"):
        convert.to_snn({"kernel": 1}, model=digits_ann.model)
    with pytest.raises(ValueError, match="Dense has no field act, which can't be converted"):
        convert.to_snn(digits_ann.variables, model=nn.Dense(3))
    relu = digits_ann.replace(model=digits_ann.model.clone(act=ReLU()))
    params = {k: v for k, v in relu.variables["params"].items() if not k.startswith("act")}
    with pytest.raises(
        ValueError,
        match=r"no threshold at act1_1, act1_2, act2_1, act2_2: .*ReLU learns none; choose them: convert\.calibrate",
    ):
        convert.to_snn(relu.replace(variables={**relu.variables, "params": params}))


class WithMaxPool(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x):
        x = self.act.copy(name="act1")(nn.Conv(2, (3, 3))(x))
        return nn.max_pool(x, (2, 2))


class WithRelu(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x):
        with jax.named_scope("stem"):
            x = nn.relu(nn.Conv(2, (3, 3))(x))
        return self.act.copy(name="act1")(x)


class WithSoftmax(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.softmax(self.act.copy(name="act1")(nn.Conv(2, (3, 3))(x)))


class WithAttention(nn.Module):
    """Linear in each of two factors that both depend on the input, hence not linear."""

    act: nn.Module

    @nn.compact
    def __call__(self, x):
        x = self.act.copy(name="act1")(nn.Conv(2, (3, 3))(x))
        return x * nn.Dense(2)(x)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (WithMaxPool, "reduce_window_max at .*max_pool|reduce_window_max"),
        (WithRelu, "max at '.*stem"),
        (WithSoftmax, "exp"),
        (WithAttention, "mul at"),
    ],
)
def test_what_is_not_linear_between_sites_is_named(model, found):
    model = model(QCFS(L=4))
    x = jnp.ones((1, 4, 4, 1))
    snn = convert.to_snn(model.init(KEY, x), mode="rounded", model=model)
    with pytest.raises(ValueError, match=rf"{type(model).__name__} can't be converted, .*{found}"):
        snn.apply(x)


class FromTheFront(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x):
        x = self.act.copy(name="act1")(nn.Conv(4, (3, 3))(x))
        return nn.Dense(3)(x.mean(axis=(1, 2)))


class WithBatchSize(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(self.act.copy(name="act1")(x).reshape(x.shape[0], -1))


class OnceForTwoSites(nn.Module):
    act: nn.Module

    @nn.compact
    def __call__(self, x):
        return self.act(nn.Dense(1)(self.act(x)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (FromTheFront, r"FromTheFront can't be converted, .* count axes from the end, as in x\.mean"),
        (WithBatchSize, "WithBatchSize can't be converted, since it works on batches"),
        (OnceForTwoSites, r"the activation 'act' runs twice: put a copy at each site, self\.act\.copy\(name=\.\.\.\)"),
    ],
)
def test_networks_that_would_be_converted_wrongly_are_refused(model, message):
    """Images as wide as they have channels, so that no layer finds a wrong shape."""
    model = model(QCFS(L=4))
    x = jnp.ones((4, 4, 4, 4))
    snn = convert.to_snn(model.init(KEY, x), mode="rounded", model=model)
    with pytest.raises(ValueError, match=message):
        snn.apply(x)


@pytest.mark.parametrize("mode", ["baseline", "shuffle"])
def test_max_pool_is_refused_where_neurons_fire_at_every_step(mode):
    model = Pooled(QCFS(L=4))
    variables = exact(model, (8, 8, 1))
    refused = rf"mode '{mode}' can't have the max-pool at act1: .* two-phase mode \(tpp, rounded, unbiased\)"
    with pytest.raises(ValueError, match=refused):
        convert.to_snn(variables, mode=mode, model=model).apply(images(1, (8, 8, 1)), KEY)
    with pytest.raises(ValueError, match=refused):
        convert.to_snn(ann.Ann(variables, model, data.info("digits")), mode=mode)


@pytest.mark.parametrize(
    ("order", "mode", "message"),
    [
        ([0, 1, 1], "shuffle", r"order has each of the steps 0 to 2 once; got \[0, 1, 1\]"),
        ([0, 1], "shuffle", "order has each of the steps 0 to 2 once"),
        ([2, 1, 0], "baseline", "an order is for mode 'shuffle'; got baseline"),
    ],
)
def test_orders(order, mode, message):
    variables, model = mlp()
    with pytest.raises(ValueError, match=message):
        convert.to_snn(variables, T=3, mode=mode, model=model, order=order)

"""What can't be converted, or is used wrongly, is refused with a sentence that says what to do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import convert
from tests.convert.networks import Pooled, images, mlp, traced
from tppjax.activations import QCFS, ReLU
from tppjax.errors import InputError
from tppjax.neurons import Ordered

KEY = jax.random.key(11)


@pytest.mark.parametrize("T", [0, -3, 1.5, True])
def test_steps_are_refused(T):
    with pytest.raises(InputError, match="T is the number of time steps, a whole number of at least 1"):
        convert.to_snn(mlp(), T=T)


def test_modes_are_refused():
    known = "unknown mode 'poisson'; known: baseline, shuffle, tpp, rounded, unbiased, .*, and package.module:Name"
    with pytest.raises(InputError, match=known):
        convert.to_snn(mlp(), mode="poisson")
    with pytest.raises(
        InputError, match=r"one entry for every site; unknown: \['act9'\]; missing: \['dense0', 'dense1'"
    ):
        convert.to_snn(mlp(), mode={"act9": "tpp"})
    with pytest.raises(InputError, match=r"a mode is the name of a neuron, or a tppjax\.neurons\.Neuron; got 3"):
        convert.to_snn(mlp(), mode=3)
    with pytest.raises(InputError, match="at dense1: unknown mode 'Tpp'"):
        convert.to_snn(mlp(), mode={"dense0": "tpp", "dense1": "Tpp"})
    for other in ("tpp", "srp(tau=2)", "baseline"):
        with pytest.raises(InputError, match=r"neurons that run some steps ahead of those that count stand alone: srp"):
            convert.to_snn(mlp(), mode={"dense0": "srp", "dense1": other})


@pytest.mark.parametrize("theta", [0.0, -1.0, np.nan, np.inf, np.float32([1, 1, 0, 1, 1])])
def test_thresholds_are_refused(theta):
    network = mlp().replace(thetas={**mlp().thetas, "dense1": np.float32(theta)})
    with pytest.raises(InputError, match=r"dense1 has a threshold that is not (positive, |finite)"):
        convert.to_snn(network)


def test_thresholds_that_are_missing_are_named():
    expected = r"no threshold at dense0, dense1: ReLU learns none; choose them by convert\.calibrate\(network, images\)"
    with pytest.raises(InputError, match=expected):
        convert.to_snn(mlp(ReLU()))


def test_keys_are_refused():
    snn, x = convert.to_snn(mlp(), T=2, mode="tpp"), images(3)
    with pytest.raises(InputError, match=r"mode 'tpp' draws at random and needs a key: pass key=jax\.random\.key"):
        snn.apply(x)
    for key in (jax.random.PRNGKey(0), 0, jax.random.split(KEY, 2)):
        with pytest.raises(InputError, match=r"one typed PRNG key.* or one per example, \[3\]; got"):
            snn.apply(x, key)


def test_inputs_are_refused(digits_ann, digits_test):
    snn = convert.to_snn(digits_ann, T=2, mode="rounded")
    with pytest.raises(InputError, match=r"the network takes a batch \[B, 8, 8, 1\]; got shape \(8, 8, 1\)"):
        snn.apply(digits_test.images[0])
    with pytest.raises(InputError, match=r"the network takes a batch \[B, 8, 8, 1\]; got shape \(1, 9, 9, 1\)"):
        snn.apply(np.zeros((1, 9, 9, 1), np.uint8))
    with pytest.raises(InputError, match="takes floats, already normalised; got uint8"):
        convert.to_snn(mlp(), mode="rounded").apply(np.zeros((1, 2, 2, 2), np.uint8))


@pytest.mark.parametrize("network", [{"kernel": 1}, nn.Dense(3), 5, (1, 2, 3), None])
def test_what_is_no_network_is_refused(network):
    expected = (
        rf"a network is an Ann, \(module, variables\) of Flax linen, .* got {type(network).__name__}\. From PyTorch"
    )
    with pytest.raises(InputError, match=expected):
        convert.to_snn(network, example=images(1))


def test_the_shape_of_ones_own_network_is_asked_for():
    with pytest.raises(InputError, match=r"trace needs example=, one input of the network \[1, \.\.\.\]"):
        convert.to_snn((nn.Dense(3), {}))


class WithMaxPool(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(2, (3, 3))(nn.max_pool(nn.Conv(2, (3, 3), name="first")(x), (2, 2))))


class WithSoftmax(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.softmax(nn.Dense(3, name="head")(nn.relu(nn.Conv(2, (3, 3))(x))))


class WithAttention(nn.Module):
    """Linear in each of two factors that both depend on the input, hence not linear."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(2, (3, 3))(x))
        return x * nn.Dense(2, name="gate")(x)


class WithDropout(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=False)(nn.relu(nn.Dense(2)(x))))


class InTraining(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(2, (3, 3))(x)))


class NoActivation(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (
            WithMaxPool,
            r"reduce_window_max at .*test_snn_refusals\.py:\d+.*, after first: max-pooling of values that can",
        ),
        (WithSoftmax, r"exp.* at .*test_snn_refusals\.py:\d+.*, after head: softmax"),
        (WithAttention, r"mul at .*test_snn_refusals\.py:\d+.*, after gate: a product of two values"),
        (WithDropout, r"draws at random at .*test_snn_refusals\.py:\d+.*: switch dropout off"),
        (InTraining, r"not linear between its activations"),
        (NoActivation, "no activation that spiking neurons can take the place of"),
    ],
)
def test_what_is_not_linear_between_activations_is_named(model, found):
    x = images(1, (4, 4, 1))
    model = model()
    variables = model.init({"params": KEY, "dropout": KEY}, x)

    def fn(variables, x):
        return model.apply(variables, x, rngs={"dropout": KEY}, mutable=["batch_stats"])[0]

    with pytest.raises(InputError, match=f"(?s){found}"):
        convert.to_snn((fn, variables), example=x)


class FromTheFront(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.relu(nn.Conv(4, (3, 3), name="conv")(x)).mean(axis=(1, 2)))


class WithBatchSize(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.relu(nn.Conv(4, (3, 3), name="conv")(x)).reshape(x.shape[0], -1))


class OnceForTwoSites(nn.Module):
    def setup(self):
        self.act = QCFS(L=4)
        self.first, self.head = nn.Dense(4), nn.Dense(3)

    def __call__(self, x):
        return self.head(self.act(self.first(self.act(x.reshape(len(x), -1)))))


@pytest.mark.parametrize(
    ("model", "sites", "T"),
    [
        (FromTheFront, ["conv"], 1000),
        (WithBatchSize, ["conv"], 1000),
        (OnceForTwoSites, ["OnceForTwoSites/act", "first"], 4),
    ],
)
def test_what_version_0_1_refused_converts(model, sites, T):
    """Axes counted from the front, batches flattened, one module of an activation for two places."""
    x = jnp.ones((4, 4, 4, 4))  # as wide as it has channels, so that no layer finds a wrong shape
    model = model()
    network = convert.trace((model, model.init(KEY, x)), x)
    assert list(network.sites) == sites
    network = network.replace(thetas=network.thetas | dict.fromkeys(network.missing, np.float32(4)))
    snn = convert.to_snn(network, T, "rounded")
    np.testing.assert_allclose(snn.apply(x), network.apply(x), atol=0.05)


@pytest.mark.parametrize("mode", ["baseline", "shuffle"])
def test_max_pool_is_refused_where_neurons_fire_at_every_step(mode):
    refused = rf"mode {mode} can't have the max-pool at conv: .* two-phase mode \(tpp, rounded, unbiased, graded\)"
    with pytest.raises(InputError, match=refused):
        convert.to_snn(traced(Pooled(QCFS(L=4)), (8, 8, 1)), mode=mode)


@pytest.mark.parametrize(("order"), [(0, 1, 1), (0, 1), 3, "abc"])
def test_orders(order):
    with pytest.raises(InputError, match="order has each of the steps 0 to 2 once; got"):
        convert.to_snn(mlp(), T=3, mode=Ordered(order=order))

"""The training loop for all data sets: from state to state, with every draw determined by (seed, epoch, step)."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util
from tqdm import tqdm

from configs.training import Training
from tppjax import ann, sharding
from tppjax.ann import Ann
from tppjax.checks import check_leaf
from tppjax.data import Examples, Images
from tppjax.errors import InputError, Stopped, extra, refusing
from tppjax.models.layers import REMAT_POINT
from tppjax.types import Array, Key
from train import input_pipeline
from train.run import Run, stop_requests

with extra("train"):
    import optax

CHECKED_EVERY = input_pipeline.SCANNED  # steps, for a loss that is not finite
REMAT_POINTS = jax.checkpoint_policies.save_only_these_names(REMAT_POINT)


class State(struct.PyTreeNode):
    """The content of a checkpoint, from which a run continues as if it had never stopped.

    Attributes:
      variables: variables of the network.
      opt_state: state of the optimizer.
      step: number of finished steps, over all epochs.
      sums: sums of the loss and the accuracy over the steps of this epoch.
      best: best validation accuracy so far, in percent.
    """

    variables: dict
    opt_state: optax.OptState
    step: jax.Array
    sums: jax.Array
    best: jax.Array


def fit(network: Ann, images: Examples, config: Training, augment: Callable) -> Ann:
    """Trains `network` and leaves the network of the best validation accuracy in `config.out / "ann"`.

    Args:
      network: the network before training, see `initial_network`.
      images: the training images; `config.validation` of them are held out.
      config: the recipe, without None.
      augment: function `(pixels [B, H, W, C], key) -> pixels`, run inside jit.

    Returns:
      The best network.

    Raises:
      InputError: if there are too few images for one batch and the validation split, or too many devices; or if the
        loss does not stay finite.
      Stopped: on SIGINT or SIGTERM, once the step has ended and a checkpoint is written.
    """
    train, held_out = split(images, config)
    mesh = sharding.device_mesh()
    if config.batch_size % mesh.size:
        raise InputError(f"--batch_size {config.batch_size} does not divide evenly over {mesh.size} devices")
    steps = len(train) // config.batch_size
    tx = optimizer(config, steps)
    step = partial(train_step, network, tx, augment, config)
    feed = (input_pipeline.resident if isinstance(train, Images) else input_pipeline.streamed)(step, train, mesh)
    with Run.open(config, images) as run, stop_requests() as stop:
        state = run.restore(sharding.replicate(initial_state(network, tx), mesh), steps)
        for epoch in range(int(state.step) // steps, config.epochs):
            started = time.perf_counter()
            state = one_epoch(feed, state, epoch, steps, len(train), run, stop)
            candidate = network.replace(variables=jax.device_get(state.variables))
            measured = _validated(candidate, state, epoch, held_out, run)
            loss, correct = (float(s) / steps for s in state.sums)
            best = jnp.maximum(float(state.best), measured["validation"])
            state = state.replace(**sharding.replicate({"best": best, "sums": jnp.zeros(2)}, mesh))
            seconds = time.perf_counter() - started
            run.log(epoch + 1, loss=loss, train=100 * correct, **measured, seconds=seconds)
            stopping, last = stop(), epoch + 1 == config.epochs
            if stopping or last or _checkpoint_due(epoch, steps, config.checkpoint_every or steps):
                run.checkpoint(state)
            if stopping and not last:
                raise _stopped(stopping, f"after epoch {epoch + 1}")
    return ann.load(config.out)


def _validated(candidate: Ann, state: State, epoch: int, held_out: Examples, run: Run) -> dict[str, float]:
    """The validation accuracy, and the median threshold of qcfs; the network is saved if it is the best so far."""
    _check_usable(candidate, epoch)
    measured = {"validation": ann.accuracy(candidate, held_out)}
    if np.float32(measured["validation"]) > float(state.best):  # which is rounded, too: of equals the first is kept
        ann.save(candidate, run.folder / "ann")
    if run.config.act == "qcfs":
        thetas = ann.thresholds(candidate.variables).values()
        measured["theta"] = float(np.median(np.concatenate([np.ravel(theta) for theta in thetas])))
    return measured


def initial_state(network: Ann, tx: optax.GradientTransformation) -> State:
    """The state before the first step."""
    counters = {"step": jnp.array(0), "sums": jnp.zeros(2), "best": jnp.array(-1.0)}
    return State(network.variables, tx.init(network.variables["params"]), **counters)


def one_epoch(
    feed: Callable, state: State, epoch: int, steps: int, n: int, run: Run, stop: Callable[[], int | None]
) -> State:
    """The rest of an epoch, from `state` on; order, augmentation and crops follow from (seed, epoch, step) alone.

    Raises:
      InputError: if the loss is not finite.
      Stopped: after a step in which `stop` returned a signal, with a checkpoint.
    """
    config = run.config
    key = jax.random.fold_in(jax.random.key(config.seed), epoch)
    order = np.random.default_rng((config.seed, epoch)).permutation(n)
    indices = order[: steps * config.batch_size].reshape(steps, config.batch_size)
    done = checked = int(state.step) - epoch * steps
    progress = {"desc": f"epoch {epoch + 1}/{config.epochs}", "unit": "step", "disable": None, "leave": False}
    every = config.checkpoint_every or steps
    with tqdm(total=steps, initial=done, **progress) as bar:
        while done < steps:
            until = min(steps, (done // every + 1) * every)
            for finished, latest in feed(state, indices[:until], done, key, (config.seed, epoch)):
                bar.update(finished - done)
                done, state = finished, latest
                if done - checked >= CHECKED_EVERY or done == until:
                    _check_finite(state.sums, epoch)
                    checked = done
                if (stopping := stop()) and done < steps:
                    break
            if done < steps:  # the last checkpoint of an epoch comes after its validation
                run.checkpoint(state)
                if stopping:
                    raise _stopped(stopping, f"after step {done} of epoch {epoch + 1}")
    return state


def _check_finite(sums: Array, epoch: int) -> None:
    if not np.all(np.isfinite(sums)):
        raise InputError(f"the loss is no longer finite in epoch {epoch + 1}: give a lower --lr; the epoch is not kept")


def _check_usable(network: Ann, epoch: int) -> None:
    remedy = "give a lower --lr; the epoch is not kept"
    with refusing(f"the network is of no use after epoch {epoch + 1}", remedy, InputError):
        leaves: dict[str, Any] = traverse_util.flatten_dict(network.variables, sep="/")
        for path, leaf in leaves.items():
            check_leaf(path, leaf)


def _checkpoint_due(epoch: int, steps: int, every: int) -> bool:
    """Whether a multiple of `every` steps ended in this epoch."""
    return (epoch + 1) * steps // every > epoch * steps // every


def _stopped(signum: int, point: str) -> Stopped:
    return Stopped(f"stopped {point}: the same command with --resume continues from there", signum)


def split(images: Examples, config: Training) -> tuple[Examples, Examples]:
    """Training and held-out images, disjoint, drawn by `config.seed`."""
    order = np.random.default_rng(config.seed).permutation(len(images))
    held_out, train = order[: config.validation], order[config.validation :][: config.limit_train]
    if config.validation < 1 or len(train) < config.batch_size:
        raise InputError(
            f"{len(images)} images with --validation {config.validation} leave {len(train)} to train on, which must be "
            f"at least --batch_size {config.batch_size}; --validation must be at least 1"
        )
    return images[train], images[held_out]


def optimizer(config: Training, steps: int) -> optax.GradientTransformation:
    """SGD with momentum, L2 penalty and cosine decay to 0; thresholds that are not trained get no penalty."""
    assert config.lr is not None

    def decayed(params: Any) -> Any:
        trained = config.act == "qcfs"
        return traverse_util.path_aware_map(lambda path, _: trained or path[-1] != "theta", params)

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.sgd(optax.cosine_decay_schedule(config.lr, config.epochs * steps), config.momentum),
    )


def train_step(
    network: Ann,
    tx: optax.GradientTransformation,
    augment: Callable,
    config: Training,
    state: State,
    pixels: jax.Array,
    labels: jax.Array,
    key: Key,
) -> State:
    """One step of SGD on a batch."""
    pixels = augment(pixels, key)

    def objective(params: Any) -> tuple[jax.Array, Any]:
        logits, updated = forward(network, config, {**state.variables, "params": params}, pixels)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()
        return loss, (updated, jnp.mean(logits.argmax(-1) == labels))

    params = state.variables["params"]
    (loss, (updated, correct)), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    updates, opt_state = tx.update(gradient, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates), **updated}
    sums = state.sums + jnp.stack([loss, correct])
    return state.replace(variables=variables, opt_state=opt_state, step=state.step + 1, sums=sums)


def forward(network: Ann, config: Training, variables: Any, pixels: jax.Array) -> Any:
    """Logits `[B, K]` in training, and the updated statistics of batch norm."""

    def apply(variables: Any) -> Any:
        with nn.intercept_methods(partial(multiply_in, jnp.dtype(config.dtype))):
            return network.model.apply(variables, network.input(pixels), train=True, mutable=["batch_stats"])

    return (jax.checkpoint(apply, policy=REMAT_POINTS) if config.remat else apply)(variables)


def multiply_in(dtype: Any, call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
    """For `nn.intercept_methods`: convolutions and dense layers take, multiply and return `dtype`.

    Parameters, batch norm, thresholds and quantisation stay float32: near a threshold, the 8 bits of bfloat16 can't
    distinguish two levels of QCFS.
    """
    layer = context.module
    if isinstance(layer, nn.Conv | nn.Dense) and layer.dtype is None and context.method_name == "__call__":
        return layer.clone(dtype=dtype, parent=layer.scope)(*args, **kwargs)
    return call(*args, **kwargs)

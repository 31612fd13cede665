"""The training loop, one for all data sets: state in, state out, everything random from (seed, epoch, step)."""

import time
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct, traverse_util
from tqdm import tqdm

from configs.training import Training
from tppjax import ann, sharding
from tppjax.ann import Ann
from tppjax.checks import check_ann
from tppjax.data import Images
from tppjax.errors import InputError, Stopped, extra
from tppjax.models.layers import REMAT_POINT
from train import input_pipeline
from train.run import Run, stop_requests

with extra("train"):
    import optax

CHECKED_EVERY = input_pipeline.SCANNED  # steps, for a loss that is not finite
REMAT_POINTS = jax.checkpoint_policies.save_only_these_names(REMAT_POINT)


class State(struct.PyTreeNode):
    """What a checkpoint holds: a run continues from it as if it had never stopped.

    Attributes:
      variables: of the network.
      opt_state: of the optimizer.
      step: how many have been made, over all epochs.
      sums: of the loss and the accuracy, over the steps of this epoch.
      best: validation accuracy so far, in percent.
    """

    variables: dict
    opt_state: optax.OptState
    step: jax.Array
    sums: jax.Array
    best: jax.Array


def fit(network: Ann, images: Images, config: Training, augment) -> Ann:
    """Trains `network` and leaves the network of the best validation accuracy in `config.out / "ann"`.

    Args:
      network: what to begin with, see `initial_network`.
      images: the training images; `config.validation` of them are held out.
      config: the recipe, without None.
      augment: `(pixels [B, H, W, C], key) -> pixels`, run inside jit.

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
    with Run.open(config) as run, stop_requests() as stop:
        state = run.restore(sharding.replicate(initial_state(network, tx), mesh), steps)
        for epoch in range(int(state.step) // steps, config.epochs):
            started = time.perf_counter()
            state = one_epoch(feed, state, epoch, steps, len(train), config, run, stop)
            candidate = network.replace(variables=ann.to_host(state.variables))
            _check_usable(candidate, epoch)
            score = ann.accuracy(candidate, held_out)
            if score > float(state.best):
                ann.save(candidate, run.folder / "ann")
            loss, correct = (float(s) / steps for s in state.sums)
            best = jnp.maximum(float(state.best), score)
            state = state.replace(**sharding.replicate({"best": best, "sums": jnp.zeros(2)}, mesh))
            measured = {"loss": loss, "train": 100 * correct, "validation": score}
            if config.act == "qcfs":
                measured["theta"] = _median_theta(candidate)
            run.log(epoch + 1, **measured, seconds=time.perf_counter() - started)
            run.checkpoint(state)
            if epoch + 1 < config.epochs:
                _stop_if_asked(stop, f"after epoch {epoch + 1}")
    return ann.load(config.out)


def initial_state(network: Ann, tx: optax.GradientTransformation) -> State:
    """The state before the first step."""
    begun = {"step": jnp.array(0), "sums": jnp.zeros(2), "best": jnp.array(-1.0)}
    return State(network.variables, tx.init(network.variables["params"]), **begun)


def one_epoch(
    feed, state: State, epoch: int, steps: int, n: int, config: Training, run: Run, stop=lambda: None
) -> State:
    """The rest of an epoch, from `state` on; order, augmentation and crops follow from (seed, epoch, step) alone.

    Raises:
      InputError: if the loss is not finite.
      Stopped: after a step in which `stop` returned a signal, with a checkpoint.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), epoch)
    order = np.random.default_rng((config.seed, epoch)).permutation(n)
    indices = order[: steps * config.batch_size].reshape(steps, config.batch_size)
    done = int(state.step) - epoch * steps
    progress = {"desc": f"epoch {epoch + 1}/{config.epochs}", "unit": "step", "disable": None, "leave": False}
    every = config.checkpoint_every or steps
    with tqdm(total=steps, initial=done, **progress) as bar:
        while done < steps:
            until = min(steps, (done // every + 1) * every)
            for now, latest in feed(state, indices[:until], done, key, (config.seed, epoch)):
                bar.update(now - done)
                done, state = now, latest
                if done % CHECKED_EVERY == 0 or done == until:
                    _check_finite(state.sums, epoch)
                if stop() and done < steps:
                    break
            if done < steps:  # an epoch's last checkpoint comes after its validation
                run.checkpoint(state)
                _stop_if_asked(stop, f"after step {done} of epoch {epoch + 1}")
    return state


def _check_finite(sums, epoch: int) -> None:
    if not np.all(np.isfinite(sums)):
        raise InputError(f"the loss is no longer finite in epoch {epoch + 1}: give a lower --lr; the epoch is not kept")


def _check_usable(network: Ann, epoch: int) -> None:
    try:
        check_ann(network)
    except InputError as e:
        raise InputError(f"after epoch {epoch + 1} {e}: give a lower --lr; the epoch is not kept") from e


def _stop_if_asked(stop, where: str) -> None:
    if signum := stop():
        raise Stopped(f"stopped {where}: the same command with --resume goes on from there", signum)


def _median_theta(network: Ann) -> float:
    thetas = ann.thresholds(network.variables).values()
    return float(np.median(np.concatenate([np.ravel(theta) for theta in thetas])))


def split(images: Images, config: Training) -> tuple[Images, Images]:
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
    """SGD with momentum, L2 penalty and cosine decay to 0; thresholds that are not trained are left alone."""

    def decayed(params):
        trained = config.act == "qcfs"
        return traverse_util.path_aware_map(lambda path, _: trained or path[-1] != "theta", params)

    return optax.chain(
        optax.add_decayed_weights(config.weight_decay, decayed),
        optax.sgd(optax.cosine_decay_schedule(config.lr, config.epochs * steps), config.momentum),
    )


def train_step(network: Ann, tx, augment, config: Training, state: State, pixels, labels, key) -> State:
    """One step of SGD on a batch."""
    pixels = augment(pixels, key)

    def objective(params):
        logits, updated = forward(network, config, {**state.variables, "params": params}, pixels)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels).mean()
        return loss, (updated, jnp.mean(logits.argmax(-1) == labels))

    params = state.variables["params"]
    (loss, (updated, correct)), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    updates, opt_state = tx.update(gradient, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates), **updated}
    sums = state.sums + jnp.stack([loss, correct])
    return state.replace(variables=variables, opt_state=opt_state, step=state.step + 1, sums=sums)


def forward(network: Ann, config: Training, variables, pixels):
    """Logits `[B, K]` in training, and the statistics of batch norm that they leave."""

    def apply(variables):
        with nn.intercept_methods(partial(multiply_in, jnp.dtype(config.dtype))):
            return network.model.apply(variables, network.input(pixels), train=True, mutable=["batch_stats"])

    return (jax.checkpoint(apply, policy=REMAT_POINTS) if config.remat else apply)(variables)


def multiply_in(dtype, call, args, kwargs, context):
    """For `nn.intercept_methods`: convolutions and dense layers take, multiply and return `dtype`.

    Parameters, batch norm, thresholds and quantisation stay float32: near a threshold, bfloat16's 8 bits tell no two
    levels of QCFS apart.
    """
    layer = context.module
    if isinstance(layer, nn.Conv | nn.Dense) and layer.dtype is None and context.method_name == "__call__":
        return layer.clone(dtype=dtype, parent=layer.scope)(*args, **kwargs)
    return call(*args, **kwargs)

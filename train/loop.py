"""The training loop, one for all data sets: state in, state out, everything random from (seed, epoch, step)."""

import time
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct, traverse_util
from tqdm import tqdm

from configs.training import Training
from tppjax import ann, sharding
from tppjax.ann import Ann
from tppjax.data import Images
from train.run import Run


class State(struct.PyTreeNode):
    """What a checkpoint holds: a run continues from it as if it had never stopped."""

    variables: dict
    opt_state: optax.OptState
    epoch: jax.Array
    best: jax.Array


def fit(network: Ann, images: Images, config: Training, augment) -> Ann:
    """Trains `network` and leaves the network of the best validation accuracy in `config.out / "ann"`.

    Args:
      network: what to begin with, see `start`.
      images: the training images; `config.validation` of them are held out.
      config: the recipe, without None.
      augment: `(pixels [B, H, W, C], key) -> pixels`, run inside jit.

    Returns:
      The best network.

    Raises:
      ValueError: if there are too few images for one batch and the validation split, or too many devices.
    """
    train, held_out = split(images, config)
    over = sharding.mesh()
    if config.batch_size % over.size:
        raise ValueError(f"--batch_size {config.batch_size} does not divide evenly over {over.size} devices")
    run = Run.open(config)
    steps = len(train) // config.batch_size
    tx = optimizer(config, steps)
    state = State(network.variables, tx.init(network.variables["params"]), epoch=jnp.array(0), best=jnp.array(-1.0))
    state = sharding.replicate(run.restore(state), over)
    pixels, labels = sharding.replicate((train.images, train.labels), over)
    step = partial(train_step, network.model, network.preprocessing, tx, augment, jnp.dtype(config.dtype))
    some_steps = jax.jit(partial(train_steps, step), donate_argnums=0)
    at_once = sharding.steps_at_once(over, steps)
    for epoch in range(int(state.epoch), config.epochs):
        started = time.perf_counter()
        key = jax.random.fold_in(jax.random.key(config.seed), epoch)
        order = np.random.default_rng((config.seed, epoch)).permutation(len(train))
        batches = order[: steps * config.batch_size].reshape(steps, config.batch_size)
        sums = jnp.zeros(2)
        with tqdm(
            total=steps, desc=f"epoch {epoch + 1}/{config.epochs}", unit="step", disable=None, leave=False
        ) as bar:
            for i in range(0, steps, at_once):
                now = sharding.split(batches[i : i + at_once], over, axis=1)
                state, metrics = some_steps(state, pixels, labels, now, key, i)
                sums += metrics
                bar.update(at_once)
        candidate = network.replace(variables=ann.to_host(state.variables))
        score = ann.accuracy(candidate, held_out.images, held_out.labels)
        if score > float(state.best):
            ann.save(candidate, run.folder / "ann")
        state = state.replace(epoch=state.epoch + 1, best=jnp.maximum(state.best, score))
        loss, correct = (float(s) / steps for s in sums)
        run.log(epoch + 1, loss=loss, train=100 * correct, validation=score, seconds=time.perf_counter() - started)
        run.checkpoint(state)
    run.close()
    return ann.load(run.folder)


def split(images: Images, config: Training) -> tuple[Images, Images]:
    """Training and held-out images, disjoint, drawn by `config.seed`."""
    order = np.random.default_rng(config.seed).permutation(len(images))
    held_out, train = order[: config.validation], order[config.validation :][: config.limit_train]
    if config.validation < 1 or len(train) < config.batch_size:
        raise ValueError(
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


def train_steps(step, state: State, pixels, labels, batches, key, first):
    """`step`, a `train_step`, on each of the `batches` `[steps, B]` as one scan; the state and the sum of the metrics.

    `key` is the epoch's, `first` the place of the first of these batches in the epoch.
    """

    def body(state, now):
        batch, i = now
        return step(state, pixels, labels, batch, jax.random.fold_in(key, i))

    state, metrics = jax.lax.scan(body, state, (batches, first + jnp.arange(len(batches))))
    return state, metrics.sum(axis=0)


def train_step(model, preprocessing, tx, augment, dtype, state: State, pixels, labels, batch, key):
    """One step of SGD on the images at `batch`; returns the state and `[loss, accuracy]` of the batch."""
    x, y = preprocessing(augment(pixels[batch], key)), labels[batch]

    def objective(params):
        variables = {**state.variables, "params": params}
        with nn.intercept_methods(partial(multiply_in, dtype)):
            logits, updated = model.apply(variables, x, train=True, mutable=["batch_stats"])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), y).mean()
        return loss, (updated, jnp.mean(logits.argmax(-1) == y))

    params = state.variables["params"]
    (loss, (updated, correct)), gradient = jax.value_and_grad(objective, has_aux=True)(params)
    updates, opt_state = tx.update(gradient, state.opt_state, params)
    variables = {"params": optax.apply_updates(params, updates), **updated}
    return state.replace(variables=variables, opt_state=opt_state), jnp.stack([loss, correct])


def multiply_in(dtype, call, args, kwargs, context):
    """For `nn.intercept_methods`: convolutions and dense layers take, multiply and return `dtype`.

    Parameters, batch norm, thresholds and quantisation stay float32: near a threshold, bfloat16's 8 bits tell no two
    levels of QCFS apart.
    """
    layer = context.module
    if isinstance(layer, nn.Conv | nn.Dense) and layer.dtype is None and context.method_name == "__call__":
        return layer.clone(dtype=dtype, parent=layer.scope)(*args, **kwargs)
    return call(*args, **kwargs)

"""`python -m train.dvs`: train on the event recordings of CIFAR10-DVS."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from configs.dvs import Dvs, recipe
from configs.training import check
from tppjax import cli, data, models
from tppjax.ann import Ann
from tppjax.data import augment
from train.loop import fit
from train.start import activation, start


def new(config: Dvs, classes: int) -> nn.Module:
    """The network that a `recipe` describes."""
    options = {} if config.arch == "vgg16" else {"stem": config.stem}
    return models.create(config.arch, classes, activation(config), **options)


def main(config: Dvs) -> Ann:
    """Trains the network that `config` describes; all frames of a recording are shifted and mirrored alike."""
    config = recipe(config)
    check(config)
    form = {name: getattr(config, name) for name in ("frames", "size", "constant")}
    preprocessing = data.info("cifar10_dvs", **form)
    model = new(config, len(preprocessing.class_names))
    damaged = {"skip_damaged": config.skip_damaged}
    images = data.load("cifar10_dvs", "train", config.data_dir, like=preprocessing, **damaged)
    network = start(config, model, preprocessing, images)

    def augmented(counts, key):
        crop_key, flip_key = jax.random.split(key)
        as_channels = jnp.moveaxis(counts, 1, -1) if counts.ndim == 5 else counts
        flat = as_channels.reshape(*as_channels.shape[:3], -1)
        flat = augment.flip(augment.crop(flat, crop_key, config.pad), flip_key)
        moved = flat.reshape(as_channels.shape)
        return jnp.moveaxis(moved, -1, 1) if counts.ndim == 5 else moved

    return fit(network, images, config, augmented)


if __name__ == "__main__":
    cli.run(main, Dvs)

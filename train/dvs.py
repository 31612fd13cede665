"""`python -m train.dvs`: train on the event recordings of CIFAR10-DVS."""

import jax
from jaxtyping import UInt8

from configs.dvs import Dvs, recipe
from configs.training import check
from tppjax import cli, data
from tppjax.ann import Ann
from tppjax.data import augment
from tppjax.types import Key
from train.initial_network import initial_network, new
from train.loop import fit
from train.run import check_folder


def main(config: Dvs) -> Ann:
    """Trains the network that `config` describes; all frames of a recording are shifted and mirrored alike."""
    check(config, config.size)
    check_folder(config)
    config = recipe(config)
    options = {name: getattr(config, name) for name in ("frames", "size", "constant")}
    preprocessing = data.info("cifar10_dvs", **options)
    model = new(config, len(preprocessing.class_names))
    skip = config.skip_damaged
    images = data.load("cifar10_dvs", "train", config.data_dir, preprocessing=preprocessing, skip_damaged=skip)
    network = initial_network(config, model, preprocessing, images)

    def moved(
        images: UInt8[jax.Array, "batch height width channels"], key: Key
    ) -> UInt8[jax.Array, "batch height width channels"]:
        crop_key, flip_key = jax.random.split(key)
        return augment.flip(augment.crop(images, crop_key, config.pad), flip_key)

    every_frame = jax.vmap(moved, in_axes=(1, None), out_axes=1)
    return fit(network, images, config, every_frame if preprocessing.frames else moved)


if __name__ == "__main__":
    cli.run(main, Dvs)

"""`python -m train.cifar`: train a VGG or ResNet on CIFAR-10 or CIFAR-100."""

from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import UInt8

from configs.cifar import Cifar, recipe
from configs.training import check
from tppjax import ann, cli, data
from tppjax.ann import Ann
from tppjax.data import Examples, Preprocessing, augment
from tppjax.data.autoaugment import cifar10_policy
from tppjax.types import Key
from train.initial_network import activation, initial_network, new
from train.loop import fit
from train.run import check_folder


def main(config: Cifar) -> Ann:
    """Trains the network that `config` describes."""
    check(config, side=32)
    check_folder(config)
    model = ann.load(config.init_from).model if config.init_from else None
    config = recipe(config, model)
    preprocessing = data.info(config.dataset, config.data_dir)
    return trained(config, model, preprocessing, data.load(config.dataset, "train", config.data_dir))


def trained(config: Cifar, model: nn.Module | None, preprocessing: Preprocessing, images: Examples) -> Ann:
    """Trains `model`, or the network of the `recipe` if it is None, on these images."""
    model = model.clone(act=activation(config)) if model else new(config, len(preprocessing.class_names))
    network = initial_network(config, model, preprocessing, images)
    assert network.preprocessing is not None
    return fit(network, images, config, augmentation(config, network.preprocessing))


def augmentation(config: Cifar, preprocessing: Preprocessing) -> Callable:
    """`(pixels [B, H, W, C], key) -> pixels`: random crop, flip, and the other augmentations of `config`."""
    mean, flipped = [255 * m for m in preprocessing.mean], getattr(config, "flip", True)

    def augmented(
        pixels: UInt8[jax.Array, "batch height width channels"], key: Key
    ) -> UInt8[jax.Array, "batch height width channels"]:
        crop_key, flip_key, cutout_key = jax.random.split(key, 3)
        pixels = augment.crop(pixels, crop_key, config.pad)
        pixels = augment.flip(pixels, flip_key) if flipped else pixels
        if config.autoaugment:
            pixels = cifar10_policy(pixels, jax.random.fold_in(key, 3))
        return augment.cutout(pixels, cutout_key, config.cutout, fill=mean) if config.cutout else pixels

    return augmented


if __name__ == "__main__":
    cli.run(main, Cifar)

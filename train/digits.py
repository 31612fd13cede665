"""`python -m train.digits`: train a small VGG on the embedded 8x8 digits."""

from configs.digits import Digits
from configs.training import check
from tppjax import cli, data, models
from tppjax.ann import Ann
from tppjax.data import augment
from train.initial_network import activation, initial_network
from train.loop import fit
from train.run import check_folder


def main(config: Digits) -> Ann:
    """Trains the network that `config` describes; augmentation is a random shift by one pixel."""
    check(config)
    check_folder(config)
    preprocessing = data.info("digits")
    model = models.create("vgg_small", len(preprocessing.class_names), activation(config))
    images = data.load("digits", "train")
    network = initial_network(config, model, preprocessing, images)
    return fit(network, images, config, lambda pixels, key: augment.crop(pixels, key, pad=1))


if __name__ == "__main__":
    cli.run(main, Digits)

"""`python -m train.imagenet`: train on ImageNet, or on pictures of your own that were prepared like it."""

from configs.imagenet import Imagenet, recipe
from configs.training import check
from tppjax import ann, cli, data
from tppjax.ann import Ann
from tppjax.data import augment
from train.initial_network import activation, initial_network, new
from train.loop import fit
from train.run import check_folder


def main(config: Imagenet) -> Ann:
    """Trains the network that `config` describes; a random part of each picture is read, and mirrored at random."""
    check(config)
    check_folder(config)
    initial = ann.load(config.init_from) if config.init_from else None
    config = recipe(config, initial and initial.model, initial and initial.preprocessing)
    options = {name: getattr(config, name) for name in ("size", "resize", "interpolation")}
    preprocessing = data.info("imagenet2012", config.data_dir, **options)
    model = initial.model.clone(act=activation(config)) if initial else new(config, len(preprocessing.class_names))
    images = data.load("imagenet2012", "train", config.data_dir, preprocessing=preprocessing, workers=config.workers)
    return fit(initial_network(config, model, preprocessing, images), images, config, augment.flip)


if __name__ == "__main__":
    cli.run(main, Imagenet)

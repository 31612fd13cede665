"""`python -m train.own`: train a ResNet or VGG on images of your own."""

from configs.cifar import recipe
from configs.own import Own
from configs.training import check, with_defaults
from tppjax import ann, cli, data
from tppjax.ann import Ann
from tppjax.errors import InputError
from train.cifar import trained
from train.run import check_folder


def main(config: Own) -> Ann:
    """Trains the network that `config` describes."""
    check(config)
    check_folder(config)
    if config.size is not None and config.dataset != "folder":
        raise InputError(f"--size is an option of the data set folder; got --dataset {config.dataset}")
    model = ann.load(config.init_from).model if config.init_from else None
    config = recipe(config, model)
    options = {"size": config.size} if config.dataset == "folder" else {}
    preprocessing = data.info(config.dataset, config.data_dir, **options)
    *sides, channels = preprocessing.input_shape
    if config.autoaugment and channels != 3:
        raise InputError(f"--autoaugment is for images of three channels; those in {config.data_dir} have {channels}")
    config = with_defaults(config, pad=min(sides) // 8)
    check(config, side=min(sides))
    images = data.load(config.dataset, "train", config.data_dir, preprocessing=preprocessing)
    return trained(with_defaults(config, validation=max(1, len(images) // 10)), model, preprocessing, images)


if __name__ == "__main__":
    cli.run(main, Own)

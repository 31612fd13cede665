"""The commands in the recipes' docstrings make the networks that the paper's tables are of."""

import re

import pytest
import tyro

from configs import cifar as cifar_recipes
from configs import dvs as dvs_recipes
from configs import imagenet as imagenet_recipes
from convert import paper
from tppjax.ann import Ann
from tppjax.data import Preprocessing
from train import cifar, dvs, imagenet

COMMANDS = {
    "cifar": (cifar_recipes.Cifar, cifar_recipes.recipe, cifar),
    "imagenet": (imagenet_recipes.Imagenet, imagenet_recipes.recipe, imagenet),
    "dvs": (dvs_recipes.Dvs, dvs_recipes.recipe, dvs),
}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000, "cifar10_dvs": 10}
DATASETS = {"imagenet": "imagenet2012", "dvs": "cifar10_dvs"}


def networks():
    """Each command in the docstrings, with the network that it trains."""
    for name, (options, recipe, command) in COMMANDS.items():
        for line in re.findall(rf"python -m train\.{name} (.*)", options.__doc__):
            config = recipe(tyro.cli(options, args=line.split()))
            dataset = getattr(config, "dataset", None) or DATASETS[name]
            info = Preprocessing(dataset, (32, 32, 3), (0.0,) * 3, (1.0,) * 3, ("",) * CLASSES[dataset])
            yield line, Ann({}, command.new(config, CLASSES[dataset]), info)


def row(found):
    return found["dataset"], found["arch"], found["base"], found["table"]


def test_every_row_of_tables_1_to_7_has_a_command():
    wanted = {row(found) for found in paper.tables()["accuracy"] if found["method"] in paper.METHODS.values()}
    made = {
        row(found) for _, network in networks() for mode in paper.METHODS for found in paper.accuracy(network, mode)
    }
    # A base that trained none of our kind (RegNet) stands in the tables for comparison only.
    assert wanted - made <= {("imagenet2012", "regnetx_4gf", "rts", "1")}


@pytest.mark.parametrize(
    ("line", "network"), list(networks()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_makes_a_network_of_the_tables(line, network):
    assert any(paper.accuracy(network, mode) for mode in paper.METHODS)

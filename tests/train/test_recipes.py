"""The commands in the recipes' docstrings make the networks that the paper's tables are of."""

import re

import pytest
import tyro

from configs import cifar as cifar_recipes
from configs import dvs as dvs_recipes
from configs import imagenet as imagenet_recipes
from configs.training import NUMBERS
from convert.experiments import paper
from tppjax.errors import InputError
from tppjax.neurons import MAX_STEPS
from train import cifar, dvs, imagenet
from train.initial_network import new

COMMANDS = {
    "cifar": (cifar_recipes.Cifar, cifar_recipes.recipe, cifar),
    "imagenet": (imagenet_recipes.Imagenet, imagenet_recipes.recipe, imagenet),
    "dvs": (dvs_recipes.Dvs, dvs_recipes.recipe, dvs),
}
CLASSES = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000, "cifar10_dvs": 10}
DATASETS = {"imagenet": "imagenet2012", "dvs": "cifar10_dvs"}


def networks():
    """Each command in the docstrings, with the network that it trains."""
    for name, (options, recipe, _) in COMMANDS.items():
        for line in re.findall(rf"python -m train\.{name} (.*)", options.__doc__):
            config = recipe(tyro.cli(options, args=line.split()))
            dataset = getattr(config, "dataset", None) or DATASETS[name]
            yield line, (new(config, CLASSES[dataset]), dataset)


def row(found):
    return found["dataset"], found["arch"], found["base"], found["table"]


def test_every_row_of_tables_1_to_7_has_a_command():
    wanted = {row(found) for found in paper.tables()["accuracy"] if found["method"] in paper.METHODS.values()}
    made = {
        row(found) for _, network in networks() for mode in paper.METHODS for found in paper.accuracy(*network, mode)
    }
    # A base that trained none of our kind (RegNet) stands in the tables for comparison only.
    assert wanted - made <= {("imagenet2012", "regnetx_4gf", "rts", "1")}


@pytest.mark.parametrize(
    ("line", "network"), list(networks()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_makes_a_network_of_the_tables(line, network):
    assert any(paper.accuracy(*network, mode) for mode in paper.METHODS)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cifar", {"lr": float("inf")}, "--lr must be a finite number; got inf"),
        ("cifar", {"lr": float("nan")}, "--lr must be a finite number; got nan"),
        ("cifar", {"momentum": float("nan")}, "--momentum must be a finite number; got nan"),
        ("cifar", {"momentum": 1.5}, "--momentum must be at most"),
        ("cifar", {"weight_decay": float("inf")}, "--weight_decay must be a finite number"),
        ("cifar", {"act": "clipped_relu", "bound": float("inf")}, "--bound must be a finite number"),
        ("cifar", {"L": 10**30}, "--L must be at most 4096"),
        ("cifar", {"batch_size": 10**30}, "--batch_size must be at most"),
        ("cifar", {"seed": -1}, "--seed must be at least 0; got -1"),
        ("cifar", {"seed": 2**32}, "--seed must be at most 4294967295"),
        ("cifar", {"pad": 100_000}, "--pad must be at most 32; got 100000"),
        ("cifar", {"cutout": 33}, "--cutout must be at most 32; got 33"),
        ("cifar", {"hidden": (4096, 0)}, "--hidden must be above 0; got 0"),
        ("cifar", {"width": 10**9}, "--width must be at most 64"),
        ("imagenet", {"size": 10**400}, "--size must be at most 4096"),
        ("imagenet", {"workers": -1}, "--workers must be at least 0"),
        ("dvs", {"pad": 65}, "--pad must be at most 64; got 65"),
        ("dvs", {"frames": 0}, "--frames must be above 0"),
    ],
)
def test_numbers_out_of_range_are_refused_at_once(name, options, said, tmp_path):
    kind, _, command = COMMANDS[name]
    with pytest.raises(InputError, match=said):
        command.main(kind(out=tmp_path / "run", data_dir=tmp_path, **options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_in_use_is_refused_before_data_is_read(name, tmp_path):
    kind, _, command = COMMANDS[name]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    with pytest.raises(FileExistsError, match="is not empty: choose another --out"):
        command.main(kind(out=tmp_path / "run", data_dir=tmp_path))
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        command.main(kind(out=tmp_path / "other", data_dir=tmp_path, resume=True))


def test_a_stem_is_for_resnets():
    assert dvs_recipes.recipe(dvs_recipes.Dvs("")).stem == "imagenet"
    assert dvs_recipes.recipe(dvs_recipes.Dvs("", stem="cifar")).stem == "cifar"
    assert dvs_recipes.recipe(dvs_recipes.Dvs("", arch="vgg16")).stem is None
    with pytest.raises(InputError, match="vgg16 has stem=None; got --stem cifar"):
        dvs_recipes.recipe(dvs_recipes.Dvs("", arch="vgg16", stem="cifar"))


def test_as_many_levels_as_steps():
    assert NUMBERS["L"][1] == MAX_STEPS

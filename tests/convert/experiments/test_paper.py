"""Every row of the paper's tables 1 to 7 is found for the network it is of, and for no other."""

import pytest

from convert.experiments import paper
from tppjax import models
from tppjax.activations import QCFS, ClippedReLU, ReLU

ACTS = {"qcfs": QCFS, "rts": ClippedReLU, "snnc": ReLU}
MODES = {"baseline": "baseline", "permute": "shuffle", "tpp": "tpp"}
HIDDEN = {"hidden": (4096, 4096), "pool": "avg"}
# Data set, network and base of each row, with options of the network and of its activation.
NETWORKS = {
    ("cifar10", "resnet20", "qcfs"): ({"width": 1}, {"L": 8}),
    ("cifar10", "resnet20", "rts"): ({"width": 1}, {}),
    ("cifar10", "resnet20", "snnc"): ({"width": 4}, {}),
    ("cifar10", "vgg16", "qcfs"): (HIDDEN, {"L": 4}),
    ("cifar10", "vgg16", "rts"): (HIDDEN, {"bound": 1.0}),
    ("cifar10", "vgg16", "snnc"): ({"hidden": ()}, {}),
    ("cifar100", "resnet20", "qcfs"): ({"width": 1}, {"L": 8}),
    ("cifar100", "resnet20", "rts"): ({"width": 1}, {}),
    ("cifar100", "resnet20", "snnc"): ({"width": 4}, {}),
    ("cifar100", "vgg16", "qcfs"): (HIDDEN, {"L": 4}),
    ("cifar100", "vgg16", "rts"): (HIDDEN, {"bound": 2.0}),
    ("cifar100", "vgg16", "snnc"): ({"hidden": ()}, {}),
    ("imagenet2012", "resnet34", "qcfs"): ({"stem": "cifar"}, {"L": 8}),
    ("imagenet2012", "resnet34", "snnc"): ({"stem": "deep", "pool": "avg"}, {}),
    ("imagenet2012", "vgg16", "qcfs"): (HIDDEN, {"L": 16}),
    ("imagenet2012", "vgg16", "rts"): (HIDDEN, {"bound": 3.0}),
    ("imagenet2012", "vgg16", "snnc"): (HIDDEN, {}),
    ("imagenet2012", "regnetx_4gf", "rts"): ({}, {}),
    ("imagenet2012", "regnetx_4gf", "snnc"): ({}, {}),
    ("cifar10_dvs", "resnet18", "snnc"): ({"stem": "imagenet", "pool": "avg"}, {}),
}
ROWS = [row for row in paper.tables()["accuracy"] if row["method"] in MODES]


def network(dataset, arch, base, options=None, act=None):
    """Model and data set; what is not given is as in `NETWORKS`."""
    known = NETWORKS.get((dataset, arch, base), ({}, {}))
    model = models.create(arch, 10, ACTS[base](**known[1] | (act or {})), **known[0] | (options or {}))
    return model, dataset


@pytest.mark.parametrize(
    "row", ROWS, ids=lambda row: "-".join(row[k] for k in ("table", "dataset", "arch", "base", "method"))
)
def test_each_row_is_found_by_its_network(row):
    found = paper.accuracy(*network(row["dataset"], row["arch"], row["base"]), MODES[row["method"]])
    accuracy = {int(T): value for T, value in row["accuracy"].items()}
    assert {**row, "accuracy": accuracy} in found
    assert len(found) == len({f["table"] for f in found})


def test_figures():
    qcfs = network("cifar10", "resnet20", "qcfs")
    (row,) = paper.accuracy(*qcfs, "tpp")
    assert (row["table"], row["ann"], row["accuracy"][4], row["accuracy"][8]) == ("7", 92.43, 86.24, 92.08)
    assert paper.source(row) == "table 7, ANN 92.43 %"
    (row,) = paper.accuracy(*network("cifar10_dvs", "resnet18", "snnc"), "tpp")
    assert paper.source(row) == "table 2"
    rows = paper.accuracy(*network("cifar100", "vgg16", "qcfs"), "tpp")
    assert [(row["table"], row["accuracy"].get(128)) for row in rows] == [("1", 76.52), ("7", None)]
    assert paper.accuracy(*qcfs, "rounded") == []


@pytest.mark.parametrize(
    "other",
    [
        network("digits", "resnet20", "qcfs", act={"L": 8}),
        network("cifar10", "resnet20", "qcfs", act={"L": 4}),
        network("imagenet2012", "vgg16", "qcfs", act={"L": 4}),
        network("cifar10", "resnet20", "snnc", {"width": 1}),
        network("cifar10", "resnet20", "qcfs", {"shortcut": "pad"}),
        network("cifar10", "vgg16", "snnc", {"hidden": (4096, 4096)}),
        network("imagenet2012", "resnet34", "snnc", {"stem": "imagenet"}),
        network("imagenet2012", "vgg16", "snnc", {"pool": "max"}),
        network("imagenet2012", "regnetx_4gf", "snnc", {"widths": (40, 80, 120, 160)}),
        network("cifar10", "vgg_small", "qcfs"),
    ],
    ids=lambda other: other[0].name,
)
def test_other_networks_have_no_row(other):
    assert all(paper.accuracy(*other, mode) == [] for mode in MODES.values())


def test_a_folded_network_is_the_same():
    assert paper.accuracy(*network("imagenet2012", "regnetx_4gf", "snnc", {"norm": False}), "shuffle")


def test_a_network_of_ones_own_has_no_row():
    model, dataset = network("cifar10", "resnet20", "snnc")
    assert paper.accuracy(model.clone(name="mine"), dataset, "tpp") == []

"""The paper's own figures, to stand beside ours."""

import functools
import json
from importlib import resources

from tppjax import activations
from tppjax.ann import Ann

BASES = {activations.QCFS: "qcfs", activations.ClippedReLU: "rts", activations.ReLU: "snnc"}
METHODS = {"baseline": "baseline", "shuffle": "permute", "tpp": "tpp"}
# What the networks of its tables are besides their names, as their authors have them.
NETWORKS = {
    ("qcfs", "resnet20"): {"width": 1, "shortcut": "projection"},
    ("snnc", "resnet20"): {"width": 4, "shortcut": "projection"},
    ("qcfs", "vgg16"): {"hidden": (4096, 4096), "pool": "avg"},
    ("rts", "vgg16"): {"hidden": (4096, 4096), "pool": "avg"},
    ("snnc", "vgg16"): {"hidden": (), "pool": "avg"},
}
LEVELS = {"resnet20": 8, "vgg16": 4}


@functools.cache
def tables() -> dict:
    """Tables 1 and 3 to 11 of the paper; accuracies in percent."""
    return json.loads(resources.files("convert").joinpath("paper_tables.json").read_text())


def accuracy(ann: Ann, mode: str) -> dict:
    """The paper's row with our data set, network, conversion base and mode, uncorrected; {} if it has none.

    Returns:
      `{"table": number, "ann": percent, "accuracy": {T: percent}}`.
    """
    name, act = ann.model.name, ann.model.act
    base = BASES.get(type(act))
    same = all(getattr(ann.model, k) == v for k, v in NETWORKS.get((base, name), {"name": None}).items())
    if not same or (base == "qcfs" and act.L != LEVELS[name]):
        return {}
    wanted = (ann.preprocessing.dataset, name, base, METHODS.get(mode))
    for row in tables()["accuracy"]:
        if (row["dataset"], row["arch"], row["base"], row["method"]) == wanted:
            return {**row, "accuracy": {int(T): value for T, value in row["accuracy"].items()}}
    return {}

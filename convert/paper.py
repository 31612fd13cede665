"""The paper's own figures, to stand beside ours."""

import functools
import json
from importlib import resources

from tppjax import activations
from tppjax.ann import Ann

BASES = {activations.QCFS: "qcfs", activations.ClippedReLU: "rts", activations.ReLU: "snnc"}
METHODS = {"baseline": "baseline", "shuffle": "permute", "tpp": "tpp"}


@functools.cache
def tables() -> dict:
    """Tables 1 and 3 to 11 of the paper; accuracies in percent."""
    return json.loads(resources.files("convert").joinpath("paper_tables.json").read_text())


def accuracy(ann: Ann, mode: str) -> dict[int, float]:
    """`{T: percent}` of the paper's row with our data set, architecture, conversion base and mode; {} if none."""
    wanted = (ann.preprocessing.dataset, ann.model.name, BASES.get(type(ann.model.act)), METHODS.get(mode))
    for row in tables()["accuracy"]:
        if (row["dataset"], row["arch"], row["base"], row["method"]) == wanted:
            return {int(T): value for T, value in row["accuracy"].items()}
    return {}

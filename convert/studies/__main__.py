"""`python -m convert.studies NAME`: an experiment of the paper, `all` of them, or the `methods` of the field."""

import functools
import operator
from typing import Annotated, Any

import tyro

from convert.experiments.options import Experiment
from convert.studies import everything, methods, theorem
from tppjax import cli

STUDIES = {
    **{name: (planned.options, planned.module.main) for name, planned in everything.STUDIES.items()},
    "methods": (methods.Methods, methods.main),
    "theorem": (theorem.Theorem, theorem.main),
    "all": (everything.All, everything.main),
}


def main(config: Experiment | theorem.Theorem) -> None:
    """Runs the study to which the options belong."""
    dict(STUDIES.values())[type(config)](config)


def options() -> Any:
    """The union of the studies' options, with a subcommand for each study."""
    kinds = (Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)] for name, (kind, _) in STUDIES.items())
    return functools.reduce(operator.or_, kinds)


if __name__ == "__main__":
    cli.run(main, options())

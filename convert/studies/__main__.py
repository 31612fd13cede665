"""`python -m convert.studies NAME`: an experiment of the paper, `all` of them, or the `methods` of the field."""

from typing import Annotated

import tyro

from convert.studies import everything, methods, theorem
from tppjax import cli

STUDIES = {
    **{name: (planned.options, planned.module.main) for name, planned in everything.STUDIES.items()},
    "methods": (methods.Methods, methods.main),
    "theorem": (theorem.Theorem, theorem.main),
    "all": (everything.All, everything.main),
}


def main(config) -> None:
    """Runs the study whose options these are."""
    dict(STUDIES.values())[type(config)](config)


def options():
    """One subcommand for each study."""
    union = None
    for name, (kind, _) in STUDIES.items():
        one = Annotated[kind, tyro.conf.subcommand(name, prefix_name=False)]
        union = one if union is None else union | one
    return union


if __name__ == "__main__":
    cli.run(main, options())

"""`python -m tests.fuzz`: damaged files, senseless options and wrong arguments, each input drawn from its number alone.

Whatever it is, it must be refused within seconds by an `InputError` or an `OSError`, a command by one sentence and
status 2; or a damaged file must be read as if it were whole. A traceback, a hang, and what is taken without a word are
problems, and printed with their number: `--first NUMBER --inputs 1` does one again.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from tests.fuzz.arguments import arguments, fuzz_argument
from tests.fuzz.damage import fuzz_file, subjects
from tests.fuzz.options import fuzz_option


@dataclass(frozen=True)
class Fuzz:
    """Give the library what it should refuse."""

    inputs: int = 3000
    """How many."""

    first: int = 0
    """Number of the first."""


def problems(first: int, inputs: int, folder: Path) -> list[str]:
    """What is wrong with how these inputs are met; `folder` is for files."""
    made, calls, found = subjects(folder), arguments(), []
    for number in tqdm(range(first, first + inputs), disable=None):
        rng = np.random.default_rng(number)
        kind, argument = ((fuzz_file, made), (fuzz_option, folder), (fuzz_argument, calls))[number % 3]
        if problem := kind(rng, argument):
            found.append(f"{number}: {problem}")
    return found


def main(config: Fuzz) -> None:
    """Prints every problem; status 1 if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        found = problems(config.first, config.inputs, Path(folder))
    print("\n".join([*found, f"{config.inputs} inputs, {len(found)} problems"]))
    sys.exit(bool(found))


if __name__ == "__main__":
    main(tyro.cli(Fuzz))

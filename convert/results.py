"""What a command measured, kept as it goes: a run that was cut short, or is asked for more, computes only the rest."""

import json
import os
import shlex
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jax

from tppjax import sharding
from tppjax.errors import InputError

FILE = "results.json"


@dataclass
class Results:
    """The rows in `folder/results.json`, all measured with the same settings.

    Attributes:
      folder: where the file is.
      settings: all that a row depends on besides its own entries: the network, the data, the options.
      rows: so far; each with the command, the hardware and the versions that made it.
      program: module of that command.
    """

    folder: Path
    settings: dict
    rows: list[dict]
    program: str

    @classmethod
    def open(cls, folder: Path, settings: dict, program: str, overwrite: bool = False) -> "Results":
        """The rows that are in `folder` already, if any.

        Raises:
          FileExistsError: if they were measured with other settings, unless they may be overwritten; says which.
          InputError: if the file is damaged.
        """
        settings = json.loads(json.dumps(settings))  # as they come back from the file
        file = folder / FILE
        if overwrite or not file.is_file():
            return cls(folder, settings, [], program)
        try:
            before = json.loads(file.read_text())
            rows = before.pop("rows")
            for row in rows:
                _ = row["command"], row["hardware"], row["versions"]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
            raise InputError(f"{file} is damaged ({e!r}): move it away, or give --overwrite") from e
        if other := _differences(before, settings):
            listed = "; ".join(other)
            raise FileExistsError(
                f"{folder} holds results of other settings, choose another --out or give --overwrite: {listed}"
            )
        return cls(folder, settings, rows, program)

    def find(self, **entries) -> dict | None:
        """The row with these entries."""
        return next((row for row in self.rows if entries.items() <= row.items()), None)

    def add(self, row: dict, instead_of: dict | None = None) -> dict:
        """Adds the row, in place of another if one is given, and writes the file, whole or not at all."""
        row = {**row, **about(self.program)}
        self.rows = [r for r in self.rows if r is not instead_of] + [row]
        if not sharding.primary():
            return row
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / f".{FILE}.new"
        new.write_text(json.dumps({**self.settings, "rows": self.rows}, indent=2) + "\n")
        os.replace(new, self.folder / FILE)
        return row


@contextmanager
def all_or_none(folder: Path):
    """A new folder, whose files are moved to `folder` in the end, if nothing went wrong."""
    with tempfile.TemporaryDirectory(dir=folder) as made:
        yield Path(made)
        for file in Path(made).iterdir():
            os.replace(file, folder / file.name)


def about(program: str) -> dict:
    """The command, a module with its options, the hardware and the versions that figures depend on."""
    return {
        "command": shlex.join(["python", "-m", program, *sys.argv[1:]]),
        "hardware": _hardware(),
        "versions": {name: metadata.version(name) for name in ("tppjax", "jax", "flax")},
    }


def _hardware() -> str:
    hosts = f"{jax.process_count()} hosts, " if jax.process_count() > 1 else ""
    return f"{hosts}{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} CPU cores"


def _differences(before: dict, now: dict) -> list[str]:
    differ = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            differ += [f"{name}.{line}" for line in _differences(old, new)]
        elif old != new:
            differ.append(f"{name} was {old}, is {new}")
    return differ

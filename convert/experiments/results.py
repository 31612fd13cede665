"""What a command measured, kept as it goes: a run that was cut short, or is asked for more, computes only the rest."""

import hashlib
import json
import os
import reprlib
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import jax

from tppjax import files, sharding
from tppjax.errors import InputError

FILE = "results.json"
REMEDY = "move it away, or give --overwrite"
RANGES = {"T": (1, 2**31), "seeds": (1, 2**31), **dict.fromkeys(("accuracy", "mean", "std", "ann"), (0, 100))}
RANGES |= dict.fromkeys(("seconds", "spikes_per_neuron"), (0, float("inf")))
MADE = {"command": str, "hardware": str, "versions": dict}  # of every row


@dataclass
class Results:
    """The rows in `folder/results.json`, all measured with the same settings.

    Attributes:
      folder: where the file is.
      settings: all that a row depends on besides its own entries: the network, the data, the options.
      rows: those that were there in the beginning and are of use, and those added since.
      program: module of the command.
      entries: what each row has, with its type.
      replaced: what the file held, if it is to be overwritten by the first row.
      ann: accuracy of the ANN in percent, kept beside the rows.
    """

    folder: Path
    settings: dict
    rows: list[dict]
    program: str
    entries: dict[str, type]
    replaced: bytes | None = None
    ann: float | None = None

    @classmethod
    def open(
        cls, folder: Path, settings: dict, program: str, overwrite: bool = False, entries: dict[str, type] | None = None
    ) -> "Results":
        """The rows that are in `folder` already, if any; the folder is made.

        Raises:
          FileExistsError: if they were measured with other settings, unless they may be overwritten; says which.
          InputError: if the file is damaged.
          OSError: if the folder can't be made or written to.
        """
        make_folder(folder)
        settings = json.loads(json.dumps(settings))  # as they come back from the file
        opened = cls(folder, settings, [], program, entries or {})
        file = folder / FILE
        if overwrite:
            opened.replaced = file.read_bytes() if file.is_file() else None
        else:
            opened.rows = opened.all_rows()
        return opened

    def all_rows(self) -> list[dict]:
        """The rows in the file, those that other processes added meanwhile too; errors as `open`."""
        if not (self.folder / FILE).is_file():
            return []
        before, rows = read(self.folder / FILE, self.entries)
        if other := _differences(before, self.settings):
            listed = "; ".join(other)
            raise FileExistsError(
                f"{self.folder} holds results of other settings, choose another --out or give --overwrite: {listed}"
            )
        return rows

    def find(self, **case) -> dict | None:
        """The row with these entries."""
        return next((row for row in self.rows if case.items() <= row.items()), None)

    def add(self, case: dict, measured: dict) -> dict:
        """Adds what was measured to the file, whole or not at all, beside what other processes have added.

        Args:
          case: the entries that tell this row from others; a row with the same ones is replaced if it has fewer seeds,
            or is of another version of a neuron ("source").
          measured: its other entries.

        Returns:
          The row.

        Raises:
          FileExistsError, InputError: as `open`, if the file was changed meanwhile.
        """
        row = {**case, **measured, **about(self.program)}
        self.rows = [r for r in self.rows if not case.items() <= r.items()] + [row]
        if sharding.primary():
            with files.locked(self.folder):
                self._write(case, row)
        return row

    def _write(self, case: dict, row: dict) -> None:
        file = self.folder / FILE
        fresh = self.replaced is not None and file.is_file() and file.read_bytes() == self.replaced
        rows = [] if fresh else self.all_rows()
        there = next((r for r in rows if case.items() <= r.items()), None)
        if there is None or _size(there) < _size(row) or there.get("source") != row.get("source"):
            rows = [r for r in rows if r is not there] + [row]
        content = {**self.settings, "rows": rows} | ({} if self.ann is None else {"ann": self.ann})
        files.write_json(file, {**content, "sha256": _digest(content)})


def read(file: Path, entries: dict[str, type]) -> tuple[dict, list[dict]]:
    """Settings and rows of a results.json.

    Raises:
      InputError: if it is damaged, or a row lacks one of the `entries` or has it of another type or out of range.
    """
    content = files.read_json(file, REMEDY)
    written = content.pop("sha256", None)  # version 0.1 had none, and no accuracy of the ANN
    try:
        rows, where = content["rows"], "rows"
        if not isinstance(rows, list):
            raise InputError("is not a list")
        for i, row in enumerate(rows, 1):
            where = f"row {i}"
            _check_row(row, {**entries, **MADE})
        where = "ann"
        _check_range("ann", content.get("ann", 0))
        where = "its digest"
        if written is not None and written != _digest(content):
            raise InputError("is not as it was written")
    except (InputError, KeyError) as e:
        problem = f"{where} {e}" if isinstance(e, InputError) else f"no {e}"
        raise InputError(f"{file} is damaged ({problem}): {REMEDY}") from e
    return {name: value for name, value in content.items() if name not in ("ann", "rows")}, rows


def _check_row(row, entries: dict[str, type]) -> None:
    if not isinstance(row, dict):
        raise InputError("is not an object")
    for name, kind in entries.items():
        if name not in row:
            raise InputError(f"has no {name}")
        if isinstance(row[name], bool) or not isinstance(row[name], int | float if kind is float else kind):
            raise InputError(f"has {name}={reprlib.repr(row[name])}, not {kind.__name__}")
    if not isinstance(row.get("mode", ""), str):
        raise InputError(f"has mode={reprlib.repr(row['mode'])}, not a name")
    for name in RANGES.keys() & row.keys():
        _check_range(name, row[name])


def _check_range(name: str, value) -> None:
    (low, high), numbers = RANGES[name], list(_numbers(value))
    if not numbers or not all(type(n) in (int, float) and low <= n <= high for n in numbers):
        raise InputError(f"has {name}={reprlib.repr(value)}, not between {low} and {high}")


def _numbers(value) -> Iterator:
    """What lists of lists hold."""
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    else:
        yield value


def _size(row: dict) -> int:
    return len(list(_numbers(row.get("accuracy"))))


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_folder(folder: Path) -> None:
    """Makes the folder, so that one that can't be made or written to is refused before anything is computed.

    Raises:
      FileExistsError: if a file is there.
      OSError: if it can't be made or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, not a folder: choose another --out")
    if sharding.primary():
        with files.locked(folder):
            pass


@contextmanager
def all_or_none(folder: Path):
    """A new folder, whose files are moved to `folder` in the end, if nothing went wrong; others wait meanwhile."""
    with files.locked(folder):
        made = folder / ".new"
        shutil.rmtree(made, ignore_errors=True)  # of one that was killed
        made.mkdir()
        try:
            yield made
            for file in made.iterdir():
                os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(made, ignore_errors=True)


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

"""Measured rows, saved one by one: a run that was cut short, or that is to measure more, computes only the rest."""

import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tppjax import files, sharding
from tppjax.errors import InputError

FILE = "results.json"
REMEDY = "move it away, or give --overwrite"


@dataclass
class Results:
    """The rows in `folder/results.json`, all measured with the same settings.

    Attributes:
      folder: the folder of the file.
      settings: all that a row depends on besides its own entries: the network, the data, the options.
      rows: the usable rows that the file held in the beginning, and those added since.
      program: the module of the command.
      replaced: the old content of the file, if the first row is to overwrite it.
      ann: accuracy of the ANN in percent, saved beside the rows.
    """

    folder: Path
    settings: dict
    rows: list[dict]
    program: str
    replaced: bytes | None = None
    ann: float | None = None

    @classmethod
    def open(cls, folder: Path, settings: dict, program: str, overwrite: bool = False) -> "Results":
        """The results in `folder`, which is made if necessary; without rows if there are none yet.

        Raises:
          FileExistsError: if they were measured with other settings, which the message lists, and may not be
            overwritten.
          InputError: if the file is damaged.
          OSError: if the folder can't be made or written to.
        """
        make_folder(folder)
        settings = json.loads(json.dumps(settings))  # as they come back from the file
        opened = cls(folder, settings, [], program)
        file = folder / FILE
        if overwrite:
            opened.replaced = file.read_bytes() if file.is_file() else None
        else:
            opened.rows = opened.all_rows()
        return opened

    def all_rows(self) -> list[dict]:
        """The rows in the file, with those that other processes have added. Errors as `open`."""
        if not (self.folder / FILE).exists():
            return []
        before, rows = read(self.folder / FILE)
        known = {"model": self.settings.get("model")}  # the network is compared by its fingerprint, not by its name
        if other := _differences({**before, **known}, {**self.settings, **known}):
            listed = "; ".join(other)
            raise FileExistsError(
                f"{self.folder} holds results of other settings, choose another --out or give --overwrite: {listed}"
            )
        return rows

    def find(self, **case: Any) -> dict | None:
        """The row with these entries."""
        return next((row for row in self.rows if case.items() <= row.items()), None)

    def add(self, case: dict, measured: dict) -> dict:
        """Adds a row to the file, which is written whole or not at all and keeps the rows of other processes.

        Args:
          case: the entries that identify the row. It replaces a row with the same entries that has fewer seeds, or
            belongs to another version of a neuron ("source").
          measured: the other entries of the row.

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
        existing = next((r for r in rows if case.items() <= r.items()), None)
        if (
            existing is None
            or np.size(existing.get("accuracy", 0)) < np.size(row.get("accuracy", 0))
            or existing.get("source") != row.get("source")
        ):
            rows = [r for r in rows if r is not existing] + [row]
        content = {**self.settings, "rows": rows} | ({} if self.ann is None else {"ann": self.ann})
        files.write_json(file, {**content, "sha256": _digest(content)})


def read(file: Path) -> tuple[dict, list[dict]]:
    """The settings and rows of a results.json.

    Raises:
      InputError: if it is not as it was written.
    """
    content = files.read_json(file, REMEDY)
    if content.pop("sha256", None) != _digest(content):
        raise InputError(f"{file} is damaged (it is not as it was written, by its digest): {REMEDY}")
    return {name: value for name, value in content.items() if name not in ("ann", "rows")}, content["rows"]


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_folder(folder: Path) -> None:
    """Makes the folder, so that one that can't be made or written to is refused before anything is computed.

    Raises:
      FileExistsError: if it is a file.
      OSError: if it can't be made or written to.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file, not a folder: choose another --out")
    if sharding.primary():
        with files.locked(folder):
            pass


@contextmanager
def all_or_none(folder: Path) -> Iterator[Path]:
    """A new folder, whose files are moved to `folder` at the end unless an error occurs; other processes wait."""
    with files.locked(folder):
        new = folder / ".new"
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
        new.mkdir()
        try:
            yield new
            for file in new.iterdir():
                os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def about(program: str) -> dict:
    """The command, the hardware and the versions that measurements depend on; `program` is the command's module."""
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

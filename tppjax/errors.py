"""The error for what the user can correct: options, files and arguments."""

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class InputError(ValueError):
    """An option, a file or an argument can't be used; the message says what is wrong, where, and what to do.

    Commands print it as one line. Every other error keeps its traceback, since it may be a bug.
    """


class Stopped(KeyboardInterrupt):
    """A signal ended the work at a point from which it can continue; the message says how.

    Attributes:
      status: exit status of the process, 128 plus the number of the signal.
    """

    def __init__(self, sentence: str, signum: int) -> None:
        super().__init__(sentence)
        self.status = 128 + signum


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """A context for imports of packages that the extra called `name` installs.

    Raises:
      InputError: if one of them is missing; says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as e:
        raise InputError(f"{e.name} is not installed: pip install 'tppjax[{name}]'") from None


@contextlib.contextmanager
def refusing(problem: str, remedy: str = "", kinds: Any = Exception) -> Iterator[None]:
    """A context in which errors of these kinds become one InputError: `problem (the error in brief): remedy`.

    By default these are all errors except InputErrors, which are clear already, and a lack of memory.
    """
    try:
        yield
    except kinds as e:
        if kinds is Exception and isinstance(e, InputError | MemoryError):
            raise
        text = str(e) if isinstance(e, InputError) else brief(e)
        raise InputError(f"{problem} ({text}): {remedy}" if remedy else f"{problem}: {text}") from e


def brief(e: Exception) -> str:
    """The error of another library in one short line: its type, and the first line of its text."""
    line = next(iter(str(e).strip().splitlines()), "")
    return f"{type(e).__name__}: {line}".removesuffix(": ")[:200]


def check_paths(options: Any) -> None:
    """Raises InputError if an option of a dataclass that is a path was given as text, which only commands convert."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.type in (Path, Path | None) and isinstance(value, str):
            raise InputError(f"{field.name} must be a pathlib.Path: give {field.name}=Path({value!r})")


def check_number(name: str, value: Any, least: float = 0, most: float = math.inf, above: bool = False) -> None:
    """Raises InputError unless `value`, called `name`, is a finite number from `least`, or `above` it, to `most`."""
    if not _is_number(value) or not -math.inf < value < math.inf:
        raise InputError(f"{name} must be a finite number; got {value!r}")
    if not (value > least if above else value >= least):
        raise InputError(f"{name} must be {'above' if above else 'at least'} {least}; got {value}")
    if value > most:
        raise InputError(f"{name} must be at most {most}; got {value}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_count(name: str, value: Any, least: int = 1, most: float = math.inf) -> None:
    """Raises InputError unless `value`, called `name`, is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}; got {value!r}")
    check_number(name, value, least, most)

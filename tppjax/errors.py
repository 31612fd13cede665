"""The error for what the user can mend: options, files and arguments."""

import contextlib
import math
import numbers


class InputError(ValueError):
    """An option, a file or an argument can't be used; the message says what, where, and what to do.

    Commands print it as one line. Everything else keeps its traceback, since it may be a bug.
    """


class Stopped(KeyboardInterrupt):
    """A signal ended the work at a place from which it can go on; the message says how.

    Attributes:
      status: of the process, 128 and the number of the signal.
    """

    def __init__(self, sentence: str, signum: int):
        super().__init__(sentence)
        self.status = 128 + signum


@contextlib.contextmanager
def extra(name: str):
    """Around the imports of what an extra of the package installs.

    Raises:
      InputError: if something is not there; says what to install.
    """
    try:
        yield
    except ModuleNotFoundError as e:
        raise InputError(f"{e.name} is not installed: pip install 'tppjax[{name}]'") from e


def brief(e: Exception) -> str:
    """What another library's error says, in one line that is not too long: its type, and the first line of its text."""
    line = next(iter(str(e).strip().splitlines()), "")
    return f"{type(e).__name__}: {line}".removesuffix(": ")[:200]


def check_number(name: str, value, least=0, most=math.inf, above: bool = False) -> None:
    """Raises InputError unless `value`, called `name`, is a finite number from `least`, or `above` it, to `most`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not -math.inf < value < math.inf:
        raise InputError(f"{name} must be a finite number; got {value!r}")
    if not (value > least if above else value >= least):
        raise InputError(f"{name} must be {'above' if above else 'at least'} {least}; got {value}")
    if value > most:
        raise InputError(f"{name} must be at most {most}; got {value}")


def check_count(name: str, value, least: int = 1) -> None:
    """Raises InputError unless `value`, called `name`, is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}; got {value!r}")

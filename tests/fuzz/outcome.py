"""How a call ends: refused in time and with a sentence, or with a problem."""

import contextlib
import io
import signal
from collections.abc import Callable

import numpy as np

from tppjax.errors import InputError

SECONDS = 30  # for one input, on a busy machine


class Hang(BaseException):
    """The time is over; nothing may catch it."""


class Taken(BaseException):
    """A command came past its checks; nothing may catch it."""


def refused(call: Callable) -> tuple[object, str | None]:
    """What the call gives, None if it refuses; and what is wrong with how it ends, if anything is."""
    try:
        with limited(), contextlib.redirect_stdout(io.StringIO()):
            return call(), None
    except (InputError, OSError) as e:
        sentence = str(e)
        return None, None if sentence.strip() and "Traceback" not in sentence else f"says nothing: {sentence!r}"
    except BaseException as e:
        return None, f"{type(e).__name__}: {str(e)[:200]}"


@contextlib.contextmanager
def limited():
    """Raises `Hang` after `SECONDS`."""

    def ring(signum, frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def choose(rng: np.random.Generator, table: dict):
    names = list(table)
    name = names[int(rng.integers(len(names)))]
    return name, table[name]

"""Commands: options from a frozen dataclass, and bad input answered with one sentence."""

import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import jax
import tyro

from tppjax import memory, sharding
from tppjax.errors import InputError, Stopped, brief

LESS = "use fewer or smaller images, or a smaller batch"


def run(main: Callable, options: Any) -> None:
    """Calls `main` with the `options` of the command line; bad input prints one sentence and exits with status 2.

    Bad input is what our code raises as `InputError`, and what the operating system refuses (`OSError`); any other
    error keeps its traceback, since it is a bug. Compiled programs are cached in the user's cache folder, or in
    JAX_COMPILATION_CACHE_DIR. With the option `distributed`, the hosts are joined first, and only the first one prints.
    """
    memory.keep()
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue] - JAX adds it late
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "tppjax"))
    try:
        config = tyro.cli(options)
        if getattr(config, "distributed", False):
            sharding.join_hosts()
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if sharding.primary() else nowhere):
            main(config)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Stopped as e:
        _end(str(e), e.status)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except InputError as e:
        _end(f"error: {e}", 2)
    except OSError as e:
        _end(f"error: {_refused(e)}", 2)
    except MemoryError:
        _end(f"error: there is not enough memory; {LESS}", 2)
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        _end(f"error: the device has not enough memory ({brief(e)}); {LESS}", 2)


def _refused(e: OSError) -> str:
    """Our own sentence, or that of the operating system with the name of the file."""
    if e.errno is None:
        return str(e)
    files = " and ".join(str(f) for f in (e.filename, e.filename2) if f is not None)
    return f"{files}: {e.strerror}" if files else f"a file could not be read or written: {e.strerror}"


def _end(sentence: str, status: int) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(status)

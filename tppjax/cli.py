"""Commands: options from a frozen dataclass, and bad input answered with one sentence."""

import os
import sys
from contextlib import redirect_stdout

import jax
import tyro

from tppjax import memory, sharding
from tppjax.errors import InputError, Stopped, brief

LESS = "use fewer or smaller images, or a smaller batch"


def run(main, options: type) -> None:
    """Calls `main` with the `options` read from the command line; bad input ends with its sentence and status 2.

    Bad input is what our code raises as `InputError`, and what the operating system refuses (`OSError`); any other
    error keeps its traceback, since it is a bug. What is compiled is kept in the user's cache folder, or where
    JAX_COMPILATION_CACHE_DIR says. With an option `distributed`, the hosts are joined first, and only the first one
    prints.
    """
    memory.keep()
    if jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "tppjax"))
    try:
        config = tyro.cli(options)
        if getattr(config, "distributed", False):
            sharding.join_hosts()
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if sharding.primary() else nowhere):
            main(config)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has enough
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
        _end(f"error: the memory does not suffice; {LESS}", 2)
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        _end(f"error: the device's memory does not suffice ({brief(e)}); {LESS}", 2)


def _refused(e: OSError) -> str:
    """Our own sentence, or the operating system's with the file that it is about."""
    if e.errno is None:
        return str(e)
    files = " and ".join(str(f) for f in (e.filename, e.filename2) if f is not None)
    return f"{files}: {e.strerror}" if files else f"a file could not be read or written: {e.strerror}"


def _end(sentence: str, status: int) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(status)

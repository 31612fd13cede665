"""Commands: options from a frozen dataclass, and bad input answered with one sentence."""

import os
import sys
from contextlib import redirect_stdout

import jax
import tyro

from tppjax import sharding


def run(main, options: type) -> None:
    """Calls `main` with the `options` read from the command line; bad input ends with its sentence and status 2.

    What is compiled is kept in the user's cache folder, or where JAX_COMPILATION_CACHE_DIR says. With an option
    `distributed`, the hosts are joined first, and only the first one prints.
    """
    config = tyro.cli(options)
    if jax.config.jax_compilation_cache_dir is None:
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "tppjax"))
    try:
        if getattr(config, "distributed", False):
            sharding.join_hosts()
        with open(os.devnull, "w") as nowhere, redirect_stdout(sys.stdout if sharding.primary() else nowhere):
            main(config)
    except (ValueError, FileNotFoundError, FileExistsError) as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)

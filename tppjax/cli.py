"""Commands: options from a frozen dataclass, and bad input answered with one sentence."""

import sys

import tyro


def run(main, options: type) -> None:
    """Calls `main` with the `options` read from the command line; bad input ends with its sentence and status 2."""
    config = tyro.cli(options)
    try:
        main(config)
    except (ValueError, FileNotFoundError, FileExistsError) as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(2)

"""The error for what the user can mend: options, files and arguments."""


class InputError(ValueError):
    """An option, a file or an argument can't be used; the message says what, where, and what to do.

    Commands print it as one line. Everything else keeps its traceback, since it may be a bug.
    """


def check_number(name: str, value, least, most, above: bool = False) -> None:
    """Raises InputError unless `value`, of the option `name`, lies from `least`, or `above` it, to `most`."""
    if not (value > least if above else value >= least):
        raise InputError(f"{name} must be {'above' if above else 'at least'} {least}; got {value}")
    if not value <= most:
        raise InputError(f"{name} must be at most {most}; got {value}")

"""The error for what the user can mend: options, files and arguments."""


class InputError(ValueError):
    """An option, a file or an argument can't be used; the message says what, where, and what to do.

    Commands print it as one line. Everything else keeps its traceback, since it may be a bug.
    """

"""The error for what the user can mend: options, files and arguments."""


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

"""The command `python -m convert.from_torch`; imported, this is the function `convert.from_torch`."""

import sys

import convert
from convert.torch.command import FromTorch, main
from tppjax import cli

if __name__ == "__main__":
    cli.run(main, FromTorch)
else:  # else the import would put this file in the function's place
    sys.modules[__name__] = convert.from_torch  # pyright: ignore[reportArgumentType] - a function in a module's place

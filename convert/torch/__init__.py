"""Networks of PyTorch: `from_torch(module, example)`, as functions `to_jax(module, example)`, and out of files."""

from convert.torch.checkpoints import import_state_dict
from convert.torch.modules import to_jax
from convert.torch.network import from_torch
from convert.torch.operations import TABLE

__all__ = ["TABLE", "from_torch", "import_state_dict", "to_jax"]

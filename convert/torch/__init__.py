"""PyTorch networks: from modules, `from_torch(module, example)`, as functions, `to_jax`, and from files of weights."""

from convert.torch.checkpoints import import_state_dict
from convert.torch.modules import to_jax
from convert.torch.network import from_torch
from convert.torch.operations import TABLE

__all__ = ["TABLE", "from_torch", "import_state_dict", "to_jax"]

"""Turn trained networks into spiking ones, with two-phase probabilistic (TPP) neurons, in JAX."""

from importlib import import_module, metadata
from types import ModuleType

__version__ = metadata.version("tppjax")

_MODULES = (
    *("activations", "ann", "calibration", "checkpoint", "data", "errors", "graph", "memory", "models"),
    *("network", "neurons", "prng", "sharding", "tracing"),
)


def __getattr__(name: str) -> ModuleType:
    """Modules are imported when they are first used, since each of them imports JAX or more."""
    if name in _MODULES:
        return import_module(f"tppjax.{name}")
    raise AttributeError(f"module 'tppjax' has no attribute {name!r}; its modules: {', '.join(_MODULES)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])

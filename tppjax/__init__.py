"""Turn trained networks into spiking ones, with two-phase probabilistic (TPP) neurons, in JAX."""

from importlib import import_module, metadata

__version__ = metadata.version("tppjax")

_MODULES = (
    *("activations", "ann", "calibration", "checkpoint", "data", "errors", "graph", "models", "network"),
    *("neurons", "prng", "sharding", "tracing"),
)


def __getattr__(name: str):
    """Modules are imported as they are asked for, since each takes JAX or more with it."""
    if name in _MODULES:
        return import_module(f"tppjax.{name}")
    raise AttributeError(f"module 'tppjax' has no attribute {name!r}; its modules: {', '.join(_MODULES)}")


def __dir__():
    return sorted([*globals(), *_MODULES])

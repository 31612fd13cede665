"""A spiking network as a file for use without this library: `convert.export.stablehlo(snn, file)`."""

from convert.export.program import stablehlo

__all__ = ["stablehlo"]

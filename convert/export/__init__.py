"""Export of spiking networks for use without this library: `convert.export.stablehlo(snn, file)`, and `nir`."""

from convert.export.program import stablehlo
from convert.nir.writing import nir

__all__ = ["nir", "stablehlo"]

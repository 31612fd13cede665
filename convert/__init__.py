"""Conversion of a trained network to a spiking one: `convert.to_snn(params, T=16, mode="tpp")`."""

from convert import export
from convert.batch_norm import fold_batch_norm
from convert.correction import correct
from convert.diagnosis import report
from convert.execution import example_keys
from convert.nir.reading import from_nir
from convert.saving import load
from convert.snn import Snn, Trace, to_snn
from convert.torch import from_torch
from tppjax.calibration import calibrate
from tppjax.network import Network
from tppjax.tracing import trace

__all__ = [
    "Network",
    "Snn",
    "Trace",
    "calibrate",
    "correct",
    "example_keys",
    "export",
    "fold_batch_norm",
    "from_nir",
    "from_torch",
    "load",
    "report",
    "to_snn",
    "trace",
]

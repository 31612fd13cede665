"""From a trained network to a spiking one: `convert.to_snn(params, T=16, mode="tpp")`."""

from convert.correction import correct
from convert.diagnosis import report
from convert.fold import fold_batch_norm, fold_thresholds
from convert.snn import Snn, Trace, example_keys, to_snn
from tppjax.thresholds import calibrate

__all__ = [
    "Snn",
    "Trace",
    "calibrate",
    "correct",
    "example_keys",
    "fold_batch_norm",
    "fold_thresholds",
    "report",
    "to_snn",
]

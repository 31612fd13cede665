"""From a trained network to a spiking one: `convert.to_snn(params, T=16, mode="tpp")`."""

from convert.fold import fold_batch_norm
from convert.snn import Snn, Trace, example_keys, to_snn
from tppjax.thresholds import calibrate

__all__ = ["Snn", "Trace", "calibrate", "example_keys", "fold_batch_norm", "to_snn"]

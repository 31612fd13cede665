"""From a trained network to a spiking one: `convert.to_snn(params, T=16, mode="tpp")`."""

from convert.snn import Snn, Trace, example_keys, to_snn

__all__ = ["Snn", "Trace", "example_keys", "to_snn"]

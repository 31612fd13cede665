"""The parts that all experiments on spiking versions of a network share."""

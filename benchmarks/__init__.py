"""What a spiking network costs, against its ANN and against what one would use instead: `python -m benchmarks`."""

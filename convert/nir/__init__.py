"""NIR, the exchange format of neuromorphic tools: written, read, and run in other simulators."""

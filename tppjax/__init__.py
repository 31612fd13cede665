"""Turn trained Flax networks into spiking ones, with two-phase probabilistic (TPP) neurons, in JAX."""

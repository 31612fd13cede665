"""What experiments on spiking versions of a network have in common."""

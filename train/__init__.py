"""Training: one loop, and one command for each data set."""

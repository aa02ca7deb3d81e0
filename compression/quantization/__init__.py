"""The integers of every scheme: one definition each, simulated in training exactly as the shipped artifact computes them."""

"""Importance scores, choice of the units to prune, and least-squares reconstruction."""

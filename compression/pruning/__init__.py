"""Importance scores, the choice of units to prune, and least-squares reconstruction of the pruned model."""

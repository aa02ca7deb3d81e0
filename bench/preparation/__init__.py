"""Compares the original that a job prepares with a grid search over rates and epochs."""

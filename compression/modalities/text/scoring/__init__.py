"""Scorers of tasks that exist only for texts. Torch-free."""

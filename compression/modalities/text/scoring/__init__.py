"""Scores of tasks that only texts have. Torch-free."""

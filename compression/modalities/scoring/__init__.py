"""Scores predictions, task by task. Torch-free: a process that measures an artifact must not load torch."""

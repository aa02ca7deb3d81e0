"""Distillation: teacher outputs and their caches, the objective, its losses and their weights."""

"""Decisions before and about a job: forecasts, preflight, pruning and distillation rules, verdicts, remedies. Torch-free."""

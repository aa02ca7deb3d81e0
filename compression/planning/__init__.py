"""Decisions before and about a job: estimates, preflight, rules, verdicts, remedies. Torch-free."""

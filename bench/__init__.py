"""Benchmarks: each figure is a ratio against a baseline of the same run. Figures go to docs/benchmarks.md."""

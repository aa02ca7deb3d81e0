"""Measurements, each a ratio against a baseline of the same run. `make bench` runs all; figures go to docs/benchmarks.md."""

"""Measures what batches by load give a served artifact: throughput at the same 99th percentile as one row at a time."""

"""Texts: datasets, tokenization, batches, and the tasks that only texts have."""

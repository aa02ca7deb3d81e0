"""The training loop, its settings and budget, and training in progress on disk."""

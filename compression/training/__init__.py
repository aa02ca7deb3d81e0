"""The training loop, its configuration and budget, and training checkpoints on disk."""

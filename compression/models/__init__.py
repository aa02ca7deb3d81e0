"""Describe, read and validate models: architectures, checkpoint files and module roles."""

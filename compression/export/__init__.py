"""Writes artifacts that stock tools open, and compares reopened artifacts with the engine's model."""

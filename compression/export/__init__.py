"""Writes artifacts that stock tools open, and checks that a reopened artifact computes the engine's logits."""

"""Quantization schemes: one definition of each, simulated in training exactly as the exported artifact computes."""

"""Quantization schemes, each defined once and simulated in training exactly as the artifact computes."""

"""Writes the formats of compressed-tensors, which transformers and vLLM open. Needs no package to write them."""

"""Causal language modelling: tokenized documents, packed training rows, scoring windows, losses over a vocabulary."""

"""Causal language modelling: tokenized documents, packed rows, scoring windows, vocabulary losses."""

"""Language modelling: documents of tokens, packed rows to learn from, windows to be scored by, losses over a vocabulary."""

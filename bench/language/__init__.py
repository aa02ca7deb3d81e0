"""`python -m bench language`: one job on SmolLM2 against a plain script of published choices, the same tokens and shape."""

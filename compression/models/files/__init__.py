"""Model files read as they lie on disk: safetensors, GGUF, JSON."""

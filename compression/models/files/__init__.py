"""Read model files as they are on disk: safetensors, GGUF, JSON."""

"""Writes decoders as single GGUF files, which llama.cpp opens."""

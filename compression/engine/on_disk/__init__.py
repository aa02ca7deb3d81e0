"""Runs jobs without training on decoders too large for memory: file to file, by block or by layer."""

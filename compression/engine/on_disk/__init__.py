"""Runs jobs without training on decoders too large for memory: from file to file, in blocks or by layer."""

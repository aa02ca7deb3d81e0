"""Writes checkpoints that stock transformers opens, from memory or shard by shard."""

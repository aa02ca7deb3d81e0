"""Vocabulary pruning: the tokens that a task's texts need, a tokenizer with only these, and new ids."""

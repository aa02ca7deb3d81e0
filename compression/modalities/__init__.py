"""Modalities and tasks: data, scores and losses. `text` holds what only texts need."""

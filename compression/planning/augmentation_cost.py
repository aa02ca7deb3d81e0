"""The time of generating rows, by their source. Torch-free."""

from compression.schema.recipe.augment import Augment

AUGMENT_SECONDS = {"wordnet": 0.001, "embeddings": 0.002, "masked-lm": 0.05, "apertium": 0.006, "models": 0.5}
"""Seconds per generated row on two cores, by its source (sentences of some 20 words; docs/method.md)."""


def augment_seconds(augment: Augment, rows: int) -> float:
    """Estimate the seconds of generating rows, with the slower source if the worker may choose."""
    seconds, copies = 0.0, augment.rows - augment.splices
    if augment.back_translation is not None:
        copies -= 1
        seconds += AUGMENT_SECONDS["models" if augment.back_translation.models else "apertium"] * rows
    if augment.synonyms is not None:
        source = augment.synonyms.source
        seconds += AUGMENT_SECONDS["embeddings" if source == "auto" else source] * rows * copies
    return seconds

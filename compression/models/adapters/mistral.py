"""Mistral: a Llama that attends within a window, the same in all layers, and whose hidden size is free."""

from compression.models.adapters.decoder import PreNormDecoder


class Mistral(PreNormDecoder):
    """The names are those that the shared implementation has."""


MISTRAL = Mistral()

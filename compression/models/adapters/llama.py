"""Llama, and what has its code: SmolLM2, DeepSeek-LLM, DeepSeek-Coder."""

from compression.models.adapters.decoder import PreNormDecoder


class Llama(PreNormDecoder):
    """The names are those that the shared implementation has. The config wants hidden to be a multiple of the heads."""


LLAMA = Llama()

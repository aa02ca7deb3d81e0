"""Qwen2, whose queries, keys and values have biases (DeepSeek-R1-Distill-Qwen too), and Qwen3, which normalizes heads."""

from compression.families.decoder import PreNormDecoder


class Qwen2(PreNormDecoder):
    """The stock config does not know a head size, but the stock model reads one from it where it is set."""


class Qwen3(PreNormDecoder):
    """Each query and key head goes through an RMSNorm of its own, over the head size, which no cut changes.

    These norms have the ε of those over the stream, so it stays as it is, and a cut of the stream is off by what ε weighs.
    """

    owns_epsilon = False


QWEN2, QWEN3 = Qwen2(), Qwen3()

"""BERT: the names of its modules and of its config's keys are those that the shared implementation has."""

from compression.models.adapters.encoder import PostNormEncoder


class Bert(PostNormEncoder):
    """Pooler and classifier follow the encoder; the classes for tokens and spans have no pooler."""


BERT = Bert()

"""RoBERTa and XLM-R: BERT's encoder, with positions that are counted from the padding token's id."""

from transformers import PretrainedConfig

from compression.models.adapters.encoder import PostNormEncoder


class Roberta(PostNormEncoder):
    """The first token of a text has the position pad_token_id + 1, so that many rows of the table serve no text.

    The head for sequences is a dense layer and an output of its own (`classifier.dense`, `classifier.out_proj`), and then
    there is no pooler.
    """

    def max_positions(self, config: PretrainedConfig) -> int:
        """Say how many tokens a text may have."""
        return int(config.max_position_embeddings - config.pad_token_id - 1)

    def fixed_tokens(self, config: PretrainedConfig) -> tuple[int, ...]:
        """Return the first token ids, which must keep their numbers: the padding token's says where positions begin."""
        return tuple(range(config.pad_token_id + 1))


ROBERTA = Roberta()

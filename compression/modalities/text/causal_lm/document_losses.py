"""Losses between the inner states of two language models, document by document."""

from torch import Tensor

from compression.modalities.losses import summed_relation_loss
from compression.modalities.text.causal_lm import chunked_head
from compression.modalities.text.causal_lm.batches import PackedBatch, attention_mask


def document_relation_loss(student: Tensor, teacher: Tensor, batch: PackedBatch, heads: int) -> Tensor:
    """Return the KL divergence of causal self-attention relations within documents.

    The method is MiniLMv2 (Wang et al. 2021). student: (kinds, rows, tokens, narrow), teacher: (kinds, rows, tokens, wide);
    heads: relation heads, which must divide both widths -> scalar in nats, mean over kinds, real tokens and heads. Relations
    grow with the square of the tokens, so they are computed for one kind and row at a time, and again in the backward pass.
    """

    def part(student: Tensor, teacher: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return summed_relation_loss(student[None], teacher[None], mask, attention_mask(positions), heads)

    kinds = len(student)
    columns = student.flatten(0, 1), teacher.flatten(0, 1), batch.mask.repeat(kinds, 1), batch.positions.repeat(kinds, 1)
    return chunked_head.sum_over_chunks(part, 1, *columns) / (batch.mask.sum() * heads * kinds)

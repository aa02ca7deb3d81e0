"""Scores a model in memory on the tokens of documents, window by window, as artifacts are scored in their runtimes."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from compression.modalities.text.causal_lm import chunked_head, hidden_states
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.documents import TokenizedDocuments
from compression.modalities.text.causal_lm.token_losses import token_losses
from compression.modalities.text.scoring.perplexity import WindowLosses
from compression.modalities.text.text_reader import Stretch, stretches

BATCH = 8  #: windows in a batch; results do not depend on it, except for the order of floating-point sums


def windows(documents: TokenizedDocuments, length: int, stride: int) -> list[tuple[int, Stretch]]:
    """Cut documents into windows of at most `length` tokens -> (document, stretch). Raises ValueError as `stretches` does."""
    spans = zip(documents.starts.tolist(), documents.ends.tolist(), documents.tails.tolist(), strict=True)
    return stretches(spans, documents.lead, length, stride)


def in_batches(documents: TokenizedDocuments, length: int, stride: int, size: int) -> Iterator[PackedBatch]:
    """Yield all windows once, `size` in a batch, shortest first; a row's index is its document's."""
    ordered = sorted(windows(documents, length, stride), key=lambda window: window[1][1] - window[1][0])
    for start in range(0, len(ordered), size):
        some = ordered[start : start + size]
        yield PackedBatch.of([number for number, _ in some], [[stretch] for _, stretch in some], documents.ids)


@torch.no_grad()  # in inference mode torchao's expert tensors of an exported model cannot be indexed
def document_losses(
    model: PreTrainedModel,
    documents: TokenizedDocuments,
    *,
    length: int,
    stride: int,
    batch: int = BATCH,
    size: int | None = None,
) -> WindowLosses:
    """Return each document's losses; each scored token is predicted once, from the context in its window.

    size: tokens that go through the head at once, by default what fits `chunked_head.BYTES`. Raises ValueError as `windows`.
    """
    if not len(documents):
        raise ValueError("these texts have no token to score")
    training, device, head = model.training, next(model.parameters()).device, hidden_states.output_layer(model)
    size = size or chunked_head.chunk_size(model.config.vocab_size)
    loss, right = torch.zeros((2, len(documents)), dtype=torch.float64)
    model.eval()
    for sequences in in_batches(documents, length, stride, batch):
        here = sequences.to(device)
        losses, hits = token_losses(hidden_states.scored_states(model, here), head, here.wanted, size=size)
        owners = sequences.rows.repeat_interleave(sequences.asked.sum(dim=1))
        loss.index_add_(0, owners, losses.double().cpu())
        right.index_add_(0, owners, hits.double().cpu())
    model.train(training)
    return WindowLosses(documents.scored.numpy(), documents.bytes.numpy(), loss.numpy(), right.long().numpy())

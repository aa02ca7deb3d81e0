"""Cuts documents into scoring windows: every token is scored exactly once, with much of its context."""

from collections.abc import Iterator

from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.documents import TokenizedDocuments
from compression.modalities.text.text_reader import Stretch, stretches


def windows(documents: TokenizedDocuments, length: int, stride: int) -> list[tuple[int, Stretch]]:
    """Cut documents into windows of at most `length` input tokens. -> (document, stretch).

    `text_reader.stretches` defines the windows. Raises ValueError as it does.
    """
    spans = zip(documents.starts.tolist(), documents.ends.tolist(), documents.tails.tolist(), strict=True)
    return stretches(spans, documents.lead, length, stride)


def in_batches(documents: TokenizedDocuments, length: int, stride: int, size: int) -> Iterator[PackedBatch]:
    """Yield all windows once, in batches, shortest first. size: windows of a batch.

    A row's index is its document's. Raises ValueError as `windows` does.
    """
    found = sorted(windows(documents, length, stride), key=lambda one: one[1][1] - one[1][0])
    for at in range(0, len(found), size):
        some = found[at : at + size]
        yield PackedBatch.of([number for number, _ in some], [[stretch] for _, stretch in some], documents.ids)

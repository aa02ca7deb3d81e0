"""Windows to be judged by: every token of a document is asked for exactly once, with a good deal of what comes before it."""

from collections.abc import Iterator

from compression.language.documents import Documents
from compression.language.sequences import Sequences
from compression.scoring.texts import Stretch, stretches


def windows(documents: Documents, length: int, stride: int) -> list[tuple[int, Stretch]]:
    """Cut documents into windows that read at most `length` tokens, as `scoring.texts.stretches` says. -> (document, stretch).

    Raises ValueError as it does.
    """
    spans = zip(documents.starts.tolist(), documents.ends.tolist(), documents.tails.tolist(), strict=True)
    return stretches(spans, documents.lead, length, stride)


def in_batches(documents: Documents, length: int, stride: int, size: int) -> Iterator[Sequences]:
    """Go through all windows once, shortest first; a row's number is its document's. size: windows of a batch.

    Raises ValueError as `windows` does.
    """
    found = sorted(windows(documents, length, stride), key=lambda one: one[1][1] - one[1][0])
    for at in range(0, len(found), size):
        some = found[at : at + size]
        yield Sequences.of([number for number, _ in some], [[stretch] for _, stretch in some], documents.ids)

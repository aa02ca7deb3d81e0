"""Windows to be judged by: every token of a document is asked for exactly once, with a good deal of what comes before it."""

from collections.abc import Iterator

from compression.language.documents import Documents
from compression.language.sequences import Sequences, Stretch


def windows(documents: Documents, length: int, stride: int) -> list[tuple[int, Stretch]]:
    """Cut documents into windows that read at most `length` tokens. -> (document, stretch).

    A document's first window asks for all that it reads; each later one goes `stride` tokens further and asks for what is
    new, so that a token sees length − stride + 1 before it or more, or all that there are (the strided perplexity of
    transformers' documentation). With a stride of 1 each sees as much as can be; with `length` the first of a window sees one.
    Raises ValueError where the stride is not between 1 and `length`, or affixes leave no room.
    """
    if not 1 <= stride <= length or length < documents.lead:
        raise ValueError(f"windows of {length} tokens cannot go on by {stride}, after {documents.lead} that are not asked for")
    found = []
    ends = zip(documents.starts.tolist(), documents.ends.tolist(), documents.tails.tolist(), strict=True)
    for number, (start, end, tail) in enumerate(ends):
        last = end - tail - 1
        stop, first = min(start + length, last), start + documents.lead
        found.append((number, (start, stop, first)))
        while stop < last:
            first, stop = stop + 1, min(stop + stride, last)
            found.append((number, (stop - length, stop, first)))
    return found


def in_batches(documents: Documents, length: int, stride: int, size: int) -> Iterator[Sequences]:
    """Go through all windows once, shortest first; a row's number is its document's. size: windows of a batch.

    Raises ValueError as `windows` does.
    """
    found = sorted(windows(documents, length, stride), key=lambda one: one[1][1] - one[1][0])
    for at in range(0, len(found), size):
        some = found[at : at + size]
        yield Sequences.of([number for number, _ in some], [[stretch] for _, stretch in some], documents.ids)

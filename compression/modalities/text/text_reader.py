"""Tokenizes texts for a language model: tokens, the tokenizer's affixes, windows. Torch-free."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from compression.schema.errors import ConfigMismatch

AT_ONCE, CHARACTERS = 512, 1 << 20
"""Texts and characters to tokenize at once: the tokenizer's own objects take a hundred times the memory of ids."""
PROBE = "a"
Encode = Callable[[list[str], bool], list[Encoding]]
"""Tokenizes texts without truncation; the flag is whether to add the tokenizer's special tokens before and after each."""
Stretch = tuple[int, int, int]
"""A part of a row, (start, end, first): it reads ids[start:end] and predicts ids[first : end + 1]; first is past start."""


@dataclass(frozen=True)
class Text:
    """Tokens of one text. The first `lead` and the last `tail` are not scored; `bytes` of UTF-8 lie between them."""

    ids: list[int]
    lead: int
    tail: int
    bytes: int


def encoder(tokenizer: Tokenizer) -> Encode:
    """Return the encoding function of an artifact's tokenizer, without its truncation and padding."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    return lambda texts, special: own.encode_batch(texts, add_special_tokens=special)


def affixes(encode: Encode) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after each text. Raises ConfigMismatch if they change the text's ids.

    Read from its output: its settings name them in several places, some of which are not used.
    """
    own, whole = (list(encode([PROBE], special)[0].ids) for special in (False, True))
    for at in range(len(whole) - len(own) + 1):
        if whole[at : at + len(own)] == own:
            return whole[:at], whole[at + len(own) :]
    raise ConfigMismatch("the tokenizer's special tokens change the tokens of a text", param="tokenizer.json:post_processor")


def read(texts: Iterable[str], encode: Encode) -> Iterator[Text | None]:
    """Tokenize whole texts; yield None for a text that has no token to score. Raises ConfigMismatch as `affixes` does.

    An affix that the text contains, as a chat does, is not added again. A first token without an affix is not scored.
    """
    before, behind = affixes(encode)
    lead = len(before) or 1
    for group in _groups(texts):
        for text, one in zip(group, encode(group, False), strict=True):
            own: list[int] = one.ids
            headed = own[: len(before)] == before
            tailed = not behind or own[-len(behind) :] == behind
            if len(own) <= (lead if headed else 0):
                yield None
                continue
            ids = (own if headed else before + own) + ([] if tailed else behind)
            unasked = text[: one.offsets[lead - 1][1]] if headed else ""
            yield Text(ids, lead, 0 if tailed else len(behind), len(text.encode()) - len(unasked.encode()))


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for text in texts:
        group.append(text)
        held += len(text)
        if len(group) == AT_ONCE or held >= CHARACTERS:
            yield group
            group, held = [], 0
    if group:
        yield group


def stretches(spans: Iterable[tuple[int, int, int]], lead: int, length: int, stride: int) -> list[tuple[int, Stretch]]:
    """Cut texts into windows that read at most `length` tokens. -> (index of the text, stretch).

    spans: for each text, where its tokens start and end, and how many at the end are not scored. A text's first window scores
    all that it reads; each later one starts `stride` tokens further and scores what is new, so that a token sees length −
    stride + 1 tokens before it or more, or all (the strided perplexity of transformers' documentation). Raises ValueError if
    the stride is not between 1 and `length`, or affixes leave no room.
    """
    if not 1 <= stride <= length or length < lead:
        raise ValueError(f"windows of {length} tokens cannot go on by {stride}, after {lead} that are not asked for")
    windows = []
    for number, (start, end, tail) in enumerate(spans):
        last = end - tail - 1
        stop, first = min(start + length, last), start + lead
        windows.append((number, (start, stop, first)))
        while stop < last:
            first, stop = stop + 1, min(stop + stride, last)
            windows.append((number, (stop - length, stop, first)))
    return windows

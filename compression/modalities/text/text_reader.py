"""Texts as a language model is asked for them: tokens, what the tokenizer puts around them, windows. Torch-free."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

from compression.schema.errors import ConfigMismatch

AT_ONCE, CHARACTERS = 512, 1 << 20
"""Texts, and characters, that are tokenized together: the tokenizer's own objects take a hundred times the memory of ids."""
PROBE = "a"
Encode = Callable[[list[str], bool], list[Encoding]]
"""Tokenizes texts, nothing cut; the flag says whether with what the tokenizer puts before and behind each."""
Stretch = tuple[int, int, int]
"""A part of a row, (start, end, first): it reads ids[start:end] and is asked for ids[first : end + 1]; first is past start."""


@dataclass(frozen=True)
class Text:
    """Tokens of one text. Of the first `lead` and the last `tail` nobody is asked; `bytes` of UTF-8 are what is between."""

    ids: list[int]
    lead: int
    tail: int
    bytes: int


def encoder(tokenizer: Tokenizer) -> Encode:
    """Ask an artifact's tokenizer.json, whatever it says of cutting and padding."""
    own = Tokenizer.from_str(tokenizer.to_str())
    own.no_truncation()
    own.no_padding()
    return lambda texts, special: own.encode_batch(texts, add_special_tokens=special)


def affixes(encode: Encode) -> tuple[list[int], list[int]]:
    """Find what a tokenizer puts before and behind each text, such as the ids of BOS and EOS.

    Its settings say it in several places, of which some are not read (`add_bos_token` beside a tokenizer.json); what it does is
    the truth. Raises ConfigMismatch where it changes the text's own ids.
    """
    own, whole = (list(encode([PROBE], special)[0].ids) for special in (False, True))
    for at in range(len(whole) - len(own) + 1):
        if whole[at : at + len(own)] == own:
            return whole[:at], whole[at + len(own) :]
    raise ConfigMismatch("the tokenizer's special tokens change the tokens of a text", param="tokenizer.json:post_processor")


def read(texts: Iterable[str], encode: Encode) -> Iterator[Text | None]:
    """Tokenize whole texts; None in the place of one that has no token to ask for.

    An affix that a text has of its own, as a chat has, is not put there again. Where the tokenizer puts nothing before a text,
    its first token has nothing to be foretold by. Raises ConfigMismatch as `affixes` does.
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
    """Cut texts into windows that read at most `length` tokens. -> (number of the text, stretch).

    spans: of each text where its tokens start and end, and how many of the last nobody is asked for. A text's first window
    asks for all that it reads; each later one goes `stride` tokens further and asks for what is new, so that a token sees
    length − stride + 1 before it or more, or all that there are (the strided perplexity of transformers' documentation). With a
    stride of 1 each sees as much as can be; with `length` the first of a window sees one. Raises ValueError where the stride is
    not between 1 and `length`, or affixes leave no room.
    """
    if not 1 <= stride <= length or length < lead:
        raise ValueError(f"windows of {length} tokens cannot go on by {stride}, after {lead} that are not asked for")
    found = []
    for number, (start, end, tail) in enumerate(spans):
        last = end - tail - 1
        stop, first = min(start + length, last), start + lead
        found.append((number, (start, stop, first)))
        while stop < last:
            first, stop = stop + 1, min(stop + stride, last)
            found.append((number, (stop - length, stop, first)))
    return found

"""The words of a text, and the text with some of them exchanged; all between them stays as it is. Torch-free."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

WORD = re.compile(r"(?<!\w)[^\W\d_]+(?:['’-][^\W\d_]+)*(?!\w)")
"""Letters, with what holds them together inside of a word (don't, well-made), and no digit at either end (2nd)."""


@dataclass(frozen=True)
class WordSpan:
    """One word in its text: text[start:end]."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The word as it stands there."""
        return self.text[self.start : self.end]


class Source(Protocol):
    """Where other words come from."""

    def candidates(self, places: Sequence[WordSpan]) -> list[list[str]]:
        """Return for each place the words that may stand there, the best first; none of them is the word itself."""


def word_spans(text: str) -> list[WordSpan]:
    """Find the words of a text."""
    return [WordSpan(text, found.start(), found.end()) for found in WORD.finditer(text)]


def replace_span(text: str, changes: Mapping[WordSpan, str]) -> str:
    """Return the text with other words in the places named, their first letters in the case of those before."""
    parts, reached = [], 0
    for place in sorted(changes, key=lambda place: place.start):
        parts += [text[reached : place.start], match_case(place.word, changes[place])]
        reached = place.end
    return "".join([*parts, text[reached:]])


def match_case(word: str, other: str) -> str:
    """Write `other` in capitals, or with one, where `word` is; else as it comes."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other

"""Finds the words of a text and replaces some of them; the characters between them stay. Torch-free."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

WORD = re.compile(r"(?<!\w)[^\W\d_]+(?:['’-][^\W\d_]+)*(?!\w)")
"""Letters, with apostrophes and hyphens inside a word (don't, well-made), and no digit at either end (2nd)."""


@dataclass(frozen=True)
class WordSpan:
    """One word in its text: text[start:end]."""

    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """Return the word as written in the text."""
        return self.text[self.start : self.end]


class Source(Protocol):
    """A source of replacement words."""

    def candidates(self, places: Sequence[WordSpan]) -> list[list[str]]:
        """Return for each place its replacement words, the best first, without the word itself."""


def word_spans(text: str) -> list[WordSpan]:
    """Return the words of a text."""
    return [WordSpan(text, found.start(), found.end()) for found in WORD.finditer(text)]


def replace_span(text: str, changes: Mapping[WordSpan, str]) -> str:
    """Return the text with the words in `changes` replaced; replacements take the case of the old words."""
    parts, reached = [], 0
    for place in sorted(changes, key=lambda place: place.start):
        parts += [text[reached : place.start], match_case(place.word, changes[place])]
        reached = place.end
    return "".join([*parts, text[reached:]])


def match_case(word: str, other: str) -> str:
    """Return `other` in upper case or capitalized if `word` is, else unchanged."""
    if word.isupper() and len(word) > 1:
        return other.upper()
    return other[:1].upper() + other[1:] if word[:1].isupper() else other

"""Makes new rows from old ones. The same texts, settings, seed and sources give the same rows. Torch-free."""

import random
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from compression.modalities.text.augmentation.resources import Translate
from compression.modalities.text.augmentation.words import Source, WordSpan, replace_span, word_spans
from compression.schema.recipe.augment import Augment, Synonyms

CHUNK = 256  #: rows at a time: a job reports its progress between two chunks
Texts = tuple[str, ...]
Way = Literal["back_translation", "synonyms", "splices"]  #: the augmentation method of a row, by its key in the settings


@dataclass(frozen=True)
class AugmentedRow:
    """A new row."""

    row: int  #: index of the row that it was made from
    texts: Texts
    replaced: int = 0  #: number of replaced words
    by: Way = "synonyms"


@dataclass(frozen=True)
class Sources:
    """The sources of new rows; None for a source that the settings do not use."""

    synonyms: Source | None = None
    translators: tuple[Translate, Translate] | None = None


def augment(
    texts: Sequence[Texts], settings: Augment, seed: int, sources: Sources
) -> Generator[tuple[int, int], None, list[AugmentedRow]]:
    """Make up to `settings.rows` new rows from each row; yield the numbers of processed rows and of all.

    Each text is processed on its own. A new row that equals its original or another copy of it is left out.
    """
    made: list[AugmentedRow] = []
    known = {(row, old) for row, old in enumerate(texts)}
    done, copies = 0, settings.rows - settings.splices
    for copy in range(settings.rows):
        for start in range(0, len(texts), CHUNK):
            numbers = range(start, min(start + CHUNK, len(texts)))
            some, draws = [texts[row] for row in numbers], [random.Random(f"{seed} {copy} {row}") for row in numbers]
            if copy >= copies:
                spliced = [splice(texts, row, draw) for row, draw in zip(numbers, draws, strict=True)]
                new = [AugmentedRow(row, own, by="splices") for row, own in zip(numbers, spliced, strict=True)]
            elif copy == 0 and sources.translators is not None:
                back = back_translate(some, sources.translators)
                new = [AugmentedRow(row, own, by="back_translation") for row, own in zip(numbers, back, strict=True)]
            elif settings.synonyms is not None and sources.synonyms is not None:
                changed = replace_words(some, settings.synonyms, draws, sources.synonyms)
                new = [AugmentedRow(row, *change) for row, change in zip(numbers, changed, strict=True)]
            else:
                raise ValueError("the settings need a source that was not opened")
            for one in new:
                if (one.row, one.texts) not in known and any(text.strip() for text in one.texts):
                    known.add((one.row, one.texts))
                    made.append(one)
            done += len(numbers)
            yield done, settings.rows * len(texts)
    return made


def splice(texts: Sequence[Texts], row: int, draw: random.Random) -> Texts:
    """Make a row by joining a row with a random other one in random order; half of the pairs take its second text instead.

    A splice is longer than most texts: the student follows its teacher beyond the lengths and the words of train.
    """
    own, other = texts[row], texts[draw.randrange(len(texts))]
    if len(own) > 1 and draw.random() < 0.5:
        return (*own[:1], *other[1:])
    first, second = (own, other) if draw.random() < 0.5 else (other, own)
    return tuple(f"{one} {two}" for one, two in zip(first, second, strict=True))


def back_translate(rows: Sequence[Texts], translators: tuple[Translate, Translate]) -> Iterator[Texts]:
    """Translate each text of each row into the other language and back."""
    there, back = translators
    flat = iter(back(there([text for row in rows for text in row])))
    for row in rows:
        yield tuple(next(flat) for _ in row)


def replace_words(
    rows: Sequence[Texts], settings: Synonyms, draws: Sequence[random.Random], source: Source
) -> Iterator[tuple[Texts, int]]:
    """Replace each word with the probability `share`, or one; yield texts and numbers of replaced words."""
    chosen = [_chosen(row, settings.share, draw) for row, draw in zip(rows, draws, strict=True)]
    found = iter(source.candidates([place for row in chosen for _, place in row]))
    for row, wanted, draw in zip(rows, chosen, draws, strict=True):
        changes: list[dict[WordSpan, str]] = [{} for _ in row]
        for number, place in wanted:
            others = next(found)[: settings.candidates]
            if others:
                changes[number][place] = draw.choice(others)
        yield tuple(map(replace_span, row, changes)), sum(map(len, changes))


def _chosen(row: Texts, share: float, draw: random.Random) -> list[tuple[int, WordSpan]]:
    words = [(number, place) for number, text in enumerate(row) for place in word_spans(text)]
    chosen = [word for word in words if draw.random() < share]
    return chosen or ([draw.choice(words)] if words else [])

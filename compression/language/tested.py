"""Which texts of a job's test split are scored, and whether its splits have anything to ask for."""

import random
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerFast

from compression.batches import Encoded
from compression.data import FEWEST_TEXTS
from compression.errors import EmptySplit
from compression.language.documents import read
from compression.language.rows import TextRows

AT_ONCE = 64


def tested(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, most: int, seed: int) -> list[int]:
    """Draw texts of test, whole ones, until `most` tokens are asked for; return their numbers, ascending.

    Two with a token to ask for there are at least, whatever they come to. Raises EmptySplit where there are not.
    """
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    taken, tokens, usable = list[int](), 0, 0
    for start in range(0, len(order), AT_ONCE):
        for number in order[start : start + AT_ONCE]:
            found = read([texts[number]], tokenizer)
            taken.append(number)
            tokens += int(found.scored.sum())
            usable += len(found)
            if tokens >= most and usable >= FEWEST_TEXTS:
                return sorted(taken)
    if usable < FEWEST_TEXTS:
        raise EmptySplit(f"test has {usable} texts with a token that could be foretold", param="data.splits.test")
    return sorted(taken)


def check_texts(rows: Iterable[tuple[str, Encoded]]) -> None:
    """Refuse splits of texts that ask for nothing. rows: of each split, by its name. Raises EmptySplit."""
    for name, split in rows:
        if isinstance(split, TextRows) and not len(split):
            raise EmptySplit(f"{name} has no text with a token that could be foretold", param=f"data.splits.{name}")

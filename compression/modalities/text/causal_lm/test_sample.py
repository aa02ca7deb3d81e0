"""Samples texts of validation and test to score, and checks that a job's splits have scored tokens."""

import random
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerFast

from compression.modalities.text.batches import TokenizedDataset
from compression.modalities.text.causal_lm.documents import read
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.modalities.text.dataset import FEWEST_TEXTS, Dataset
from compression.schema.errors import EmptySplit
from compression.schema.recipe.base import Split


def sampled(dataset: Dataset, tokenizer: PreTrainedTokenizerFast, most: int, seed: int) -> dict[Split, list[int]]:
    """Sample whole texts of validation and test to score. Raises EmptySplit if test has fewer than two with a scored token."""
    # One of validation suffices: its perplexity is compared with others on the same text.
    fewest: dict[Split, int] = {"validation": 1, "test": FEWEST_TEXTS}
    return {split: _sample(dataset.splits[split].texts, tokenizer, most, seed, split, few) for split, few in fewest.items()}


def _sample(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, most: int, seed: int, split: Split, fewest: int
) -> list[int]:
    """Return the indices of random texts with `most` scored tokens or more, ascending; at least `fewest` can be scored."""
    order = list(range(len(texts)))
    random.Random(seed).shuffle(order)
    taken, tokens, usable = list[int](), 0, 0
    for number in order:
        found = read([texts[number]], tokenizer)
        taken.append(number)
        tokens += int(found.scored.sum())
        usable += len(found)
        if tokens >= most and usable >= FEWEST_TEXTS:
            return sorted(taken)
    if usable < fewest:
        raise EmptySplit(f"{split} has {usable} texts with a token to predict", param=f"data.splits.{split}")
    return sorted(taken)


def check_texts(rows: Iterable[tuple[str, TokenizedDataset]]) -> None:
    """Reject splits of texts without a scored token. rows: of each split, by its name. Raises EmptySplit."""
    for name, split in rows:
        if isinstance(split, PackedDataset) and not len(split):
            raise EmptySplit(f"{name} has no text with a token to predict", param=f"data.splits.{name}")

"""Choose some rows of a split: at random by a seed, or the first ones up to a number of tokens."""

import torch

from compression.modalities.base import Examples

BATCH = 64
"""Rows asked together; answers do not depend on it, because scales are per token."""


def micro_batch_size(batch: int, parts: int) -> int:
    """Return the size of a part of a batch, where memory did not suffice for all of it at once."""
    return max(1, batch // parts)


MOST_TOKENS = 16_384
"""Tokens that equations are made of: several for each unknown of a row, in some hundred MB for an encoder of BERT's size."""


def first_tokens(rows: Examples, most: int = MOST_TOKENS) -> Examples:
    """Return the first rows, as many as have `most` tokens; at least one."""
    total, count = 0, 0
    for length in rows.lengths:
        total += length
        if count and total > most:
            break
        count += 1
    return rows.at(list(range(count)))


def shuffled_rows(rows: Examples, count: int, seed: int) -> Examples:
    """Draw rows that a cut may look at."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return rows.at(order[:count])

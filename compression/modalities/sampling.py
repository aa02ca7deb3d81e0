"""Choose some rows of a split: at random with a seed, or the first ones up to a number of tokens."""

import torch

from compression.modalities.base import Examples

BATCH = 64  #: rows in a batch; predictions do not depend on it, because scales are per token


def micro_batch_size(batch: int, parts: int) -> int:
    """Return the micro-batch size if memory does not suffice for the whole batch. parts: number of micro-batches."""
    return max(1, batch // parts)


MOST_TOKENS = 16_384
"""Tokens for a system of equations: several for each unknown of a row, in some hundred MB for an encoder of BERT's size."""


def first_tokens(rows: Examples, most: int = MOST_TOKENS) -> Examples:
    """Return the first rows, up to `most` tokens in total; at least one row."""
    total, count = 0, 0
    for length in rows.lengths:
        total += length
        if count and total > most:
            break
        count += 1
    return rows.at(list(range(count)))


def shuffled_rows(rows: Examples, count: int, seed: int) -> Examples:
    """Return a random sample of `count` rows, for pruning."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return rows.at(order[:count])

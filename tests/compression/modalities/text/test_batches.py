"""Batches of an encoder's rows: each row once, rows of like length together, the same order for the same seed."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from compression.modalities.base import count_steps
from compression.modalities.registry import task_of
from compression.modalities.text import batches
from compression.modalities.text.batches import TokenizedDataset, tokenize
from tests.support.tiny_bert import write_tokenizer


@pytest.mark.parametrize("types", [True, False])
def test_rows_are_tokenized_as_if_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, types: bool) -> None:
    write_tokenizer(tmp_path)
    given = (
        PreTrainedTokenizerFast.from_pretrained(tmp_path),
        ["a film", "good", "the long film"] * 3,
        ["one", "two words", "x"] * 3,
        [0] * 9,
        16,
    )
    whole = tokenize(*given, task_of("text-classification"), types=types)
    monkeypatch.setattr(batches, "TOKENIZED_AT_ONCE", 2)
    parts = tokenize(*given, task_of("text-classification"), types=types)
    assert (parts.tokens, parts.types) == (whole.tokens, whole.types)
    assert (parts.types is not None) == types


def test_rows_of_like_length_share_a_batch_and_each_comes_once() -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 100, (500,), generator=draw).tolist()
    rows = TokenizedDataset([[7] * length for length in lengths], torch.arange(500) % 2, 0, task_of("text-classification"))
    batches = list(rows.shuffled(16, seed=1))
    assert len(batches) == count_steps(500, 16)
    assert sorted([row for batch in batches for row in batch.rows.tolist()]) == list(range(500))
    assert all(batch.mask.sum(dim=1).tolist() == [lengths[row] for row in batch.rows.tolist()] for batch in batches)
    padded, real = sum(b.mask.numel() for b in batches), sum(int(b.mask.sum()) for b in batches)
    drawn = torch.randperm(500, generator=draw).tolist()
    plain = sum(16 * max(lengths[row] for row in drawn[start : start + 16]) for start in range(0, 496, 16))
    assert padded - real < 0.2 * (plain - real), "what is padded is a fraction of what it is in a random order"
    again, other = ([batch.rows.tolist() for batch in rows.shuffled(16, seed)] for seed in (1, 2))
    assert again == [batch.rows.tolist() for batch in batches]
    assert other != again
    # Nor do short ones come first.
    means = [float(batch.mask.sum(dim=1).float().mean()) for batch in batches]
    assert means != sorted(means)

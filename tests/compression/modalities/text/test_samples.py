"""What verifies an artifact: rows alone and together, and of long texts fewer."""

import json
from pathlib import Path
from typing import Any

import pytest

from compression.modalities.registry import scorer_of
from compression.modalities.text.inputs import SAMPLE_TOKENS, SAMPLE_WINDOWS
from compression.schema.recipe.recipe import Evaluate
from tests.support.tiny_bert import write_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": 0}))
    return tmp_path


def asked(folder: Path, words: int, rows: int = 64) -> list[Any]:
    """Return the inputs of so many rows of a text of so many words."""
    scorer = scorer_of("text-classification", Evaluate(), ("a", "b"))
    return scorer.sample(scorer.reader(folder), [{"text": "good " * words} for _ in range(rows)], 2)


@pytest.mark.parametrize(("words", "kept"), [(20, 64), (510, SAMPLE_TOKENS // 512), (3000, SAMPLE_WINDOWS)])
def test_long_texts_are_asked_fewer(words: int, kept: int, folder: Path) -> None:
    *alone, together = asked(folder, words)
    assert [one.shape[0] for one in alone] == [1] * kept
    assert together.shape == (kept, words + 2)


def test_few_rows_are_all_asked(folder: Path) -> None:
    assert [one.shape[0] for one in asked(folder, 3000, rows=3)] == [1, 1, 1, 3]

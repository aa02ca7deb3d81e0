"""Notes on how a model's tokenizer reads the texts of a job."""

import copy

import pytest
from transformers import PreTrainedTokenizerFast

from compression.modalities.text.reading_notes import reading_notes
from tests.support.tiny_language import tokenizer


@pytest.fixture(scope="module")
def reader() -> PreTrainedTokenizerFast:
    """A tokenizer whose unknown token is 0."""
    found = tokenizer()
    found.unk_token = found.convert_ids_to_tokens(0)
    return found


def test_texts_whose_words_a_tokenizer_does_not_know_are_told(reader: PreTrainedTokenizerFast) -> None:
    (note,) = reading_notes([[5, 0, 0, 6], [5, 0, 0, 0]], reader, 8, windows=False)
    assert note.startswith(f"62% of the tokens of train are {reader.unk_token}: ")
    assert [*reading_notes([[5, 0, 7, 6, 9, 8], [5, 7, 8, 6, 9, 9]], reader, 8, windows=False)] == []


def test_a_token_that_also_ends_texts_is_not_counted_as_unknown(reader: PreTrainedTokenizerFast) -> None:
    ends = copy.deepcopy(reader)
    ends.eos_token = ends.unk_token
    assert [*reading_notes([[5, 6, 0], [7, 0]], ends, 8, windows=False)] == []
    assert [*reading_notes([[5, 6, 0], [7, 0]], reader, 8, windows=False)] != []


def test_texts_that_are_much_shorter_than_a_timed_row_are_told(reader: PreTrainedTokenizerFast) -> None:
    texts = [[5] * 8, [6] * 32, [7] * 90]
    (note,) = reading_notes(texts, reader, 128, windows=False)
    assert "at most 32 tokens, and latency is timed at 128" in note
    assert [*reading_notes(texts, reader, 127, windows=False)] == []
    assert [*reading_notes(texts, reader, 128, windows=True)] == []


def test_without_texts_there_is_nothing_to_tell(reader: PreTrainedTokenizerFast) -> None:
    assert [*reading_notes([], reader, 128, windows=False)] == []

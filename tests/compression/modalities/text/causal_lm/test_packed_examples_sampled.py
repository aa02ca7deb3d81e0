"""Which texts are scored: of validation and of test each at most about as many tokens as are asked for."""

import pytest

from compression.modalities.text.causal_lm.packed_examples import sampled
from compression.modalities.text.dataset import Dataset, TextSplit
from compression.schema.errors import EmptySplit
from compression.schema.recipe.base import Split
from tests.support.tiny_language import tokenizer


def dataset(**splits: list[str]) -> Dataset:
    rows: dict[Split, TextSplit] = {name: TextSplit(tuple(texts), (None,) * len(texts)) for name, texts in splits.items()}
    return Dataset((), rows, frozenset(), "causal-lm", ())


def test_both_splits_are_drawn_up_to_the_tokens_that_are_asked_for() -> None:
    texts = ["hello you"] * 100
    found = sampled(dataset(validation=texts, test=texts[:60]), tokenizer(), 9 * 20, seed=0)
    drawn = {split: len(some) for split, some in found.items()}
    assert 15 < drawn["validation"] < 30
    assert 15 < drawn["test"] < 30
    assert all(some == sorted(set(some)) for some in found.values())
    whole = sampled(dataset(validation=texts, test=texts[:60]), tokenizer(), 10**6, seed=0)
    assert {split: len(some) for split, some in whole.items()} == {"validation": 100, "test": 60}


def test_one_text_of_validation_will_do_and_of_test_two_are_needed() -> None:
    found = sampled(dataset(validation=["hello you"], test=["hello you"] * 2), tokenizer(), 10**6, seed=0)
    assert found == {"validation": [0], "test": [0, 1]}
    with pytest.raises(EmptySplit, check=lambda error: error.param == "data.splits.test"):
        sampled(dataset(validation=["hello you"] * 2, test=["hello you"]), tokenizer(), 10**6, seed=0)

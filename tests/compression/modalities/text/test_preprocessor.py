"""Windows of a context have the answer that they hold for a label, whichever of the row's answers it is."""

import json
from pathlib import Path

import pytest

from compression.modalities.registry import task_of
from compression.modalities.text.dataset import load_dataset
from compression.modalities.text.preprocessor import TextPreprocessor
from compression.models import loading
from compression.schema.errors import UnreadableData
from compression.schema.job_spec import Data
from tests.compression.modalities.text.augmentation.conftest import byte_pairs
from tests.support.tiny_bert import FILLER, WORDS

HELD = {WORDS["good"], WORDS["fine"]}


def test_a_window_with_another_of_the_answers_is_labelled_with_it(encoder: Path, tmp_path: Path) -> None:
    words = [*FILLER[:5], "good", *FILLER, *FILLER[:14], "fine", *FILLER[:9]]
    context = " ".join(words)
    answers = {"text": ["good", "fine"], "answer_start": [context.index("good"), context.index("fine")]}
    row = json.dumps({"question": "word1 word2", "context": context, "answers": answers})
    (tmp_path / "d").write_text(f"{row}\n" * 20)
    source = Data.model_validate({"format": "jsonl", "splits": {"train": ("d",)}})
    dataset = load_dataset(source, tmp_path, seed=0, task="question-answering")
    preprocessor = TextPreprocessor(loading.load_tokenizer(encoder), 32, types=False)
    rows = preprocessor.encode(dataset, "train", task_of("question-answering"))
    found = set()
    for ids, (start, end) in zip(rows.tokens, rows.labels.tolist(), strict=True):
        held = HELD & {*ids}
        assert (start, end) == (0, 0) if not held else start == end and ids[start] in held
        found |= held if len(held) == 1 else set()
    assert found == HELD, "each answer has a window of its own"


def test_a_text_without_tokens_is_told_of_in_every_split(tmp_path: Path) -> None:
    """Tokenizers that begin texts with no token of their own leave an empty one without any, which no model can read."""
    texts = ["abc", "", "cab"] * 8
    lines = (json.dumps({"text": text, "label": text[:1] or "a"}) + "\n" for text in texts)
    (tmp_path / "d").write_text("".join(lines))
    source = Data.model_validate({"format": "jsonl", "splits": {"train": ("d",)}})
    dataset, task = load_dataset(source, tmp_path, seed=0), task_of("text-classification")
    preprocessor = TextPreprocessor(byte_pairs(texts), 32, types=False)
    with pytest.raises(UnreadableData, match=r"texts of train have no tokens, the first of them row \d") as caught:
        preprocessor.encode(dataset, "train", task)
    assert caught.value.param == "data.splits.train"
    with pytest.raises(UnreadableData, match="1 texts of unlabelled have no tokens, the first of them row 2"):
        preprocessor.unlabelled(["abc", "", "cab"], task)
    assert preprocessor.unlabelled(["abc", "cab"], task).lengths

"""What a language model is taught of its teacher's insides: where that starts takes no more tokens than for short rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compression.language.rows import TextRows
from compression.recipe import Distill, Evaluate
from compression.stages import lesson
from compression.stages.lesson import Comparison
from compression.stages.next_tokens import LanguageLesson
from compression.tasks import of
from compression.teacher import LanguageTeacher
from tests.compression.language.tiny import TEXTS, model, tokenizer


def test_projections_start_from_some_tokens_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = model(hidden_size=16, num_attention_heads=2, num_key_value_heads=1), model()
    rows = TextRows.of([text * 5 for text in TEXTS * 8], tokenizer(bos=True), 32, of("causal-lm", (), Evaluate(window=32)))
    settings = Distill(hidden=1.0)
    comparison = Comparison.of(student, teacher, settings, settings.weights(), apart=False)
    known = LanguageTeacher(teacher, rows, comparison.teacher)
    fitted, taken, together = lesson.losses.fitted_projections, list[int](), list[int]()

    def watched(pairs: Iterator[Any]) -> Any:
        found = list(pairs)
        together.append(len(found))
        taken.append(sum(own.shape[1] for own, _ in found))
        assert all(own.shape[:2] == theirs.shape[:2] for own, theirs in found)
        return fitted(iter(found))

    monkeypatch.setattr(lesson.losses, "fitted_projections", watched)
    monkeypatch.setattr(lesson, "FIT_TOKENS", 200)
    monkeypatch.setattr(lesson, "FIT_BATCH", 2)
    made = LanguageLesson(student, known, comparison, settings, rows)
    assert made.projections[0].shape[1:] == (16, 32)
    assert taken[0] <= 200 < sum(rows.packed.read)
    assert together[0] > 1
    made.close()

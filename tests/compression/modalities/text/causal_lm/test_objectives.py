"""What a language model is taught of its teacher's insides: where that starts takes no more tokens than for short rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compression.distillation import objective
from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.states_teacher import StatesTeacher
from compression.distillation.teacher import FeatureRequest, request_features
from compression.modalities.registry import task_of
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.losses import document_relation_loss
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Evaluate
from tests.support.tiny_language import FAMILIES, TEXTS, Largest, model, tokenizer


def test_projections_start_from_some_tokens_a_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = model(hidden_size=16, num_attention_heads=2, num_key_value_heads=1), model()
    rows = PackedDataset.of(
        [text * 5 for text in TEXTS * 8], tokenizer(bos=True), 32, task_of("causal-lm", (), Evaluate(window=32))
    )
    settings = Distill(hidden=1.0)
    comparison = FeatureAlignment.of(student, teacher, settings, settings.weights(), apart=False)
    known = StatesTeacher(teacher, rows, comparison.teacher).asked()
    fitted, taken, together = objective.fit_projections, list[int](), list[int]()

    def watched(pairs: Iterator[Any]) -> Any:
        found = list(pairs)
        together.append(len(found))
        taken.append(sum(own.shape[1] for own, _ in found))
        assert all(own.shape[:2] == theirs.shape[:2] for own, theirs in found)
        return fitted(iter(found))

    monkeypatch.setattr(objective, "fit_projections", watched)
    monkeypatch.setattr(objective, "FIT_TOKENS", 200)
    monkeypatch.setattr(objective, "FIT_BATCH", 2)
    made = DistillationObjective(student, known, comparison, settings, rows)
    assert made.projections[0].shape[1:] == (16, 32)
    assert taken[0] <= 200 < sum(rows.lengths)
    assert together[0] > 1
    made.close()


def related(vectors: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the last token's relations. (tokens, heads, size) -> (tokens, heads)."""
    return ((vectors * vectors[-1:]).sum(dim=-1) / vectors.shape[-1] ** 0.5).log_softmax(dim=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_documents_side_by_side_is_that_of_each_alone(family: str, tmp_path: Path) -> None:
    teacher = model(family)
    student = model(family, initializer_range=0.1)
    task = task_of("causal-lm", (), Evaluate(window=32))
    rows = PackedDataset.of(TEXTS * 2, tokenizer(bos=True), 48, task)
    batch = next(iter(rows.by_length(len(rows))))
    assert (batch.mask == 0).any()
    settings = Distill(soft=0.0, hidden=0.0, attention=1.0)
    comparison = FeatureAlignment.of(student, teacher, settings, settings.weights(), apart=False)
    known = StatesTeacher(teacher, rows, comparison.teacher, cache_file=(tmp_path / "states", 1e9)).asked()
    made = DistillationObjective(student, known, comparison, settings, rows)
    found = made.terms(batch)["attention"]
    look, total, count = comparison.student, 0.0, 0
    for row, mask, positions in zip(batch.ids, batch.mask, batch.positions, strict=True):
        real = int(mask.sum())
        starts = [place for place in range(real) if positions[place] == 0]
        for start, end in zip(starts, [*starts[1:], real], strict=True):
            document = PackedBatch.of([0], [[(0, end - start, 1)]], torch.cat([row[start:end], row[:1]]))
            with torch.no_grad():
                mine, theirs = (request_features(network, document, task, look).relations for network in (student, teacher))
            # By the formula: each token's relations with itself and with what came before it.
            for kind in range(3):
                for at in range(end - start):
                    p, q = (related(one[kind, 0, : at + 1].view(at + 1, comparison.heads, -1)) for one in (theirs, mine))
                    total += float((p.exp() * (p - q)).sum())
                    count += comparison.heads
    assert len(starts) > 1
    assert found.item() == pytest.approx(total / count, rel=2e-3)  # what is known of the teacher has 16 bits
    found.backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters())
    made.close()


def test_attention_of_rows_takes_the_memory_of_one(tmp_path: Path) -> None:
    network = model()
    rows = PackedDataset.of(TEXTS * 8, tokenizer(bos=True), 48, task_of("causal-lm", (), Evaluate(window=32)))
    batch = next(iter(rows.by_length(8)))
    said = request_features(network, batch, rows.task, FeatureRequest(relations=2)).relations
    given, tokens = said.detach().requires_grad_(True), batch.ids.shape[1]
    with Largest() as seen:
        document_relation_loss(given, said.detach() * 0.9, batch, 4).backward()
    assert len(batch.ids) == 8
    assert seen.elements <= max(given.numel(), 4 * tokens * tokens)

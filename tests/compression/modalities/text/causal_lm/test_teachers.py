"""Several teachers of a language model: what they say together, kept or asked, and on disk."""

from pathlib import Path

import pytest
import torch

from compression.distillation import teacher as caches
from compression.distillation.live_teacher import Member
from compression.distillation.objective import DistillationObjective, FeatureAlignment
from compression.distillation.states_teacher import StatesTeacher
from compression.distillation.teacher import FeatureRequest
from compression.modalities.losses import fuse_teachers
from compression.modalities.registry import task_of
from compression.modalities.text.causal_lm import hidden_states, losses
from compression.modalities.text.causal_lm.packed_examples import PackedDataset
from compression.modalities.text.causal_lm.packed_language_model import PACKED_TEXTS
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Evaluate
from tests.support.tiny_language import TEXTS, VOCABULARY, model, tokenizer

WEIGHTS, TEMPERATURE = (3.0, 1.0, 2.0), 2.0
NARROW = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}


def rows_of() -> PackedDataset:
    return PackedDataset.of(TEXTS * 4, tokenizer(bos=True), 32, task_of("causal-lm", (), Evaluate(window=32)))


def members(rows: PackedDataset) -> list[Member]:
    """Three models of unlike widths and families, of one vocabulary."""
    made = model("llama"), model("qwen2", **NARROW), model("gpt2")
    return [Member(one, rows, weight) for one, weight in zip(made, WEIGHTS, strict=True)]


def wanted(some: list[Member], student: torch.nn.Module, rows: PackedDataset) -> float:
    """KL(mean of the softened distributions ‖ student) × τ², over all scored tokens, by the formula."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in rows.by_length(4):
            each = [one.model(**batch.inputs).logits[batch.asked] for one in some]
            shares = [
                weight / sum(WEIGHTS) * (one / TEMPERATURE).softmax(-1) for one, weight in zip(each, WEIGHTS, strict=True)
            ]
            p = torch.stack(shares).sum(dim=0)
            q = (student(**batch.inputs).logits[batch.asked] / TEMPERATURE).log_softmax(-1)
            total += float((p * (p.log() - q)).sum()) * TEMPERATURE**2
            count += len(p)
    return total / count


def soft(objective: DistillationObjective, rows: PackedDataset) -> float:
    batches = list(rows.by_length(4))
    with torch.no_grad():
        found = sum(float(objective.terms(batch)["soft"]) * batch.weight for batch in batches)
    return found / sum(batch.weight for batch in batches)


def objective_of(rows: PackedDataset, student: object, known: StatesTeacher, **terms: float) -> DistillationObjective:
    settings = Distill(temperature=TEMPERATURE, hard=0.0, **{"hidden": 0.0, **terms})
    alignment = FeatureAlignment.of(student, known.model, settings, settings.weights(), apart=False)  # type: ignore[arg-type]
    return DistillationObjective(student, known, alignment, settings, rows)  # type: ignore[arg-type]


@pytest.mark.parametrize("room", ["memory", "disk", "none", "some"])
def test_a_student_follows_the_mean_of_all_teachers_wherever_their_states_are(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, student = rows_of(), model(initializer_range=0.1)
    if room != "memory":
        monkeypatch.setattr(caches, "TEACHER_BYTES", 2 * 32 * sum(rows.lengths) if room == "some" else 0)
    cache = (tmp_path / "states", 1e9 if room == "disk" else 0.0)
    some = members(rows)
    known = StatesTeacher.of(some, FeatureRequest(), cache_file=cache)
    assert known.asks == {"memory": 3, "disk": 3, "none": 0, "some": 1}[room] * len(rows)
    known.asked()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == (2 * 80 * sum(rows.lengths) if room == "disk" else 0)
    assert (known.note is None) == (room == "memory")
    # What is kept of the states has 16 bits.
    assert soft(objective_of(rows, student, known), rows) == pytest.approx(wanted(some, student, rows), rel=5e-3)
    known.close()
    assert not list(tmp_path.iterdir())


def test_the_states_that_are_compared_are_the_first_ones() -> None:
    rows, student = rows_of(), model(initializer_range=0.1, **NARROW)
    some = members(rows)
    both = [StatesTeacher.of(each, FeatureRequest(states=(0, 1, 2)), cache_file=None).asked() for each in (some, some[:1])]
    objectives = [objective_of(rows, student, known, hidden=1.0, attention=0.0) for known in both]
    batch = next(iter(rows.by_length(4)))
    together, alone = (one.terms(batch) for one in objectives)
    torch.testing.assert_close(together["hidden"], alone["hidden"])
    assert not torch.allclose(together["soft"], alone["soft"])


def test_the_likeliest_tokens_of_all_teachers_are_kept(tmp_path: Path) -> None:
    rows, student = rows_of(), model(initializer_range=0.1)
    some = members(rows)
    teachers = [(one.model, one.weight) for one in some]
    store, fill = PACKED_TEXTS.keep(teachers, rows, tmp_path / "kept", VOCABULARY - 1, TEMPERATURE)
    assert sum(fill) == len(rows)
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in rows.by_length(4):
            states, head = hidden_states.scored_states(student, batch), hidden_states.output_layer(student)
            targets = store.get(batch.rows.tolist(), torch.device("cpu"))
            term = losses.next_token_terms(states, head, batch.wanted, targets, ("soft",), size=7)["soft"]
            total, count = total + float(term) * batch.weight, count + batch.weight
    assert total / count == pytest.approx(wanted(some, student, rows), rel=1e-2)
    store.close()


def test_several_distributions_need_weights() -> None:
    states, head = torch.randn(2, 3), torch.nn.Linear(3, 5)
    with pytest.raises(ValueError, match="2 teachers need weights"):
        losses.fused_logits((head, head), (states, states), None, 1.0)


def test_teachers_one_after_the_other_have_the_mean_of_all_at_once() -> None:
    torch.manual_seed(0)
    heads, states = [torch.nn.Linear(3, 5) for _ in range(3)], [torch.randn(2, 3) for _ in range(3)]
    weights = torch.tensor([1.0, 2.0, 0.5])
    found = losses.fused_logits(heads, states, weights, 3.0)
    together = torch.stack([head(own) for head, own in zip(heads, states, strict=True)])
    torch.testing.assert_close(found, fuse_teachers(together, weights, 3.0))

"""The one training loop takes packed rows as it takes any: a student follows its teacher, and parts change nothing."""

import torch
from torch import Tensor

from bench.language.windows import document_losses
from compression.evaluation.validate import Validation
from compression.modalities.text.causal_lm import hidden_states
from compression.modalities.text.causal_lm.batches import PackedBatch
from compression.modalities.text.causal_lm.losses import FullTargets, next_token_terms
from compression.modalities.text.causal_lm.packing import Packed
from compression.modalities.text.scoring.perplexity import figures
from compression.system.progress import run_silently
from compression.training.config import TrainingConfig
from compression.training.trainer import train
from tests.support.tiny_language import TEXTS, documents, model
from tests.support.trainings import run_of

FOUND = documents([text for number in range(6) for text in (f"{TEXTS[0]} {number}", TEXTS[2][number:], TEXTS[1])])
ROWS = Packed(FOUND, 48)


def objective(student: torch.nn.Module, teacher: torch.nn.Module, batch: PackedBatch) -> Tensor:
    with torch.no_grad():
        wanted = FullTargets((hidden_states.scored_states(teacher, batch),), (hidden_states.output_layer(teacher),), 2.0)
    found = next_token_terms(
        hidden_states.scored_states(student, batch), hidden_states.output_layer(student), batch.wanted, wanted, size=16
    )
    return found["soft"] + 0.5 * found["hard"]


def test_a_student_learns_of_its_teacher_and_the_text() -> None:
    teacher, student = model(initializer_range=0.1), model(initializer_range=0.02, hidden_size=16)

    def validation() -> Validation:
        loss = figures(document_losses(student, FOUND, length=48, stride=24)).loss.value
        return Validation(-loss, -loss)

    plan = TrainingConfig("distill", epochs=6, rate=1e-2, batch=3, seed=0, accumulate=2)
    outcome = run_silently(train(student, plan, ROWS, validation, lambda batch: objective(student, teacher, batch)))
    assert -outcome.best.score < 0.9 * -outcome.before.score
    assert validation().score == outcome.best.score


def test_layers_that_are_computed_again_backward_have_the_same_gradients() -> None:
    teacher, student, batch = model(initializer_range=0.1), model().train(), ROWS.batch([0, 1])
    plain = torch.autograd.grad(objective(student, teacher, batch), list(student.parameters()))
    calls = []
    student.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    student.activation_checkpointing_enable()
    again = torch.autograd.grad(objective(student, teacher, batch), list(student.parameters()))
    assert len(calls) == 2
    for one, other in zip(again, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_batches_in_parts_and_together_have_the_gradients_of_all_tokens_at_once() -> None:
    teacher, student = model(initializer_range=0.1), model()

    def gradients(batches: list[list[int]], parts: int) -> list[Tensor]:
        plan = TrainingConfig("distill", 1, 1e-3, 4, 0, parts=parts, precision="float32")
        run = run_of(student, plan, lambda batch: objective(student, teacher, batch))
        run.begin(Validation(0.0, 0.0))
        assert run.gradients([ROWS.batch(rows) for rows in batches])
        found = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]
        run.optimizer.zero_grad()
        return [*found, torch.tensor(run.where.last_loss)]

    rows = list(range(len(ROWS)))
    assert len({ROWS.asked[row] for row in rows}) > 1  # rows do not count the same
    whole = gradients([rows], 1)
    for split in (gradients([rows], 3), gradients([rows[:1], rows[1:]], 1), gradients([rows[:3], rows[3:]], 2)):
        for ours, theirs in zip(split, whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)

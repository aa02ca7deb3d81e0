"""The one training loop takes packed rows as it takes any: a student follows its teacher, and parts change nothing."""

import pytest
import torch
from torch import Tensor

from compression import training
from compression.budget import Budget
from compression.evaluate import Validation
from compression.language import evaluate, models
from compression.language.losses import Whole, terms
from compression.language.packing import Packed
from compression.language.sequences import Sequences
from compression.plan import Plan
from compression.scoring.language import figures
from compression.training import Outcome, train
from tests.compression.language.tiny import TEXTS, documents, model

FOUND = documents([text for number in range(6) for text in (f"{TEXTS[0]} {number}", TEXTS[2][number:], TEXTS[1])])
ROWS = Packed(FOUND, 48)


def lesson(student: torch.nn.Module, teacher: torch.nn.Module, batch: Sequences) -> Tensor:
    with torch.no_grad():
        wanted = Whole(models.asked(teacher, batch), models.head(teacher), 2.0)
    found = terms(models.asked(student, batch), models.head(student), batch.wanted, wanted, size=16)
    return found["soft"] + 0.5 * found["hard"]


def test_a_student_learns_of_its_teacher_and_the_text() -> None:
    teacher, student = model(initializer_range=0.1), model(initializer_range=0.02, hidden_size=16)

    def validation() -> Validation:
        loss = figures(evaluate.told(student, FOUND, length=48, stride=24)).loss.value
        return Validation(-loss, -loss)

    plan = Plan("distill", epochs=6, rate=1e-2, batch=3, seed=0, accumulate=2)
    ticks = train(student, plan, ROWS, None, lambda batch: lesson(student, teacher, batch), validation=validation)
    losses = []
    while True:
        try:
            losses.append(next(ticks))
        except StopIteration as end:
            outcome: Outcome = end.value
            break
    assert -outcome.best.score < 0.9 * -outcome.before.score
    assert validation().score == outcome.best.score
    with pytest.raises(ValueError, match="nothing to choose"):
        next(train(student, plan, ROWS, None, lambda batch: lesson(student, teacher, batch)))


def test_layers_that_are_computed_again_backward_have_the_same_gradients() -> None:
    teacher, student, batch = model(initializer_range=0.1), model().train(), ROWS.batch([0, 1])
    plain = torch.autograd.grad(lesson(student, teacher, batch), list(student.parameters()))
    calls = []
    student.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    student.activation_checkpointing_enable()
    again = torch.autograd.grad(lesson(student, teacher, batch), list(student.parameters()))
    assert len(calls) == 2
    for one, other in zip(again, plain, strict=True):
        torch.testing.assert_close(one, other)


def test_batches_in_parts_and_together_have_the_gradients_of_all_tokens_at_once() -> None:
    teacher, student = model(initializer_range=0.1), model()

    def gradients(batches: list[list[int]], parts: int) -> list[Tensor]:
        run = training._Run(student, Plan("distill", 1, 1e-3, 4, 0, parts=parts, precision="float32"), [], 1, Budget())
        run.begin(Validation(0.0, 0.0))
        assert run.gradients([ROWS.batch(rows) for rows in batches], lambda batch: lesson(student, teacher, batch))
        found = [parameter.grad.clone() for parameter in student.parameters() if parameter.grad is not None]
        run.optimizer.zero_grad()
        return [*found, torch.tensor(run.where.last_loss)]

    rows = list(range(len(ROWS)))
    assert len({ROWS.asked[row] for row in rows}) > 1  # rows do not count the same
    whole = gradients([rows], 1)
    for split in (gradients([rows], 3), gradients([rows[:1], rows[1:]], 1), gradients([rows[:3], rows[3:]], 2)):
        for ours, theirs in zip(split, whole, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)

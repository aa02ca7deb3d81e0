"""Before the task: what a teacher makes of plain texts, layer by layer, without any label (TinyBERT, Jiao et al. 2020)."""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from compression.batches import Batch, Encoded
from compression.evaluate import BATCH, Validation, smaller
from compression.plan import counted
from compression.recipe import Distill, General
from compression.report import Event
from compression.stages.lesson import Comparison, Lesson, reported
from compression.stages.teachers import rows_of
from compression.state import State
from compression.teacher import Teacher, ask
from compression.training import train
from compression.weighting import Scheduled

ASK, PHASE = "ask of unlabelled text", "general"


def general(state: State, settings: Distill) -> Iterator[Event]:
    """Train the student on hidden states, attention and embeddings of the unlabelled texts; train's where there are none.

    Epochs are judged by the same loss on validation's texts; their labels are not looked at.
    """
    asked = settings.general
    assert asked is not None, "the caller has looked"  # noqa: S101
    student_rows, teacher_rows = _texts(state)
    checked = rows_of(state, state.cast.base if state.cast is not None else None, state.rows["train"], ())[1]
    yield from state.journey.mark("distilled", ASK, done=False)
    model = _teacher(state, asked).to(state.device).requires_grad_(False)
    terms = {name: (weight, weight) for name in ("hidden", "attention", "embedding") if (weight := getattr(asked, name))}
    comparison = Comparison.of(state.model, model, settings, terms, apart=True)
    teacher = Teacher(
        model,
        teacher_rows,
        comparison.teacher,
        parts=state.parts,
        logits=torch.zeros((len(teacher_rows), 0)),
        spill=state.spill("general"),
    )
    judge = Teacher(model, checked, comparison.teacher, parts=state.parts, logits=torch.zeros((len(checked), 0)))
    asked_of = max(teacher.asks + judge.asks, 1)
    for tick in counted(state.heed, asked_of, teacher.asking(), judge.asking()):
        yield from state.journey.at("distilled", ASK, tick)
    lesson = Lesson(state.model, teacher, comparison, settings, student_rows, parts=state.parts, weigher=Scheduled(terms))
    plan = state.plan("distill.general", epochs=asked.epochs, rate=asked.rate, patience=asked.patience)

    @torch.no_grad()
    def judged() -> Validation:
        training = state.model.training
        state.model.eval()
        rows, total = state.rows["validation"], 0.0
        for whole in rows.by_length(smaller(BATCH, state.parts)):
            batch: Batch = whole.to(state.device)
            given = ask(state.model, batch, state.task, comparison.student)
            found = lesson.insides.terms(given, judge.says(batch), batch)
            total += lesson.weighting.total(found).item() * len(batch.rows) / len(rows)
        state.model.train(training)
        return Validation(-total, -total)

    ticks = train(
        state.model,
        plan,
        student_rows,
        state.rows["validation"],
        lesson,
        validation=judged,
        extra=lesson.parameters,
        course=state.course("distilled", PHASE),
        budget=state.budget,
    )
    outcome = yield from state.journey.follow("distilled", PHASE, reported(ticks, lesson))
    teacher.close()
    judge.close()
    texts = f"{len(student_rows)} unlabelled texts"
    if state.unlabelled is None:
        texts = f"train's {len(student_rows)} texts, since the data has no unlabelled ones"
    state.notes.append(
        f"General phase on {texts}, taught by the {asked.teacher} model: loss on validation's texts "
        f"{-outcome.before.score:.4f} → {-outcome.best.score:.4f} (best of epochs 0 to {asked.epochs}: {outcome.best_epoch})."
    )
    state.notes += (*comparison.said(), *outcome.remarks)


def _texts(state: State) -> tuple[Encoded, Encoded]:
    """Return the texts to learn from as the student and as the teacher read them."""
    base = state.cast.base if state.cast is not None else None
    if state.unlabelled is None:
        return state.rows["train"], rows_of(state, base, state.rows["train"], ())[0]
    cast = state.cast
    if cast is None or cast.student is None or cast.student.reading.types == cast.base.reading.types:
        return state.unlabelled, state.unlabelled
    return state.unlabelled, cast.base.reading.unlabelled(cast.dataset.unlabelled, state.task)


def _teacher(state: State, asked: General) -> PreTrainedModel:
    if asked.teacher == "base":
        assert state.cast is not None, "a job has a cast"  # noqa: S101
        return state.cast.opened(state.cast.base, state.recipe.train.seed)
    assert state.teacher is not None, "the baseline was prepared"  # noqa: S101
    return state.teacher

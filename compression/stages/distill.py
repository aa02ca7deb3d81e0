"""Teach the narrow, fake-quantized student what its teachers know (Hinton et al. 2015; Jiao et al. 2020)."""

from collections.abc import Generator, Iterator
from dataclasses import replace

import torch

from compression.augment.stage import with_more_rows
from compression.batches import Encoded
from compression.cast import Texts
from compression.plan import Plan, Tick, portion
from compression.recipe import Distill, Gate
from compression.report import Event, Log
from compression.saving import Tensors
from compression.simulating import simulate, smooth
from compression.stages.further import further, is_under_way, score_of_baseline
from compression.stages.gate import gated
from compression.stages.general import general
from compression.stages.hold import HELD, lighten, note
from compression.stages.lesson import Lesson, reported
from compression.stages.taught import lesson_of
from compression.stages.teachers import ASK, hear
from compression.state import State
from compression.teacher import Teacher
from compression.training import train

PHASE, OPEN, LAST = "distill", "gate", "last"
"""OPEN, LAST: under these names a save keeps whether insides count, and what weights the terms had after the last epoch."""


def distill(state: State) -> Iterator[Event]:
    """Train on soft targets, labels, hidden states, attention and embeddings, as weighted; on unlabelled text before, if asked.

    The student trains without dropout: the teachers' answers were computed once and are for the whole text.
    """
    settings = state.recipe.distill
    assert settings is not None and state.teacher is not None, "the pipeline calls stages that the recipe has"  # noqa: S101, PT018
    if state.cast is not None and state.cast.student is not None:
        enter(state)
    rows, made = state.rows["train"], list[Texts]()
    task_phase = is_under_way(state) or (state.saver is not None and state.saver.is_at("distilled", PHASE))
    known = state.saver.beside() if state.saver is not None and task_phase else {}
    if settings.general is not None and not task_phase:
        yield from general(state, settings)
    if settings.augment is not None and state.material is not None:
        rows, made = yield from with_more_rows(state, settings.augment, state.material)
    yield from state.journey.mark("distilled", ASK, done=False)
    heard = yield from hear(state, settings, rows, made)
    guide = heard.guide.to(state.device).requires_grad_(False)
    # All that can be asked of it is asked before it may be rounded.
    closed = OPEN in known and not known[OPEN].item()
    compared = settings.answers_alone() if closed else settings
    asking = portion(lesson_of(state, compared, guide, rows, heard.rows, heard.logits), heard.asked, heard.asked + 1)
    lesson = yield from state.journey.follow("distilled", ASK, asking)
    base = score_of_baseline(state) if state.recipe.remedy == "apply" else None
    yield from _where_kept(lesson.teacher)
    try:
        is_held, said = yield from lighten(state, settings, guide, before=HELD in known)
        beside = {HELD: torch.tensor(True)} if is_held else {}
        yield from _task_phase(state, settings, rows, lesson, base, known, beside)
    finally:
        lesson.close()
    note(state, said)  # the notes are those of the attempt before, where this one went on from its save


def enter(state: State) -> None:
    """Put the student that the user names in the place of the model, smoothed and fake-quantized where the recipe says so."""
    cast, seed = state.cast, state.recipe.train.seed
    assert cast is not None and cast.student is not None, "the caller has looked"  # noqa: S101, PT018
    student = cast.student
    before = state.model
    state.model = cast.opened(student, seed).to(state.device)
    state.base_rows, state.rows = state.rows, {split: cast.read(student, split) for split in state.rows}
    if state.recipe.quantize is not None:
        smooth(state)
        simulate(state)
    if state.unlabelled is not None:
        state.unlabelled = student.reading.unlabelled(cast.dataset.unlabelled, state.task)
    if state.material is not None:
        task = state.task
        state.material = replace(state.material, encode=lambda rows, labels: student.reading.rows(rows, labels, task))
    state.notes.append(
        f"The student is the model that the job names ({state.model.config.model_type}, "
        f"{sum(p.numel() for p in state.model.parameters()):,} parameters), not the {before.config.model_type} model before it."
    )


def _where_kept(teacher: Teacher) -> Iterator[Event]:
    if not teacher.keeps:
        yield Log(message=f"The teacher's states would take {teacher.bytes / 2**30:.1f} GiB: it is asked again in each epoch.")
    elif teacher.on_disk:
        yield Log(message=f"The teacher's states are kept on disk ({teacher.bytes / 2**30:.1f} GiB).")


def _gate(
    state: State, asked: Gate, settings: Distill, rows: Encoded, lesson: Lesson, plan: Plan, known: Tensors
) -> Generator[Event, None, bool]:
    """Try what is compared of the insides, or do as an earlier attempt's save of this phase says."""
    if OPEN in known:  # the lesson was made as it says
        return bool(known[OPEN].item())
    found = yield from gated(state, asked, settings, rows, lesson, plan)
    return found


def _task_phase(
    state: State, settings: Distill, rows: Encoded, lesson: Lesson, base: float | None, known: Tensors, beside: Tensors
) -> Iterator[Event]:
    """base: what the baseline scores on validation, for the remedy that a job applies by itself; None where it shall not.

    known: what an earlier attempt's save of this phase keeps beside its training; beside: what those of this one keep so far.
    """
    plan = state.plan("distill", epochs=settings.epochs, rate=settings.rate, patience=settings.patience)
    if settings.gate is not None:
        is_open = yield from _gate(state, settings.gate, settings, rows, lesson, plan, known)
        beside = beside | {OPEN: torch.tensor(is_open)}
    if not is_under_way(state):
        first = lesson.weighting.weights()
        kept = beside | {LAST: known[LAST]} if LAST in known else dict(beside)

        def after_epoch(news: Tick) -> None:
            # At its end training puts the best epoch's weights back, learned ones of terms too.
            lesson.before_step(news.step - 1, news.total)  # a new attempt may have had no step left to do
            kept[LAST] = torch.tensor([*lesson.weighting.weights().values()], dtype=torch.float64)

        ticks = train(
            state.model,
            plan,
            rows,
            state.rows["validation"],
            lesson,
            before_step=lesson.before_step,
            extra=lesson.parameters,
            course=state.course("distilled", PHASE, kept),
            budget=state.budget,
        )
        outcome = yield from state.journey.follow("distilled", PHASE, reported(ticks, lesson, after_epoch))
        state.notes.append(
            f"Distillation: validation {state.task.metric} {outcome.before} → {outcome.best} "
            f"(best of epochs 0 to {settings.epochs}: {outcome.best_epoch})."
        )
        state.notes += (*lesson.insides.comparison.said(), *outcome.remarks)
        if settings.weighting != "fixed":
            last = kept[LAST].tolist() if LAST in kept else first.values()
            changes = ", ".join(f"{term} {w:.4g} → {now:.4g}" for (term, w), now in zip(first.items(), last, strict=True))
            state.notes.append(f"Weights ({settings.weighting}), first → last: {changes}.")
    lesson.before_step(1, 1)  # for what is trained further, weights are where a schedule ends
    if base is not None:
        yield from further(state, settings, rows, plan, lesson, base, beside)

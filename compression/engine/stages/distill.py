"""Teach the narrow, fake-quantized student what its teachers know (Hinton et al. 2015; Jiao et al. 2020)."""

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from compression.distillation.objective import DistillationObjective
from compression.distillation.teacher import Teacher
from compression.engine.context import StageContext
from compression.engine.stages.augment import augment_rows
from compression.engine.stages.gate import gated
from compression.engine.stages.general_distillation import general
from compression.engine.stages.insert_quantization import insert_quantization, smooth_model
from compression.engine.stages.objectives import log_terms, objective_for
from compression.engine.stages.second_training import further, is_under_way, score_of_baseline
from compression.engine.stages.teacher_ensemble import ASK, hear
from compression.engine.stages.teacher_precision import HELD, note, quantize_teacher
from compression.modalities.base import Examples
from compression.models.tensors import Tensors
from compression.schema.events import Event, Log
from compression.schema.recipe.distill import Distill, Gate
from compression.system.progress import Step, portion_of
from compression.training.config import TrainingConfig
from compression.training.trainer import train

PHASE, OPEN, LAST = "distill", "gate", "last"
"""OPEN, LAST: under these names a save keeps whether insides count, and what weights the terms had after the last epoch."""


def distill(context: StageContext) -> Iterator[Event]:
    """Train on soft targets, labels, hidden states, attention and embeddings, as weighted; on unlabelled text before, if asked.

    The student trains without dropout: the teachers' answers were computed once and are for the whole text.
    """
    settings = context.recipe.distill
    assert settings is not None and context.teacher is not None, "the pipeline calls stages that the recipe has"  # noqa: S101, PT018
    if context.cast is not None and context.cast.student is not None:
        enter(context)
    rows: Examples = context.rows["train"]
    made: Sequence[Any] = ()
    task_phase = is_under_way(context) or (context.checkpointer is not None and context.checkpointer.is_at("distilled", PHASE))
    known = context.checkpointer.beside() if context.checkpointer is not None and task_phase else {}
    if settings.general is not None and not task_phase:
        yield from general(context, settings)
    if settings.augment is not None and context.augmenter is not None:
        augmented = yield from augment_rows(context, settings.augment, context.augmenter)
        rows, made = augmented.rows, augmented.made
    yield from context.tracker.mark("distilled", ASK, done=False)
    heard = yield from hear(context, settings, rows, made)
    guide = heard.guide.to(context.device).requires_grad_(False)
    # All that can be asked of it is asked before it may be rounded.
    closed = OPEN in known and not known[OPEN].item()
    compared = settings.answers_alone() if closed else settings
    precompute = portion_of(
        objective_for(context, compared, guide, rows, heard.rows, heard.logits), heard.asked, heard.asked + 1
    )
    objective = yield from context.tracker.follow("distilled", ASK, precompute)
    base = score_of_baseline(context) if context.recipe.remedy == "apply" else None
    yield from _where_kept(objective.teacher)
    try:
        is_held, said = yield from quantize_teacher(context, settings, guide, before=HELD in known)
        beside = {HELD: torch.tensor(True)} if is_held else {}
        yield from _task_phase(context, settings, rows, objective, base, known, beside)
    finally:
        objective.close()
    note(context, said)  # the notes are those of the attempt before, where this one went on from its save


def enter(context: StageContext) -> None:
    """Put the student that the user names in the place of the model, smoothed and fake-quantized where the recipe says so."""
    cast, seed = context.cast, context.recipe.train.seed
    assert cast is not None and cast.student is not None, "the caller has looked"  # noqa: S101, PT018
    student = cast.student
    before = context.model
    context.model = cast.opened(student, seed).to(context.device)
    context.base_rows, context.rows = context.rows, {split: cast.read(student, split) for split in context.rows}
    if context.recipe.quantize is not None:
        smooth_model(context)
        insert_quantization(context)
    if context.unlabelled is not None:
        context.unlabelled = student.reading.unlabelled(cast.dataset.unlabelled, context.task)
    if context.augmenter is not None:
        context.augmenter = context.augmenter.read_by(student.reading, context.task)
    parameters = sum(p.numel() for p in context.model.parameters())
    context.notes.append(
        f"The student is the model that the job names ({context.model.config.model_type}, {parameters:,} parameters), "
        f"not the {before.config.model_type} model before it."
    )


def _where_kept(teacher: Teacher) -> Iterator[Event]:
    if not teacher.keeps:
        yield Log(message=f"The teacher's states would take {teacher.bytes / 2**30:.1f} GiB: it is asked again in each epoch.")
    elif teacher.on_disk:
        yield Log(message=f"The teacher's states are kept on disk ({teacher.bytes / 2**30:.1f} GiB).")


def _gate(
    context: StageContext,
    asked: Gate,
    settings: Distill,
    rows: Examples,
    objective: DistillationObjective,
    plan: TrainingConfig,
    known: Tensors,
) -> Generator[Event, None, bool]:
    """Try what is compared of the insides, or do as an earlier attempt's save of this phase says."""
    if OPEN in known:  # the lesson was made as it says
        return bool(known[OPEN].item())
    found = yield from gated(context, asked, settings, rows, objective, plan)
    return found


def _task_phase(
    context: StageContext,
    settings: Distill,
    rows: Examples,
    objective: DistillationObjective,
    base: float | None,
    known: Tensors,
    beside: Tensors,
) -> Iterator[Event]:
    """base: what the baseline scores on validation, for the remedy that a job applies by itself; None where it shall not.

    known: what an earlier attempt's save of this phase keeps beside its training; beside: what those of this one keep so far.
    """
    plan = context.plan("distill", epochs=settings.epochs, rate=settings.rate, patience=settings.patience)
    if settings.gate is not None:
        is_open = yield from _gate(context, settings.gate, settings, rows, objective, plan, known)
        beside = beside | {OPEN: torch.tensor(is_open)}
    if not is_under_way(context):
        first = objective.weighting.weights()
        kept = beside | {LAST: known[LAST]} if LAST in known else dict(beside)

        def after_epoch(news: Step) -> None:
            # At its end training puts the best epoch's weights back, learned ones of terms too.
            objective.before_step(news.step - 1, news.total)  # a new attempt may have had no step left to do
            kept[LAST] = torch.tensor([*objective.weighting.weights().values()], dtype=torch.float64)

        ticks = train(
            context.model,
            plan,
            rows,
            context.rows["validation"],
            objective,
            before_step=objective.before_step,
            extra=objective.parameters,
            resumable=context.resumable("distilled", PHASE, kept),
            budget=context.budget,
        )
        outcome = yield from context.tracker.follow("distilled", PHASE, log_terms(ticks, objective, after_epoch))
        context.notes.append(
            f"Distillation: validation {context.task.metric} {outcome.before} → {outcome.best} "
            f"(best of epochs 0 to {settings.epochs}: {outcome.best_epoch})."
        )
        context.notes += (*objective.feature_losses.comparison.said(), *outcome.remarks)
        if settings.weighting != "fixed":
            last = kept[LAST].tolist() if LAST in kept else first.values()
            changes = ", ".join(f"{term} {w:.4g} → {now:.4g}" for (term, w), now in zip(first.items(), last, strict=True))
            context.notes.append(f"Weights ({settings.weighting}), first → last: {changes}.")
    objective.before_step(1, 1)  # for what is trained further, weights are where a schedule ends
    if base is not None:
        yield from further(context, settings, rows, plan, objective, base, beside)

"""Distills a teacher's layers on unlabelled texts, before the task (TinyBERT, Jiao et al. 2020)."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel

from compression.distillation.live_teacher import LiveTeacher, Member
from compression.distillation.loss_weights import ScheduledWeights
from compression.distillation.objective import AnyTeacher, DistillationObjective, FeatureAlignment
from compression.distillation.teacher import Teacher, request_features
from compression.engine.context import StageContext
from compression.engine.stages.objectives import log_terms, objective_hooks
from compression.engine.stages.task_training import NamedTraining
from compression.engine.stages.teacher_ensemble import rows_of
from compression.engine.stages.teacher_precision import asks_in_half, record_asking
from compression.evaluation.validate import Validation
from compression.modalities.base import Batch, Examples
from compression.modalities.sampling import BATCH, micro_batch_size
from compression.quantization.precision import gradient_precision
from compression.schema.events import Event
from compression.schema.recipe.distill import Distill
from compression.system.progress import count_rows

ASK, PHASE = "ask of unlabelled text", "general"


def general(context: StageContext, settings: Distill, training: NamedTraining | None = None) -> Iterator[Event]:
    """Train the student on hidden states, attention and embeddings of the unlabelled texts, or of train's if there are none.
    Epochs are judged by the same loss on validation's texts; their labels are not read. training: of several, which one.
    """
    asked, training = settings.general, training or NamedTraining()
    assert asked is not None, "the caller has looked"  # noqa: S101
    student_rows, teacher_rows = _texts(context)
    checked = rows_of(context, context.models.base, context.rows["train"], ())[1]
    asking, phase = ASK + training.suffix, PHASE + training.suffix
    yield from context.tracker.emit_boundary(asking, done=False)
    models, seed = context.models, context.recipe.train.seed
    model = models.opened(models.base, seed) if asked.teacher == "base" else context.prepared
    model = model.to(context.device).requires_grad_(False)
    terms = {name: (weight, weight) for name in ("hidden", "attention", "embedding") if (weight := getattr(asked, name))}
    comparison = FeatureAlignment.of(context.model, model, settings, terms, apart=True)
    teacher = _teacher(context, model, teacher_rows, comparison, context.cache_file("general"))
    judge = _teacher(context, model, checked, comparison)
    asked_of = max(teacher.asks + judge.asks, 1)
    for tick in count_rows(context.check_pause, asked_of, teacher.precompute(), judge.precompute()):
        yield from context.tracker.emit(asking, tick)
    with gradient_precision(context.recipe.train.precision):  # the first projections come from what the teacher is asked here
        objective = DistillationObjective(
            context.model, teacher, comparison, settings, student_rows, parts=context.parts, weigher=ScheduledWeights(terms)
        )
    reads, patience = objective.reads_layers, asked.patience
    plan = context.plan("distill.general", epochs=asked.epochs, rate=asked.rate, reads_layers=reads, patience=patience)
    hooks = objective_hooks(objective)
    changed = record_asking(context.saved(phase) or {}, training.beside, teacher)
    validate = partial(_validate, context, objective, judge)
    ticks = context.train(phase, plan, objective, hooks, rows=student_rows, judge=validate, beside=training.beside)
    outcome = yield from context.tracker.relay(phase, log_terms(ticks, objective, context.processes.size))
    training.general_epochs = len(outcome.curve)
    teacher.close()
    judge.close()
    texts = f"{len(student_rows)} unlabelled texts"
    if context.unlabelled is None:
        texts = f"train's {len(student_rows)} texts, since the data has no unlabelled ones"
    if context.task.packed is not None:
        texts = f"train's texts, in {len(student_rows)} rows"
    told = (
        f"General phase on {texts}, taught by the {asked.teacher} model: loss on validation's texts "
        f"{-outcome.before.score:.4f} → {-outcome.best.score:.4f} (best of epochs 0 to {asked.epochs}: {outcome.best_epoch})."
    )
    context.notes.extend(training.told(one) for one in (told, *comparison.notes(), *outcome.remarks, *changed))


def _teacher(
    context: StageContext,
    model: PreTrainedModel,
    rows: Examples,
    comparison: FeatureAlignment,
    cache_file: tuple[Path, float] | None = None,
) -> AnyTeacher:
    if rows.varies or comparison.teacher.maps:
        return LiveTeacher([Member(model, rows)], comparison.teacher)
    nothing = torch.zeros((len(rows), 0))
    half = context.recipe.distill is not None and asks_in_half(context, context.recipe.distill)
    return Teacher(model, rows, comparison.teacher, parts=context.parts, logits=nothing, cache_file=cache_file, half=half)


@torch.no_grad()
def _validate(context: StageContext, objective: DistillationObjective, judge: AnyTeacher) -> Validation:
    """Return the phase's loss on validation's texts. judge: the teacher of these."""
    training = context.model.training
    context.model.eval()
    rows, total = context.rows["validation"], 0.0
    with gradient_precision(context.recipe.train.precision):  # as in training
        for whole in rows.by_length(micro_batch_size(BATCH, context.parts)):
            batch: Batch = whole.to(context.device)
            given = request_features(context.model, batch, context.task, objective.feature_losses.comparison.student)
            found = objective.feature_losses.terms(given, judge.outputs(batch), batch)
            total += objective.weighting.total(found).item() * len(batch.rows) / len(rows)
    context.model.train(training)
    return Validation(-total, -total)


def _texts(context: StageContext) -> tuple[Examples, Examples]:
    models = context.models
    if context.unlabelled is None:
        return context.rows["train"], rows_of(context, models.base, context.rows["train"], ())[0]
    if models.student is None or models.student.reading.reads_like(models.base.reading):
        return context.unlabelled, context.unlabelled
    return context.unlabelled, models.base.reading.unlabelled(models.dataset.unlabelled, context.task)

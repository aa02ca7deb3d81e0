"""Distills teachers into the pruned, fake-quantized student (Hinton et al. 2015; Jiao et al. 2020)."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from compression.engine.checkpoints import folder_digests
from compression.engine.context import StageContext
from compression.engine.job_models import ModelSource, with_views
from compression.engine.stages import general_distillation
from compression.engine.stages.general_distillation import general
from compression.engine.stages.insert_quantization import insert_quantization, smooth_model
from compression.engine.stages.objectives import objective_for
from compression.engine.stages.registry import ROW_SECONDS, ExpectedWork, StageRunner
from compression.engine.stages.size_training import further_phases, sized_training
from compression.engine.stages.task_training import PHASE, NamedTraining, train_task
from compression.engine.stages.teacher_ensemble import ASK, ensemble_outputs
from compression.engine.stages.teacher_precision import HELD, asks_in_half, note, quantize_teacher, restore_teacher
from compression.modalities.base import Examples
from compression.modalities.modality import Augmented, Augmenter
from compression.modalities.registry import modality_of
from compression.planning.augmentation_cost import augment_seconds
from compression.schema.events import Event, Log
from compression.schema.job_spec import Spec
from compression.schema.recipe.augment import Augment
from compression.schema.recipe.distill import Distill
from compression.system.progress import Returning, Step, portion_of
from compression.training.config import TrainingOutcome

AUGMENT = "augment"


def distill(context: StageContext) -> Iterator[Event]:
    """Train on the weighted sum of soft targets, labels, hidden states, attention and embeddings, after the general phase. The
    student trains without dropout: the teachers' outputs are of the whole text.
    """
    settings = context.recipe.distill
    assert settings is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    if context.models.student is not None:
        enter(context, context.models.student)
    prune = context.recipe.prune
    if context.recipe.auto is not None:
        yield from sized_training(context, settings, distilled)
    elif prune is not None and prune.points > 1:
        yield from distilled_again(context, settings)
    else:
        yield from distilled(context, settings)


def distilled_again(context: StageContext, settings: Distill) -> Generator[Event, None, TrainingOutcome]:
    """Distill the current model so that the teachers can be asked again, for another one."""
    kept = replace(context, originals=list(context.originals))
    return (yield from distilled(kept, settings, NamedTraining(again=True)))


def distilled(
    context: StageContext, settings: Distill, training: NamedTraining | None = None
) -> Generator[Event, None, TrainingOutcome]:
    """Distill the current model, with the general phase before. training: of several, which one."""
    training = training or NamedTraining()
    rows: Examples = context.rows["train"]
    made: Sequence[Any] = ()
    saved = context.saved(PHASE + training.suffix)
    if settings.general is not None and saved is None:
        yield from general(context, settings, training)
    if settings.augment is not None and context.augmenter is not None:
        augmented = yield from augment_rows(context, settings.augment, context.augmenter)
        rows, made = augmented.rows, augmented.made
    training.rows = len(rows)
    yield from context.tracker.emit_boundary(ASK, done=False)
    outputs = yield from ensemble_outputs(context, settings, rows, made)
    guide = outputs.guide.to(context.device).eval().requires_grad_(False)
    half = "Teachers are asked in bfloat16, which this device multiplies many times as fast as float32."
    if asks_in_half(context, settings) and half not in context.notes:
        context.notes.append(half)
    # All outputs that can be precomputed are computed before the teacher may be quantized.
    precompute = objective_for(context, settings, outputs, rows)
    objective = yield from context.tracker.relay(ASK, portion_of(precompute, outputs.asked, outputs.asked + 1))
    if objective.teacher.note is not None:
        yield Log(message=objective.teacher.note)
    is_held = False
    try:
        held = {"before": HELD in (saved or {}), "again": training.again}
        is_held, reason = yield from quantize_teacher(context, settings, guide, **held)
        if is_held:
            training.beside[HELD] = torch.tensor(True)
        phase = PHASE + training.suffix
        outcome, notes = yield from train_task(context, settings, rows, objective, phase, saved or {}, training)
    finally:
        objective.close()
        if is_held and training.again:
            restore_teacher(context, guide)
    context.note_training(training.told("Distillation"), outcome, settings.epochs)
    context.notes.extend(notes)
    note(context, reason)  # if this attempt resumed from a save, the notes are those of the earlier one
    return outcome


def phases(expected: ExpectedWork) -> Iterator[tuple[str, float]]:
    """Yield the recipe's phases: the general phase, augmentation, the teachers' outputs and the training."""
    settings = expected.recipe.distill
    assert settings is not None, "the job asks for stages that the recipe has"  # noqa: S101
    if settings.general is not None:
        texts = (expected.rows.get("unlabelled") or expected.rows["train"]) * ROW_SECONDS
        yield general_distillation.ASK, texts / 3
        yield general_distillation.PHASE, settings.general.epochs * texts * 0.5
    yield from task_phases(expected)
    if expected.recipe.auto is not None:
        yield from further_phases((general_distillation.ASK, general_distillation.PHASE, PHASE))


def task_phases(expected: ExpectedWork) -> Iterator[tuple[str, float]]:
    """Yield the phases without the general one: augmentation, the teachers' outputs and the training."""
    settings, train = expected.recipe.distill, expected.train
    assert settings is not None, "the job asks for stages that the recipe has"  # noqa: S101
    if settings.augment is not None:
        yield AUGMENT, augment_seconds(settings.augment, expected.rows["train"])
        train *= 1 + settings.augment.rows
    once, varies = expected.seeds * train / 3, expected.recipe.train.varies  # all teachers, on all rows
    yield ASK, 0.0 if varies else once
    yield PHASE, settings.epochs * (train * 0.5 + (once if varies else 0.0))


def inputs(spec: Spec, base: Path) -> dict[str, Any]:
    """Return the digests of the models and texts that only distillation reads."""
    digests = (modality_of(part.task).digests(spec, base) for part in spec.asked)
    return {
        "teachers": [folder_digests(base, folder) for folder in spec.teachers],
        "augment": next((found for found in digests if found is not None), None),
    }


STAGE = StageRunner(distill, phases, inputs, reads_unlabelled=True, asks_teachers=True)


def enter(context: StageContext, student: ModelSource) -> None:
    """Replace the model by the student that the user names, smoothed and fake-quantized if the recipe says so."""
    models, before = context.models, context.model
    context.model = models.opened(student, context.recipe.train.seed).to(context.device)
    rows = {split: models.read(student, split) for split in context.rows}
    context.rows = with_views(rows, models.task, context.recipe)
    if context.recipe.quantize is not None:
        smooth_model(context)
        insert_quantization(context)
    if context.unlabelled is not None:
        context.unlabelled = student.reading.unlabelled(models.dataset.unlabelled, context.task)
    if context.augmenter is not None:
        context.augmenter = context.augmenter.read_by(student.reading, context.task)
    parameters = sum(p.numel() for p in context.model.parameters())
    context.notes.append(
        f"The student is the model that the job names ({context.model.config.model_type}, {parameters:,} parameters), "
        f"not the {before.config.model_type} model before it."
    )


def augment_rows(context: StageContext, settings: Augment, augmenter: Augmenter) -> Generator[Event, Any, Augmented]:
    """Return train's rows followed by the new, unlabelled ones, with a note for the row and examples for the log. Nothing is
    saved: a new attempt generates the same rows again. Raises Pause, and the errors of opening the sources.
    """
    teacher = context.prepared.to(context.device)
    work = augmenter.augment(settings, context.recipe.train.seed, teacher, context.rows["train"])
    for done, total in (each := Returning(work)):
        yield from context.tracker.emit(AUGMENT, Step(done, total))
        if done:
            context.check_pause()
    found: Augmented = each.result
    context.notes.append(found.note)
    for message in (found.note, *found.examples):
        yield Log(message=message)
    return found

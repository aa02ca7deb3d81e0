"""Fuses several teachers: each runs on every row once, or on each batch if rows vary. One of them provides the features."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.distillation.live_teacher import Member
from compression.distillation.teacher import LOGITS_ALONE, Teacher
from compression.engine.context import StageContext
from compression.engine.job_models import ModelSource
from compression.engine.stages.teacher_precision import asks_in_half
from compression.evaluation.validate import Validation, validate
from compression.modalities.base import Examples
from compression.planning.distillation_rules import compares_states
from compression.schema.events import Event, Log
from compression.schema.recipe.distill import Distill
from compression.system.progress import count_rows, portion_of

ASK = "ask the teacher"
LEAST_SCORE = 1e-6  #: least weight of a teacher, even if it scores nothing on validation: weights must be positive


@dataclass(frozen=True)
class TeacherMember:
    """One teacher. open: returns the model; who: its source."""

    name: str
    open: Callable[[], PreTrainedModel]
    who: ModelSource


@dataclass(frozen=True)
class EnsembleOutputs:
    """The teachers' outputs. guide: the teacher that provides hidden states. rows: train as tokenized for the guide. logits:
    fused, None of a single teacher. asked: how many teachers have run on all rows. weight: the guide's, beside the `others`
    whose answers are fused with its later: batch by batch, if rows vary, or if answers are as wide as a vocabulary.
    """

    guide: PreTrainedModel
    rows: Examples
    logits: Tensor | None = None
    asked: int = 0
    weight: float = 1.0
    others: tuple[Member, ...] = ()


def members(context: StageContext, settings: Distill) -> list[TeacherMember]:
    """Return the teachers: the baseline, the other seeds, then those that the job names."""
    models, seed = context.models, context.recipe.train.seed
    found = []
    for number, model in enumerate([context.prepared, *context.originals][: settings.teachers.seeds]):
        name = "the baseline" if number == 0 else f"the original with seed {seed + number}"
        found.append(TeacherMember(name, model.eval, models.base))
    return found + [TeacherMember(who.param, partial(models.opened, who, seed), who) for who in models.teachers]


def rows_of(context: StageContext, who: ModelSource, rows: Examples, made: Sequence[Any]) -> tuple[Examples, Examples]:
    """Return train and validation as tokenized for a model. rows: train for the student, with the `made` texts last."""
    models = context.models
    reader = models.student or models.base
    if who.param == reader.param or (who.aligned and who.reading.reads_like(reader.reading)):
        return rows, context.rows["validation"]
    return models.read(who, "train", made), models.read(who, "validation")


def ensemble_outputs(
    context: StageContext, settings: Distill, rows: Examples, made: Sequence[Any]
) -> Generator[Event, None, EnsembleOutputs]:
    """Run every teacher on all rows and fuse the logits; a single teacher is left to the caller to run. Raises Pause. The guide
    and the weights are chosen on validation; test is not read. If rows vary, or if answers are distributions over a vocabulary,
    no teacher is run on train.
    """
    found, half = members(context, settings), asks_in_half(context, settings)
    if len(found) == 1:
        return EnsembleOutputs(found[0].open().to(context.device), rows_of(context, found[0].who, rows, made)[0])
    scores: list[Validation] = []
    later = rows.varies or context.task.packed is not None
    answers: list[Tensor] = []
    live: list[Member] = []
    guide: tuple[float, int, PreTrainedModel, Examples] | None = None
    for number, member in enumerate(found):
        model = member.open().to(context.device).eval().requires_grad_(False)
        own, validation = rows_of(context, member.who, rows, made)
        scores.append(validate(model, validation, context.parts))
        score = scores[-1].score
        if later:
            live.append(Member(model, own))
        else:
            teacher = Teacher(model, own, LOGITS_ALONE, parts=context.parts, half=half)
            precompute = count_rows(context.check_pause, len(own), teacher.precompute())
            yield from context.tracker.relay(ASK, portion_of(precompute, number, len(found) + 1))
            answers.append(teacher.logits)
        left: PreTrainedModel | None = model
        if guide is None or (member.who.aligned, score) > (guide[0] > float("-inf"), guide[0]):
            left = guide[2] if guide is not None else None
            guide = (score if member.who.aligned else float("-inf"), number, model, own)
        if left is not None and not rows.varies:  # all run beside the guide if rows vary
            left.cpu()
    weights = [1.0 if settings.teachers.fusion == "mean" else max(found.score, LEAST_SCORE) for found in scores]
    assert guide is not None, "there is a teacher"  # noqa: S101
    each = zip(found, scores, weights, strict=True)
    parts = (f"{member.name} {score} × {weight / sum(weights):.3f}" for member, score, weight in each)
    whose = f"; hidden states and the like are those of {found[guide[1]].name}" if compares_states(settings) else ""
    note = f"Teachers, with validation {context.task.metric} and weight: {', '.join(parts)}{whose}."
    context.notes.append(note)
    yield Log(message=note[:4000])
    context.originals.clear()  # all their outputs have been computed, or `others` has them
    if later:
        weighted = [replace(member, weight=weight) for member, weight in zip(live, weights, strict=True)]
        first = weighted.pop(guide[1])
        return EnsembleOutputs(first.model, first.rows, None, 0, first.weight, tuple(weighted))
    return EnsembleOutputs(guide[2], guide[3], fused(answers, weights, rows, settings.temperature), len(found))


def fused(answers: Sequence[Tensor], weights: Sequence[float], rows: Examples, temperature: float) -> Tensor:
    """Fuse several teachers' logits. answers: (rows, ...) each, on the CPU. Returns the same shape."""
    together = torch.stack(list(answers))
    mask = None
    if together.ndim > 3:
        lengths = torch.tensor(rows.lengths)
        mask = (torch.arange(together.shape[2])[None] < lengths[:, None]).long()
    return rows.task.fused(together, torch.tensor(weights), mask, temperature)

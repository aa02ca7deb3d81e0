"""Teach the narrow, fake-quantized student what the prepared teacher knows (Hinton et al. 2015; Jiao et al. 2020)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from compression import losses
from compression.augment.stage import with_more_rows
from compression.batches import Batch, Encoded
from compression.evaluate import smaller
from compression.numerics import gradient_dtype
from compression.recipe import Distill
from compression.report import Event, Log
from compression.stages.further import further, is_under_way
from compression.state import State
from compression.tasks.base import Task
from compression.teacher import Said, Teacher, ask
from compression.training import train

FIT_ROWS = 256
"""Rows of train on which the projections' starting point is solved for: some thousand tokens for some hundred unknowns."""
FIT_BATCH = 32


def distill(state: State) -> Iterator[Event]:
    """Train on the teacher's soft targets, hidden states and attention relations, and on the labels, as weighted.

    The student trains without dropout: the teacher's answers were computed once and are for the whole text.
    """
    settings = state.recipe.distill
    assert settings is not None and state.teacher is not None, "the pipeline calls stages that the recipe has"  # noqa: S101, PT018
    rows = state.rows["train"]
    if settings.augment is not None and state.material is not None:
        rows = yield from with_more_rows(state, settings.augment, state.material)
    yield from state.journey.mark("distilled", "ask the teacher", done=False)
    teacher = Teacher(state.teacher, rows, hidden=settings.hidden > 0, relations=settings.attention > 0, parts=state.parts)
    if teacher.needs_states and not teacher.keeps:
        yield Log(message=f"The teacher's states would take {teacher.bytes / 2**30:.1f} GiB: it is asked again in each epoch.")
    yield from state.journey.mark("distilled", "ask the teacher", done=True)
    lesson = Lesson(state, teacher, settings)
    plan = state.plan("distill", epochs=settings.epochs, rate=settings.rate, patience=settings.patience)
    if not is_under_way(state):
        ticks = train(
            state.model,
            plan,
            rows,
            state.rows["validation"],
            lesson,
            extra=lesson.projections,
            course=state.course("distilled", "distill"),
            budget=state.budget,
        )
        outcome = yield from state.journey.follow("distilled", "distill", ticks)
        state.notes.append(
            f"Distillation: validation {state.task.metric} {outcome.before.score:.4f} → {outcome.best.score:.4f} "
            f"(best of epochs 0 to {settings.epochs}: {outcome.best_epoch})."
        )
        state.notes += outcome.remarks
    if state.recipe.remedy == "apply":
        yield from further(state, settings, rows, plan, lesson, lesson.projections)


class Lesson:
    """The weighted loss of one batch, and the projections that are learned with it and thrown away after."""

    def __init__(self, state: State, teacher: Teacher, settings: Distill) -> None:
        self.student, self.teacher, self.settings, self.task = state.model, teacher, settings, state.task
        narrow, wide = state.model.config.hidden_size, teacher.model.config.hidden_size
        deep, deeper = state.model.config.num_hidden_layers, teacher.model.config.num_hidden_layers
        # A student with fewer layers follows the teacher's evenly, from the embeddings to the last (TinyBERT).
        self.states = None if deep == deeper else [round(layer * deeper / deep) for layer in range(deep + 1)]
        self.heads = losses.relation_heads(narrow, wide, most=teacher.model.config.num_attention_heads)
        self.projections: list[nn.Parameter] = []
        if settings.hidden:
            self.projections.append(nn.Parameter(self._fitted(state.rows["train"], smaller(FIT_BATCH, state.parts))))

    @torch.no_grad()
    def _fitted(self, rows: Encoded, size: int) -> Tensor:
        batches = list(rows.at(list(range(min(len(rows), FIT_ROWS)))).by_length(size))
        device = next(self.student.parameters()).device
        student = torch.cat(
            [ask(self.student, batch.to(device), self.task, relations=False).hidden for batch in batches], dim=1
        )
        teacher = torch.cat([self._followed(self.teacher.says(batch.to(device)).hidden) for batch in batches], dim=1)
        return losses.fitted_projections(student, teacher)

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of a batch; a weight of 0 leaves its term out, and its work."""
        settings = self.settings
        wanted = self.teacher.says(batch)
        given = self._given(batch)
        total = given.logits.new_zeros(())
        if settings.soft:
            total = total + settings.soft * self.task.soft_loss(given.logits, wanted.logits, batch, settings.temperature)
        if settings.hard:
            total = total + settings.hard * hard(self.task, given.logits, batch)
        if settings.hidden:
            # The projections are thrown away, so they may multiply in the precision that is fastest.
            kind = batch.ids.device.type
            with torch.autocast(kind, torch.bfloat16, enabled=gradient_dtype(batch.ids.device) == torch.bfloat16):
                hidden = losses.hidden_states(given.hidden, self._followed(wanted.hidden), self.projections[0])
            total = total + settings.hidden * hidden
        if settings.attention and given.relations is not None and wanted.relations is not None:
            total = total + settings.attention * losses.relations(given.relations, wanted.relations, batch.mask, self.heads)
        return total

    def _followed(self, states: Tensor) -> Tensor:
        return states if self.states is None else states[self.states]

    def _given(self, batch: Batch) -> Said:
        if self.teacher.needs_states:
            return ask(self.student, batch, self.task, relations=self.teacher.relations)
        return Said(self.task.logits(self.student(**batch.inputs)), torch.empty(0), None)


def hard(task: Task, logits: Tensor, batch: Batch) -> Tensor:
    """Return the loss on the labels, mean over all rows, of which those without a label of their own count 0."""
    if batch.labelled is None:
        return task.loss(logits, batch)
    if not batch.labelled.any():
        return logits.new_zeros(())
    return task.loss(logits[batch.labelled], batch.at(batch.labelled)) * batch.labelled.float().mean()

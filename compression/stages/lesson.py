"""What one batch costs a student: answers against the teachers' and the labels, insides against those of one teacher."""

import copy
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression import families, losses
from compression.batches import Batch, Encoded
from compression.catalog import attention_form, layer_pairs
from compression.evaluate import smaller
from compression.language.losses import relations as of_documents
from compression.language.sequences import Sequences
from compression.numerics import gradient_dtype
from compression.plan import Outcome, Tick
from compression.recipe import Distill
from compression.reconstruct import drawn
from compression.report import Log, TrainingSaved
from compression.tasks.base import Task
from compression.teacher import ANSWERS_ALONE, Look, Said, Teacher, ask
from compression.weighting import Weighting, weighting

FIT_ROWS, FIT_TOKENS = 256, 32_768
"""Rows of train on which the projections' starting point is solved for: some thousand tokens for some hundred unknowns. Rows of
language models are long, so fewer of them are as many tokens."""
FIT_BATCH = 32


@dataclass(frozen=True)
class Comparison:
    """What of two models' insides is compared, and what of them must be looked at for it.

    apart: whether the first of the states is the embedding layer's and a term of its own; form: how attention is compared,
    heads: over how many heads.
    """

    student: Look
    teacher: Look
    apart: bool
    form: Literal["scores", "relations"] | None
    heads: int

    @classmethod
    def of(
        cls, student: PreTrainedModel, teacher: PreTrainedModel, settings: Distill, terms: Collection[str], *, apart: bool
    ) -> "Comparison":
        """Find what the terms named need. Raises InvalidSpec where layers or heads do not fit."""
        one, other = (families.of(model).shape_of(model.config) for model in (student, teacher))
        pairs = layer_pairs(settings.layers, one.layers, other.layers)
        states = list(pairs) if "hidden" in terms else []
        if ("embedding" in terms) if apart else states:
            states.insert(0, (0, 0))
        form = attention_form(settings.attention_by, one, other) if "attention" in terms else None
        heads = one.heads if form == "scores" else losses.relation_heads(one.attended, other.attended, most=other.heads)
        mine, theirs = (
            Look(
                states=tuple(pair[side] for pair in states),
                scores=tuple(pair[side] for pair in pairs) if form == "scores" else (),
                relations=pairs[-1][side] if form == "relations" else None,
            )
            for side in (0, 1)
        )
        return cls(mine, theirs, apart and "embedding" in terms, form, heads)

    def said(self) -> list[str]:
        """Say in words what was chosen here and not by the recipe."""
        notes = []
        if self.form is not None:
            what = "scores before the softmax, layer by layer" if self.form == "scores" else "relations of the last layers"
            notes.append(f"Attention is compared by {what} ({self.heads} heads).")
        if self.student.states != self.teacher.states:
            followed = ", ".join(
                f"{one} ← {other}" for one, other in zip(self.student.states, self.teacher.states, strict=True)
            )
            notes.append(f"Layers of the student and of the teacher that they follow: {followed}.")
        return notes


NOTHING = Comparison(ANSWERS_ALONE, ANSWERS_ALONE, apart=False, form=None, heads=0)


class Insides:
    """Hidden states, attention and embeddings of a student against one teacher's, and the projections learned with them."""

    def __init__(self, student: PreTrainedModel, teacher: Teacher, comparison: Comparison, rows: Encoded, parts: int) -> None:
        self.student, self.teacher, self.comparison = student, teacher, comparison
        self.projections: list[nn.Parameter] = []
        if comparison.student.states:
            self.projections.append(nn.Parameter(self._fitted(rows, smaller(FIT_BATCH, parts))))

    def none(self) -> "Insides":
        """Return the same two models with nothing compared."""
        twin = copy.copy(self)
        twin.comparison, twin.projections = NOTHING, []
        return twin

    @torch.no_grad()
    def _fitted(self, rows: Encoded, size: int) -> Tensor:
        some = drawn(rows.at(list(range(min(len(rows), FIT_ROWS)))), FIT_TOKENS)
        device = next(self.student.parameters()).device
        look = Look(states=self.comparison.student.states)
        batches = (batch.to(device) for batch in some.by_length(size))
        return losses.fitted_projections(
            (ask(self.student, batch, rows.task, look).hidden, self.teacher.says(batch).hidden) for batch in batches
        )

    def terms(self, given: Said, wanted: Said, batch: Batch) -> dict[str, Tensor]:
        """Return the terms that the comparison has, each a scalar."""
        found: dict[str, Tensor] = {}
        comparison = self.comparison
        if self.projections:
            # The projections are thrown away, so they may multiply in the precision that is fastest.
            kind, maps, first = batch.ids.device.type, self.projections[0], int(comparison.apart)
            with torch.autocast(kind, torch.bfloat16, enabled=gradient_dtype(batch.ids.device) == torch.bfloat16):
                if first < len(maps):
                    found["hidden"] = losses.hidden_states(given.hidden[first:], wanted.hidden[first:], maps[first:])
                if comparison.apart:
                    found["embedding"] = losses.hidden_states(given.hidden[:1], wanted.hidden[:1], maps[:1])
        if given.scores is not None and wanted.scores is not None:
            found["attention"] = losses.attention_scores(given.scores, wanted.scores, batch.mask, comparison.heads)
        if given.relations is not None and wanted.relations is not None:
            both = given.relations, wanted.relations
            if isinstance(batch, Sequences):
                found["attention"] = of_documents(*both, batch, comparison.heads)
            else:
                found["attention"] = losses.relations(*both, batch.mask, comparison.heads)
        return found


class Lesson:
    """The weighted loss of one batch, and what is learned with it and thrown away after (`parameters`)."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: Teacher,
        comparison: Comparison,
        settings: Distill,
        rows: Encoded,
        *,
        parts: int = 1,
        weigher: Weighting | None = None,
    ) -> None:
        """rows: the student's of train, or of whatever is trained on; weigher: in place of the recipe's."""
        self.student, self.teacher, self.settings, self.task = student, teacher, settings, rows.task
        self.insides = Insides(student, teacher, comparison, rows, parts)
        self.weighting = weigher or weighting(settings, next(student.parameters()).device)
        self.tally = Tally()

    @property
    def projections(self) -> list[nn.Parameter]:
        """The learned maps from the student's states to the teacher's, (states, narrow, wide); none where none are compared."""
        return self.insides.projections

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained beside the student."""
        return [*self.projections, *self.weighting.parameters]

    def close(self) -> None:
        """Free what is kept of the teacher."""
        self.teacher.close()

    def answers_alone(self) -> Callable[[], None]:
        """Compare no insides from now on; return what undoes it."""
        whole = self.insides, self.settings, self.weighting

        def undo() -> None:
            self.insides, self.settings, self.weighting = whole

        self.settings = self.settings.answers_alone()
        self.weighting = weighting(self.settings, next(self.student.parameters()).device)
        self.insides = self.insides.none()
        return undo

    def forget_insides(self) -> None:
        """Compare no insides any more, and ask the teacher for none."""
        self.answers_alone()
        self.teacher.forget_insides()

    def before_step(self, step: int, total: int) -> None:
        """Note how much of training is done. step: from 0."""
        self.weighting.at(step / max(total - 1, 1))

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of a batch; a term that never counts is left out, and its work."""
        found = self.terms(batch)
        total = self.weighting.total(found)
        self.tally.add(found)
        return total

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return each term of a batch's loss, not weighted."""
        settings, wanted_terms = self.settings, self.weighting.weights()
        wanted = self.teacher.says(batch)
        given = ask(self.student, batch, self.task, self.insides.comparison.student)
        found: dict[str, Tensor] = {}
        if "soft" in wanted_terms:
            found["soft"] = self.task.soft_loss(given.logits, wanted.logits, batch, settings.temperature)
        if "hard" in wanted_terms:
            found["hard"] = hard(self.task, given.logits, batch)
        found |= self.insides.terms(given, wanted, batch)
        return found


class Tally:
    """What the terms came to since it was last told."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Take a batch's terms in; nothing waits for the device."""
        for term, value in terms.items():
            self._sums[term] = self._sums.get(term, 0.0) + value.detach().float()
        self._batches += 1

    def forget(self) -> None:
        """Begin anew."""
        self._sums, self._batches = {}, 0

    def told(self, weights: Mapping[str, float]) -> str:
        """Say each term's mean over the batches and its weight now, and begin anew."""
        said = ", ".join(
            f"{term} {value.item() / self._batches:.4g} × {weights[term]:.4g}" for term, value in self._sums.items()
        )
        self.forget()
        return said


def reported(
    ticks: Generator[Tick | TrainingSaved | Log, None, Outcome],
    lesson: Lesson,
    after_epoch: Callable[[Tick], None] | None = None,
) -> Generator[Tick | TrainingSaved | Log, None, Outcome]:
    """Pass a training on; after each epoch, log what the terms were and what they were multiplied by.

    after_epoch: called then too, before training goes on or ends.
    """
    while True:
        try:
            news = next(ticks)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        if after_epoch is not None and isinstance(news, Tick) and news.score is not None:
            after_epoch(news)
        if isinstance(news, Log):
            lesson.tally.forget()  # of a step back: what was thrown away, and may be no number, is no part of the epoch
        yield news
        if isinstance(news, Tick) and news.score is not None and (said := lesson.tally.told(lesson.weighting.weights())):
            yield Log(message=f"Step {news.step} of {news.total}: {said}.")


def hard(task: Task, logits: Tensor, batch: Batch) -> Tensor:
    """Return the loss on the labels, mean over all rows, of which those without a label of their own count 0."""
    if batch.labelled is None:
        return task.loss(logits, batch)
    if not batch.labelled.any():
        return logits.new_zeros(())
    return task.loss(logits[batch.labelled], batch.at(batch.labelled)) * batch.labelled.float().mean()

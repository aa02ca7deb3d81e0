"""Several teachers as one: each is asked of every row once, their answers are fused, and one of them shows its insides."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression import evaluate
from compression.batches import Encoded
from compression.cast import Named, Texts
from compression.catalog import compares_states
from compression.plan import counted, portion
from compression.recipe import Distill
from compression.report import Event, Log
from compression.state import State
from compression.teacher import ANSWERS_ALONE, Teacher

ASK = "ask the teacher"
LEAST_SCORE = 1e-6
"""What a teacher that scores nothing on validation counts: weights must be positive."""


@dataclass(frozen=True)
class Member:
    """One teacher. open: gives it, wherever it lies; who: the folder that it comes from, None where there is no cast."""

    name: str
    open: Callable[[], PreTrainedModel]
    who: Named | None

    @property
    def aligned(self) -> bool:
        """Whether its tokens are the student's."""
        return self.who is None or self.who.aligned


@dataclass(frozen=True)
class Heard:
    """What the teachers said. guide: who shows its insides; rows: train as it reads it; logits: fused, None of one teacher.

    asked: how many teachers have been asked of all rows.
    """

    guide: PreTrainedModel
    rows: Encoded
    logits: Tensor | None = None
    asked: int = 0


def members(state: State, settings: Distill) -> list[Member]:
    """List the teachers: the baseline, the other seeds, then those that the job names."""
    cast = state.cast
    found = []
    for number, model in enumerate([state.teacher, *state.originals][: settings.teachers.seeds]):
        assert model is not None, "the baseline was prepared"  # noqa: S101
        name = "the baseline" if number == 0 else f"the original with seed {state.recipe.train.seed + number}"
        found.append(Member(name, partial(_same, model), cast.base if cast is not None else None))
    if cast is not None:
        found += [Member(who.param, partial(cast.opened, who, state.recipe.train.seed), who) for who in cast.teachers]
    return found


def _same(model: PreTrainedModel) -> PreTrainedModel:
    return model


def rows_of(state: State, who: Named | None, rows: Encoded, made: Sequence[Texts]) -> tuple[Encoded, Encoded]:
    """Return train and validation as a model reads them. rows: train as the student does, `made` texts behind the data's."""
    cast = state.cast
    reader = (cast.student or cast.base) if cast is not None else None
    if who is None or reader is None or who.param == reader.param:
        return rows, state.rows["validation"]
    if who.aligned and who.reading.types == reader.reading.types:
        return rows, state.rows["validation"]
    assert cast is not None  # noqa: S101
    return cast.read(who, "train", made), cast.read(who, "validation")


def hear(state: State, settings: Distill, rows: Encoded, made: Sequence[Texts]) -> Generator[Event, None, Heard]:
    """Ask every teacher, where there are several, and fuse what they say. Of one, all is left to the caller.

    The test split is not seen: the guide and the weights are chosen on validation. Raises Pause where one is asked for.
    """
    found = members(state, settings)
    if len(found) == 1:
        return Heard(found[0].open(), rows_of(state, found[0].who, rows, made)[0])
    scores: list[float] = []
    answers: list[Tensor] = []
    guide: tuple[float, str, PreTrainedModel, Encoded] | None = None
    for number, member in enumerate(found):
        model = member.open().to(state.device).eval().requires_grad_(False)
        own, validation = rows_of(state, member.who, rows, made)
        score = evaluate.validate(model, validation, state.parts).score
        scores.append(score)
        teacher = Teacher(model, own, ANSWERS_ALONE, parts=state.parts)
        asking = counted(state.heed, len(own), teacher.asking())
        yield from state.journey.follow("distilled", ASK, portion(asking, number, len(found) + 1))
        answers.append(teacher.logits)
        if guide is None or (member.aligned, score) > (guide[0] > float("-inf"), guide[0]):
            guide = (score if member.aligned else float("-inf"), member.name, model, own)
        elif model is not state.teacher:
            model.cpu()
    weights = [1.0 if settings.teachers.fusion == "mean" else max(score, LEAST_SCORE) for score in scores]
    logits = fused(answers, weights, rows, settings.temperature)
    assert guide is not None, "there is a teacher"  # noqa: S101
    parts = (
        f"{member.name} {score:.4f} × {weight / sum(weights):.3f}"
        for member, score, weight in zip(found, scores, weights, strict=True)
    )
    whose = f"; hidden states and the like are those of {guide[1]}" if compares_states(settings) else ""
    said = f"Teachers, with validation {state.task.metric} and weight: {', '.join(parts)}{whose}."
    state.notes.append(said)
    yield Log(message=said[:4000])
    state.originals.clear()  # all that they know is known now
    return Heard(guide[2], guide[3], logits, len(found))


def fused(answers: Sequence[Tensor], weights: Sequence[float], rows: Encoded, temperature: float) -> Tensor:
    """Make one answer to each row of several. answers: (rows, ...) each, on the CPU -> the same."""
    together = torch.stack(list(answers))
    mask = None
    if together.ndim > 3:
        lengths = torch.tensor(list(map(len, rows.tokens)))
        mask = (torch.arange(together.shape[2])[None] < lengths[:, None]).long()
    return rows.task.fused(together, torch.tensor(weights), mask, temperature)

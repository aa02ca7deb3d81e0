"""The record of a search for a size: in the saves of its trainings, and of what the job's time still allows."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from compression.engine.context import StageContext
from compression.engine.stage_clock import StageClock
from compression.evaluation.standard_error import answers_of, judged, kept_error, scores_without
from compression.evaluation.validate import Validation
from compression.models.tensors import Tensors
from compression.planning.preparation import steps_an_epoch
from compression.planning.size_plan import FullTraining, Pace, exports_after, judgings
from compression.schema.events import Event, Log
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.distill import Distill
from compression.schema.report.size_search import KeptAfter, SizeSearch, SizeTried
from compression.system.device import on_cpu
from compression.system.progress import Returning
from compression.training.config import TrainingOutcome

Found = TypeVar("Found")


@dataclass
class RunningTime:
    """The time of a training, over attempts. before: of the earlier ones."""

    clock: StageClock
    before: float
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.clock.seconds

    @property
    def seconds(self) -> float:
        """Return the time so far."""
        return self.before + self.clock.seconds - self._began


@dataclass(frozen=True)
class Original:
    """The uncompressed model on validation: its score, and the scores without each group of rows (`scores_without`)."""

    score: Validation
    without: np.ndarray


LEAST_OF_STEPS = 0.1
"""Share of a training's time that its steps take at least, however long its judging takes by that after it."""
SIZES = "sizes"  #: key under which a training's save has the record


def begin_record(context: StageContext, auto: Auto, original: Validation, whole: int) -> SizeSearch:
    """Return the record of a search that begins. original: of the uncompressed model; whole: its parameters."""
    return SizeSearch(
        retention=context.targets.retention,
        objective=auto.objective,
        budget_minutes=auto.budget_minutes / context.budget.sharers,
        minutes=context.clock.seconds / 60,
        original=original.value,
        whole=whole,
        ship_seconds=context.clock.shipped or 0.0,
    )


def saved_record(context: StageContext, phases: Sequence[str]) -> SizeSearch | None:
    """Return the record that the earlier attempt saved in one of the phases, and go on from its time; None if in none."""
    saved = next(filter(None, map(context.saved, phases)), None)
    if saved is None or SIZES not in saved:
        return None
    record = SizeSearch.model_validate_json(bytes(saved[SIZES].tolist()))
    context.clock.carry(60 * record.minutes)
    return record


def write_record(context: StageContext, record: SizeSearch, beside: Tensors) -> None:
    """Put the record, with the job's time now, among what a training's saves store."""
    now = record.model_copy(update={"minutes": context.clock.seconds / 60})
    beside[SIZES] = torch.tensor(list(now.model_dump_json().encode()), dtype=torch.uint8)


def remembering(training: Generator[Event, None, Found], remember: Callable[[], None]) -> Generator[Event, None, Found]:
    """Relay a training of any phases, and remember before it and after each of its events how long it has taken."""
    remember()
    for event in (each := Returning(training)):
        yield event
        remember()
    return each.result


def with_error(share: float, error: float) -> str:
    """Return a share with its error, as text. Where no answer differs from the original's an error of 0 would say too much."""
    return f"{share:.2%} ± {error:.2%}" if error >= 0.00005 else f"{share:.2%}"


def warned(what: str, problem: Exception) -> Generator[Event, None, str]:
    """Log what an error has led to, and return it with the cause."""
    why = f"{what}: {problem}"
    yield Log(level="warning", message=f"{why}."[:4000])
    return why


def seconds_left(context: StageContext, record: SizeSearch, *, cut: bool = True) -> float:
    """Return what is left of the budget beside what follows: exports, and lm-eval's tasks. cut: whether the cut has shipped."""
    ships = exports_after(context.recipe.artifacts, generates=context.task.packed is not None) + (not cut)
    after = ships * record.ship_seconds + (2 - cut) * (context.clock.asked or 0.0)
    return 60 * record.budget_minutes - context.clock.seconds - after


def asked_training(context: StageContext, distill: Distill, record: SizeSearch) -> FullTraining:
    """Return the full distillation that the recipe asks for. Of augmentation's rows those count that a training has had, before
    the first one all that it may make.
    """
    rows = len(context.rows["train"])
    texts = rows if context.unlabelled is None else len(context.unlabelled)
    if distill.augment is not None:
        rows *= 1 + distill.augment.rows  # the general phase is on train's own
    steps, general = (steps_an_epoch(each, context.recipe.train) for each in (rows, texts))
    had = [one.steps // one.epochs for one in record.tried if one.kind == "full" and one.kept is not None and one.epochs]
    return FullTraining.of(distill, had[-1] if had else steps, general)


def trained(
    context: StageContext,
    size: SizeTried,
    outcome: TrainingOutcome,
    original: Original,
    timing: RunningTime,
    rows: int | None = None,
) -> SizeTried:
    """Return a size with what came of its training: of the context's model. original: of the uncompressed model; timing: of the
    training, to which judging it belongs; rows: that it had, if augmentation may have made fewer than were planned. Epochs and
    steps are those that were trained: patience may have ended it.
    """
    best, epochs = outcome.best, len(outcome.curve)
    steps = size.steps // max(size.epochs, 1) if rows is None else steps_an_epoch(rows, context.recipe.train)
    shares = [kept_share(each, original.score) for each in outcome.curve]
    curve = tuple(KeptAfter(steps=number * steps, kept=share) for number, share in enumerate(shares, 1))
    found: dict[str, Any] = {"curve": curve, "score": best.value, "kept": kept_share(best, original.score)}
    context.rest_teacher()
    began, validation = timing.seconds, context.rows["validation"]
    answers = answers_of(context.model, validation, context.parts)
    judged(answers, validation)  # as each epoch is
    found["judging_seconds"], began = timing.seconds - began, timing.seconds
    found["kept_error"] = kept_error(scores_without(answers, validation), original.without)
    found["error_seconds"] = timing.seconds - began
    return size.model_copy(update=found | {"epochs": epochs, "steps": epochs * steps, "seconds": timing.seconds})


def kept_share(found: Validation, original: Validation) -> float:
    """Return the share of the original's score that is kept; 0 if that is no better than 0."""
    return found.score / original.score if original.score > 0 else 0.0


def judged_original(context: StageContext) -> Original:
    """Judge the original on validation. The current model makes room for it on the device."""
    rows, device = context.rows["validation"], context.device
    with on_cpu(context.model):
        answers = answers_of(context.prepared.to(device), rows, context.parts)
        context.rest_teacher()
    return Original(judged(answers, rows), scores_without(answers, rows))


def pace_of(record: SizeSearch, asked: FullTraining, cost: float) -> Pace | None:
    """Return what a step takes by the last training that is done, with all that belongs to it but its judging, and what judging
    takes; None before the first. A short training is judged as often as a full one of as many epochs.

    asked: the recipe's full distillation; cost: of the size that is to be trained. A larger one than the last takes longer in
    proportion, and a smaller one is not expected to take less: the teacher stays.
    """
    done = [one for one in record.tried if one.kept is not None]
    if not done:
        return None
    last = done[-1]
    steps = last.steps + last.general_epochs * asked.general_steps
    took, judging, error = last.seconds or 0.0, last.judging_seconds or 0.0, last.error_seconds or 0.0
    training = max(took - judging * judgings(last.epochs, last.general_epochs) - error, LEAST_OF_STEPS * took)
    larger = max(cost / max(last.cost, 1e-9), 1.0)
    return Pace(training / max(steps, 1) * larger, judging * larger, error)


def original_curve(context: StageContext) -> tuple[KeptAfter, ...]:
    """Return how the original's own training came near to its best score, epoch by epoch; empty if it was not trained."""
    preparation = context.before[0].preparation if context.before else None
    if preparation is None or not preparation.curve:
        return ()
    epoch = steps_an_epoch(len(context.rows["train"]), context.recipe.train)
    inverse = context.task.packed is not None
    scores = [(each.epoch * epoch, 1 / each.score if inverse else each.score) for each in preparation.curve if each.score > 0]
    best = max((score for _, score in scores), default=0.0)
    return tuple(KeptAfter(steps=steps, kept=score / best) for steps, score in scores if steps)

"""Distills the best few cuts of one size shortly; what keeps most on validation is taken (`prune.finalists`).

Each is a training of the stage: its saves have the results of those before, so an attempt that was killed in it goes on there.
"""

import math
from collections.abc import Callable, Generator, Sequence

import torch
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.short_distillation import ShortDistillations
from compression.engine.stages.task_training import NamedTraining
from compression.evaluation.validate import Validation
from compression.schema.errors import TrainingDiverged
from compression.schema.events import Event, Log
from compression.schema.recipe.finalists import Finalists
from compression.system.device import on_cpu, rest

RESULTS = "finalists"  #: key under which a training's save has the score and the negative loss of each finalist before
LOST = -math.inf  #: score of a finalist whose training diverged


def phase_of(number: int) -> str:
    """Return the name of a finalist's training, from 1."""
    return f"try cut {number}"


def best_finalist(
    context: StageContext, finalists: Finalists, changes: Sequence[float], cut: Callable[[int], PreTrainedModel]
) -> Generator[Event, None, int]:
    """Distill the cuts that change the model's answers least, and return the number of the one that keeps most.

    changes: of all cuts, untrained; cut: returns the model of one of them. Raises Pause.
    """
    distill = context.recipe.distill
    assert distill is not None, "finalists need it"  # noqa: S101
    places = sorted(range(len(changes)), key=changes.__getitem__)[: finalists.cuts]
    shorts, known = ShortDistillations(context, distill, finalists.steps), _judged_before(context, len(places))
    for number, place in enumerate(places[len(known) :], len(known) + 1):
        with on_cpu(*shorts.teachers):
            student = cut(place)
        training = NamedTraining(beside={RESULTS: _packed(known)} if known else {})
        try:
            outcome = yield from shorts.run(shorts.trial_of(student), shorts.plan.epochs, phase_of(number), training)
            known.append(outcome.best)
        except TrainingDiverged as problem:
            known.append(Validation(LOST, LOST))
            yield Log(level="warning", message=f"A cut that was distilled shortly is left out: {problem}."[:4000])
        del student  # the next cut needs its memory
    rest(*shorts.teachers)
    best = max(range(len(places)), key=known.__getitem__)  # of equals the one that had changed the answers less
    each = ", ".join("diverged" if one.score == LOST else str(one) for one in known)
    told = (
        f"The {len(places)} of them that change the answers least were distilled for at most {shorts.plan.steps:,} steps each: "
        f"validation {context.task.metric} {each}. Number {best + 1} is the best: its weights of layers are taken."
    )
    context.notes.append(told)
    yield Log(message=told)
    return places[best]


def _packed(known: Sequence[Validation]) -> torch.Tensor:
    return torch.tensor([(one.score, one.negative_loss) for one in known], dtype=torch.float64)


def _judged_before(context: StageContext, count: int) -> list[Validation]:
    """Return the results of finalists that an earlier attempt judged before the one that it was stopped in."""
    saved = next(filter(None, (context.saved(phase_of(number)) for number in range(1, count + 1))), {})
    inverse = context.task.packed is not None
    return [Validation(score, loss, inverse) for score, loss in saved[RESULTS].tolist()] if RESULTS in saved else []

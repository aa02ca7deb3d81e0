"""Augmentation within distillation: train's rows with the new ones behind them."""

from collections.abc import Generator
from typing import Any

from compression.engine.context import StageContext
from compression.modalities.modality import Augmented, Augmenter
from compression.schema.events import Event, Log
from compression.schema.recipe.augment import Augment
from compression.system.progress import Returning, Step

PHASE = "augment"


def augment_rows(context: StageContext, settings: Augment, augmenter: Augmenter) -> Generator[Event, Any, Augmented]:
    """Return train's rows with the made ones behind them, unlabelled, and what a log and a row say of it.

    Nothing is kept: a new attempt makes the same again.

    Raises Pause where one is asked for, and what opening the sources raises.
    """
    assert context.teacher is not None, "the pipeline calls stages in their order"  # noqa: S101
    work = augmenter.augment(settings, context.recipe.train.seed, context.teacher, context.rows["train"])
    for done, total in (each := Returning(work)):
        yield from context.tracker.emit(PHASE, Step(done, total))
        if done:
            context.check_pause()
    found: Augmented = each.result
    context.notes.append(found.note)
    for said in (found.note, *found.examples):
        yield Log(message=said)
    return found

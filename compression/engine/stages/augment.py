"""Runs augmentation within distillation: appends new rows to train."""

from collections.abc import Generator
from typing import Any

from compression.engine.context import StageContext
from compression.modalities.modality import Augmented, Augmenter
from compression.schema.events import Event, Log
from compression.schema.recipe.augment import Augment
from compression.system.progress import Returning, Step

PHASE = "augment"


def augment_rows(context: StageContext, settings: Augment, augmenter: Augmenter) -> Generator[Event, Any, Augmented]:
    """Return train's rows followed by the new, unlabelled ones, with a note for the row and examples for the log. Nothing is
    saved: a new attempt generates the same rows again. Raises Pause, and the errors of opening the sources.
    """
    work = augmenter.augment(settings, context.recipe.train.seed, context.prepared, context.rows["train"])
    for done, total in (each := Returning(work)):
        yield from context.tracker.emit(PHASE, Step(done, total))
        if done:
            context.check_pause()
    found: Augmented = each.result
    context.notes.append(found.note)
    for message in (found.note, *found.examples):
        yield Log(message=message)
    return found

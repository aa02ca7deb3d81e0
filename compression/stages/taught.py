"""Lessons by what a task asks: a few answers a row, or next tokens."""

from collections.abc import Generator

from torch import Tensor
from transformers import PreTrainedModel

from compression.batches import Encoded
from compression.plan import Tick, counted
from compression.recipe import Distill
from compression.stages.lesson import Comparison, Lesson
from compression.stages.next_tokens import lesson_of as of_tokens
from compression.state import State
from compression.teacher import Teacher


def lesson_of(
    state: State, settings: Distill, guide: PreTrainedModel, rows: Encoded, theirs: Encoded, logits: Tensor | None = None
) -> Generator[Tick, None, Lesson]:
    """Ask a teacher of every row, tell how far that is, and make of it what the model is held against.

    rows, theirs: train as the model and as the teacher reads it; logits: the answers, where several gave them together.
    Raises Pause where one is asked for.
    """
    if state.task.name == "causal-lm":
        found = yield from of_tokens(state, settings, guide, rows, theirs)
        return found
    comparison = Comparison.of(state.model, guide, settings, settings.weights(), apart=settings.embedding is not None)
    spill = state.spill("task")
    teacher = Teacher(guide, theirs, comparison.teacher, parts=state.parts, logits=logits, spill=spill)
    yield from counted(state.heed, len(theirs), teacher.asking())
    return Lesson(state.model, teacher, comparison, settings, rows, parts=state.parts)


def of_answers_alone(state: State, rows: Encoded) -> Generator[Tick, None, Lesson]:
    """Make a lesson of the baseline's answers and nothing else, softened as the recipe's distillation has it."""
    assert state.teacher is not None, "the baseline was prepared"  # noqa: S101
    asked = (state.recipe.distill or Distill()).answers_alone()
    alone = asked.model_copy(update={"soft": 1.0, "hard": 0.0, "weighting": "fixed", "to": None, "kept": None})
    lesson = yield from lesson_of(state, alone, state.teacher.to(state.device), rows, rows)
    return lesson

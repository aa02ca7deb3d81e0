"""Tune the user's model on the user's rows: the baseline that all is held against, and the teachers."""

import copy
import re
from collections.abc import Generator, Iterator

from transformers import PreTrainedModel

from compression.report import Event, Log
from compression.saving import Tensors
from compression.state import State
from compression.tasks.base import labelled
from compression.training import train

PHASE = "tune"


def phase_of(number: int) -> str:
    """Name the training of an original. number: 0 is the baseline."""
    return PHASE if number == 0 else f"{PHASE} {number + 1}"


def prepare(state: State) -> Iterator[Event]:
    """Train head and encoder in full precision, then freeze a copy as the teacher, where one is asked; train further originals.

    These differ by the seed, which draws a head that the model lacks, the order of rows and dropout. Until the stage has its
    checkpoint, what was trained before them is saved beside them.
    """
    settings = state.recipe.distill
    seeds = settings.teachers.seeds if settings is not None else 1
    done = yield from _taken_up(state)
    if done == 0:
        yield from _tuned(state, state.model, 0, {})
    if state.recipe.has_teacher:
        state.teacher = copy.deepcopy(state.model).eval().requires_grad_(False)
    for number in range(max(done, 1), seeds):
        assert state.cast is not None, "a job has a cast"  # noqa: S101
        model = state.cast.opened(state.cast.base, state.recipe.train.seed + number).to(state.device)
        yield from _tuned(state, model, number, _beside([state.model, *state.originals]))
        state.originals.append(model.cpu().eval().requires_grad_(False))


def _tuned(state: State, model: PreTrainedModel, number: int, beside: Tensors) -> Iterator[Event]:
    settings, seed = state.recipe.prepare, state.recipe.train.seed + number
    plan = state.plan(
        "prepare", epochs=settings.epochs, rate=settings.rate, dropout=True, patience=settings.patience, seed=seed
    )
    ticks = train(
        model,
        plan,
        state.rows["train"],
        state.rows["validation"],
        labelled(state.task, model),
        course=state.course("baseline", phase_of(number), beside),
        budget=state.budget,
    )
    outcome = yield from state.journey.follow("baseline", phase_of(number), ticks)
    if plan.epochs:
        whose = "Tuned on train" if number == 0 else f"Another teacher, the original with seed {seed}, tuned on train"
        state.notes.append(
            f"{whose}: validation {state.task.metric} {outcome.before} → {outcome.best} "
            f"(best of epochs 0 to {plan.epochs}: {outcome.best_epoch})."
        )
        state.notes += outcome.remarks


def _beside(models: list[PreTrainedModel]) -> Tensors:
    return {f"{number}.{name}": value for number, model in enumerate(models) for name, value in model.state_dict().items()}


def _taken_up(state: State) -> Generator[Log, None, int]:
    """Put back the originals that an earlier attempt trained before the one that it was in; return how many."""
    found = state.saver.found if state.saver is not None else None
    is_ours = found is not None and state.saver is not None and state.saver.is_at("baseline", found.phase)
    place = re.fullmatch(rf"{PHASE} (\d+)", found.phase) if found is not None and is_ours else None
    if place is None or state.saver is None or state.cast is None:
        return 0
    count, tensors = int(place.group(1)) - 1, state.saver.beside()
    for number in range(count):
        own = {key.partition(".")[2]: value for key, value in tensors.items() if key.partition(".")[0] == str(number)}
        if number == 0:
            state.model.load_state_dict(own)
        else:
            model = state.cast.opened(state.cast.base, state.recipe.train.seed + number)
            model.load_state_dict(own)
            state.originals.append(model.eval().requires_grad_(False))
    yield Log(message=f"{count} trained originals are taken up from the saved training.")
    return count

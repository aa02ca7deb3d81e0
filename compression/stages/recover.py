"""Recovery: training right after a cut, as the published account has it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from compression import families
from compression.recipe import Distill, Prune, Recovery
from compression.report import Event
from compression.saving import Tensors
from compression.stages.hold import HELD, lighten, note, unburden
from compression.stages.taught import of_answers_alone
from compression.stages.teachers import ASK
from compression.state import State
from compression.tasks.base import labelled
from compression.training import train


def phases(settings: Prune) -> list[tuple[str, int]]:
    """Name the trainings of the stage, one after each cut, with their epochs: an equal share, later ones with the rest."""
    epochs = settings.recovery.epochs if settings.recovery else 0
    if settings.steps == 1:
        return [("recover", epochs)]
    bounds = [epochs * step // settings.steps for step in range(settings.steps + 1)]
    return [
        (f"recover, step {step} of {settings.steps}", bounds[step] - bounds[step - 1]) for step in range(1, settings.steps + 1)
    ]


def asking(phase: str) -> str:
    """Name what goes before a training that learns a teacher's answers: the teacher is asked for them."""
    return phase.replace("recover", ASK, 1)


def recover(state: State, whole: Recovery, step: int, phase: str, epochs: int, beside: Tensors) -> Iterator[Event]:
    """Train: layers join from shallow to deep; L2 adapted to the validation score; the best epoch remains.

    whole: the recipe's; step: from 1, which cut it follows; epochs: of this training; beside: what its saves keep.
    """
    settings = whole.model_copy(update={"epochs": epochs})
    model = state.model
    alone = epochs_alone(len(families.of(model).layer_parameters(model)), epochs) if settings.shallow_first else 0
    plan = state.plan(
        "prune.recovery",
        epochs=settings.epochs,
        rate=settings.rate,
        dropout=True,
        adapt_decay=settings.adapt_l2,
        patience=settings.patience,
        patience_from=alone,
    )
    rows, is_held, said = state.rows["train"], False, ""
    known = state.saver.beside() if state.saver is not None and state.saver.is_at("pruned", phase) else {}
    lesson = None
    if settings.by == "teacher":
        lesson = yield from state.journey.follow("pruned", asking(phase), of_answers_alone(state, rows))
        asked, guide = state.recipe.distill or Distill(), lesson.teacher.model
        # Later cuts and distillation ask it again, in float32 as this one did.
        is_held, said = yield from lighten(state, asked, guide, before=HELD in known, again=True)
    ticks = train(
        model,
        replace(plan, seed=plan.seed + step - 1, dropout=lesson is None),
        rows,
        state.rows["validation"],
        lesson or labelled(state.task, model),
        before_epoch=freezer(model, settings),
        course=state.course("pruned", phase, beside | ({HELD: torch.tensor(True)} if is_held else {})),
        budget=state.budget,
    )
    try:
        outcome = yield from state.journey.follow("pruned", phase, ticks)
    finally:
        if lesson is not None:
            lesson.close()
    if lesson is not None and is_held:
        unburden(state, lesson.teacher.model)
    note(state, said)
    which = "Recovery" if phase == "recover" else f"Recovery{phase.removeprefix('recover')}"
    if lesson is not None:
        which += ", taught by the baseline's answers"
    state.notes.append(
        f"{which}: validation {state.task.metric} {outcome.before} → {outcome.best} "
        f"(best of epochs 0 to {settings.epochs}: {outcome.best_epoch})."
        + (f" Layers joined from shallow to deep, all of the model in epoch {alone + 1}." if alone else "")
    )
    state.notes += outcome.remarks


def learning_layers(epoch: int, epochs: int, layers: int) -> int:
    """Return how many of the shallowest layers learn in an epoch, from 1: each has an equal share of the epochs to join in.

    Where there are fewer epochs than layers, several join at once. In the last share, when the deepest has joined, all of the
    model learns: its tables and its head too.
    """
    return -(-epoch * layers // epochs)


def epochs_alone(layers: int, epochs: int) -> int:
    """Count the epochs before the one from which all of the model learns."""
    return epochs * (layers - 1) // layers


def freezer(model: PreTrainedModel, settings: Recovery) -> Callable[[int], None]:
    """Return what is called before each epoch, from 1: it unfreezes the layers that learn in it, and freezes the rest.

    A frozen parameter gets no gradient, so the optimizer neither moves nor decays it, and keeps no state of it.
    """
    layers = families.of(model).layer_parameters(model)

    def before_epoch(epoch: int) -> None:
        count = learning_layers(epoch, settings.epochs, len(layers)) if settings.shallow_first else len(layers)
        learning = {id(parameter) for layer in layers[:count] for parameter in layer}
        for parameter in model.parameters():
            parameter.requires_grad_(count == len(layers) or id(parameter) in learning)

    return before_epoch

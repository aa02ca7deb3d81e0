"""Recovery: training right after a cut, as the published account has it."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.objectives import output_objective
from compression.engine.stages.teacher_ensemble import ASK
from compression.engine.stages.teacher_precision import HELD, note, quantize_teacher, restore_teacher
from compression.modalities.base import label_loss
from compression.models.adapters.registry import adapter_of
from compression.models.tensors import Tensors
from compression.schema.events import Event
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, Recovery
from compression.training.trainer import train


def phases(settings: Prune) -> list[tuple[str, int]]:
    """Name the trainings of the stage, one after each cut, with their epochs: an equal share, later ones with the rest."""
    epochs = settings.recovery.epochs if settings.recovery else 0
    if settings.steps == 1:
        return [("recover", epochs)]
    bounds = [epochs * step // settings.steps for step in range(settings.steps + 1)]
    return [
        (f"recover, step {step} of {settings.steps}", bounds[step] - bounds[step - 1]) for step in range(1, settings.steps + 1)
    ]


def precompute(phase: str) -> str:
    """Name what goes before a training that learns a teacher's answers: the teacher is asked for them."""
    return phase.replace("recover", ASK, 1)


def recover(context: StageContext, whole: Recovery, step: int, phase: str, epochs: int, beside: Tensors) -> Iterator[Event]:
    """Train: layers join from shallow to deep; L2 adapted to the validation score; the best epoch remains.

    whole: the recipe's; step: from 1, which cut it follows; epochs: of this training; beside: what its saves keep.
    """
    settings = whole.model_copy(update={"epochs": epochs})
    model = context.model
    alone = epochs_alone(len(adapter_of(model).layer_parameters(model)), epochs) if settings.shallow_first else 0
    plan = context.plan(
        "prune.recovery",
        epochs=settings.epochs,
        rate=settings.rate,
        dropout=True,
        adapt_decay=settings.adapt_l2,
        patience=settings.patience,
        patience_from=alone,
    )
    rows, is_held, said = context.rows["train"], False, ""
    known = context.checkpointer.beside() if context.checkpointer is not None and context.checkpointer.is_at(phase) else {}
    objective = None
    if settings.by == "teacher":
        objective = yield from context.tracker.relay(precompute(phase), output_objective(context, rows))
        asked, guide = context.recipe.distill or Distill(), objective.teacher.model
        # Later cuts and distillation ask it again, in float32 as this one did.
        is_held, said = yield from quantize_teacher(context, asked, guide, before=HELD in known, again=True)
    ticks = train(
        model,
        replace(plan, seed=plan.seed + step - 1, dropout=objective is None),
        rows,
        context.rows["validation"],
        objective or label_loss(context.task, model),
        before_epoch=freezer(model, settings),
        resumable=context.resumable(phase, beside | ({HELD: torch.tensor(True)} if is_held else {})),
        budget=context.budget,
    )
    try:
        outcome = yield from context.tracker.relay(phase, ticks)
    finally:
        if objective is not None:
            objective.close()
    if objective is not None and is_held:
        restore_teacher(context, objective.teacher.model)
    note(context, said)
    which = "Recovery" if phase == "recover" else f"Recovery{phase.removeprefix('recover')}"
    if objective is not None:
        which += ", taught by the baseline's answers"
    context.notes.append(
        f"{which}: validation {context.task.metric} {outcome.before} → {outcome.best} "
        f"(best of epochs 0 to {settings.epochs}: {outcome.best_epoch})."
        + (f" Layers joined from shallow to deep, all of the model in epoch {alone + 1}." if alone else "")
    )
    context.notes += outcome.remarks


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
    layers = adapter_of(model).layer_parameters(model)

    def before_epoch(epoch: int) -> None:
        count = learning_layers(epoch, settings.epochs, len(layers)) if settings.shallow_first else len(layers)
        learning = {id(parameter) for layer in layers[:count] for parameter in layer}
        for parameter in model.parameters():
            parameter.requires_grad_(count == len(layers) or id(parameter) in learning)

    return before_epoch

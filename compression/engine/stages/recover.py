"""Recovers the model by training right after a cut, as published."""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import torch
from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.objectives import output_objective
from compression.engine.stages.teacher_ensemble import ASK
from compression.engine.stages.teacher_precision import HELD, note, quantize_teacher, record_asking, restore_teacher
from compression.modalities.base import label_loss
from compression.models.adapters.registry import adapter_of
from compression.models.tensors import Tensors
from compression.schema.events import Event
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, Recovery
from compression.training.work import TrainingHooks


def phases(settings: Prune) -> list[tuple[str, int]]:
    """Return (name, epochs) of the training after each cut. Epochs are split equally; later trainings get the rest."""
    epochs = settings.recovery.epochs if settings.recovery else 0
    if settings.steps == 1:
        return [("recover", epochs)]
    bounds = pairwise(epochs * step // settings.steps for step in range(settings.steps + 1))
    return [(f"recover, step {step} of {settings.steps}", end - start) for step, (start, end) in enumerate(bounds, 1)]


def precompute(phase: str) -> str:
    """Return the name of the phase that computes a teacher's outputs before a training on them."""
    return phase.replace("recover", ASK, 1)


def recover(context: StageContext, whole: Recovery, step: int, phase: str, epochs: int, beside: Tensors) -> Iterator[Event]:
    """Train after a cut and keep the best epoch. Layers join from shallow to deep; L2 adapts to the validation score. whole:
    the recipe's settings. step: the number of the cut, from 1. epochs: of this training. beside: extra tensors for its saves.
    """
    settings = whole.model_copy(update={"epochs": epochs})
    model = context.model
    alone = epochs_alone(len(adapter_of(model).layer_parameters(model)), epochs) if settings.shallow_first else 0
    is_held, reason, objective, changed = False, "", None, list[str]()
    if settings.by == "teacher":
        objective = yield from context.tracker.relay(precompute(phase), output_objective(context, context.rows["train"]))
        asked, guide = context.recipe.distill or Distill(), objective.teacher.model
        # Later cuts and distillation run the teacher again, in float32 as here.
        saved = context.saved(phase) or {}
        is_held, reason = yield from quantize_teacher(context, asked, guide, before=HELD in saved, again=True)
        beside = beside | ({HELD: torch.tensor(True)} if is_held else {})
        changed = record_asking(saved, beside, objective.teacher)
    plan = context.plan(
        "prune.recovery",
        epochs=settings.epochs,
        rate=settings.rate,
        dropout=objective is None,
        adapt_decay=settings.adapt_l2,
        patience=settings.patience,
        patience_from=alone,
        seed=context.recipe.train.seed + step - 1,
    )
    loss, hooks = (
        objective or label_loss(context.task, model),
        TrainingHooks(partial(freeze, model, settings), asked=[] if objective is None else objective.models),
    )
    ticks = context.train(phase, plan, loss, hooks, beside=beside)
    try:
        outcome = yield from context.tracker.relay(phase, ticks)
    finally:
        if objective is not None:
            objective.close()
    if objective is not None and is_held:
        restore_teacher(context, objective.teacher.model)
    context.rest_teacher()  # a next cut does not ask it
    note(context, reason)
    which = "Recovery" if phase == "recover" else f"Recovery{phase.removeprefix('recover')}"
    if objective is not None:
        which += ", taught by the baseline's answers"
    joined = f" Layers joined from shallow to deep, all of the model in epoch {alone + 1}." if alone else ""
    context.note_training(which, outcome, settings.epochs, joined)
    context.notes.extend((*outcome.remarks, *changed))


def learning_layers(epoch: int, epochs: int, layers: int) -> int:
    """Return how many of the shallowest layers train in an epoch, from 1. They join at equal intervals, several if epochs are
    few. In the last interval the whole model trains, including what is in no layer, such as embeddings and the head.
    """
    return -(-epoch * layers // epochs)


def epochs_alone(layers: int, epochs: int) -> int:
    """Return the number of epochs before the first in which the whole model trains."""
    return epochs * (layers - 1) // layers if layers else 0


def freeze(model: PreTrainedModel, settings: Recovery, epoch: int) -> None:
    """Unfreeze the layers that train in an epoch, from 1, and freeze the rest. The optimizer neither updates nor decays a
    frozen parameter, which has no gradient, and keeps no state for it.
    """
    layers = adapter_of(model).layer_parameters(model)
    count = learning_layers(epoch, settings.epochs, len(layers)) if settings.shallow_first else len(layers)
    learning = {id(parameter) for layer in layers[:count] for parameter in layer}
    for parameter in model.parameters():
        parameter.requires_grad_(count == len(layers) or id(parameter) in learning)

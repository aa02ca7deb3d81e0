"""Cut whole channels, heads and feed-forward units, and let the model recover where the recipe asks for it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression import families, importance, numerics
from compression.batches import Encoded
from compression.catalog import FAMILIES, planned_shape
from compression.evaluate import smaller
from compression.families import Kept
from compression.recipe import Prune, Recovery
from compression.report import Event, Shape
from compression.simulating import simulate
from compression.state import State
from compression.tasks.base import labelled
from compression.training import train

CALIBRATION_BATCH = 32


def prune(state: State) -> Iterator[Event]:
    """Choose by importance, slice into a narrower stock model, recover. Raises UnsupportedShape."""
    settings = state.recipe.prune
    assert settings is not None, "the pipeline calls stages that the recipe has"  # noqa: S101
    family = families.of(state.model)
    before = family.shape_of(state.model.config)
    after = planned_shape(FAMILIES[state.model.config.model_type], before, settings)
    yield from state.journey.mark("pruned", "cut", done=False)
    whole = state.validate()
    simulated = numerics.is_simulated(state.model)
    kept = choose(state.model, after, settings, state.rows["train"], state.recipe.train.seed, state.parts)
    device = state.device
    state.model = family.narrowed(state.model.cpu(), kept).to(device).eval()
    if simulated:
        simulate(state)
    cut = state.validate()
    state.pruning = taken(before, after, settings)
    state.notes.append(
        f"The cut alone: validation {state.task.metric} {whole.score:.4f} → {cut.score:.4f}, before any training."
    )
    yield from state.journey.mark("pruned", "cut", done=True)
    if settings.recovery is not None and settings.recovery.epochs:
        yield from recover(state, settings.recovery)


def taken(before: Shape, after: Shape, settings: Prune) -> dict[str, Any]:
    """Say for each axis what it had, what it has, what was asked and what was taken."""
    return {
        axis: {
            "before": getattr(before, axis),
            "after": getattr(after, axis),
            "asked": settings.ratio if axis in settings.axes else 0.0,
            "taken": (getattr(before, axis) - getattr(after, axis)) / getattr(before, axis),
        }
        for axis in ("hidden", "heads", "ffn")
    }


def choose(model: PreTrainedModel, to: Shape, settings: Prune, train_rows: Encoded, seed: int, parts: int = 1) -> Kept:
    """Keep the units that matter most: channels and pooler outputs once, heads and feed-forward units layer by layer."""
    if settings.importance == "l1":
        rows = _calibration(train_rows, settings.calibration_rows, seed)
        hidden, pooled, heads, ffn = _activation_scores(model, rows, smaller(CALIBRATION_BATCH, parts))
    else:
        hidden, pooled, heads, ffn = _weight_scores(model)
    return Kept(
        hidden=importance.strongest(hidden, to.hidden),
        pooled=importance.strongest(pooled, to.hidden),
        heads=tuple(importance.strongest(scores, to.heads) for scores in families.of(model).head_scores(heads)),
        ffn=tuple(importance.strongest(scores, to.ffn) for scores in ffn),
    )


def _calibration(rows: Encoded, count: int, seed: int) -> Encoded:
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    return rows.at(order[:count])


Scores = tuple[Tensor, Tensor, list[Tensor], list[Tensor]]


@torch.inference_mode()
def _activation_scores(model: PreTrainedModel, rows: Encoded, size: int) -> Scores:
    """Listen at the stream's norms, and at what enters each attention output, each down projection and the classifier."""
    model.eval()
    family = families.of(model)
    shape, layers, head = family.shape_of(model.config), family.layers(model), family.head(model).out
    assert head is not None, "a classifier has a head"  # noqa: S101
    device = next(model.parameters()).device
    norms: dict[nn.Module, Tensor] = {}
    mask = torch.empty(0)

    def hear(module: nn.Module, activations: Tensor) -> None:
        # The classifier reads one pooled vector a row, not one a token.
        pooled = activations.ndim == 2
        found = (
            importance.activation_norm(activations[:, None], mask[:, :1])
            if pooled
            else importance.activation_norm(activations, mask)
        )
        norms[module] = norms[module] + found if module in norms else found

    with ExitStack() as hooks:
        for norm in family.stream_norms(model):
            hooks.callback(norm.register_forward_hook(lambda module, _, out: hear(module, out)).remove)
        for reader in [head, *(part for layer in layers for part in (layer.attended, layer.down))]:
            hooks.callback(reader.register_forward_pre_hook(lambda module, inputs: hear(module, inputs[0])).remove)
        for batch in rows.by_length(size):
            here = batch.to(device)
            mask = here.mask
            model(**here.inputs)
    return (
        torch.stack([norms[norm] for norm in family.stream_norms(model)]).sum(dim=0).cpu(),
        norms[head].cpu(),
        [importance.grouped(norms[layer.attended], shape.heads).cpu() for layer in layers],
        [norms[layer.down].cpu() for layer in layers],
    )


@torch.no_grad()
def _weight_scores(model: PreTrainedModel) -> Scores:
    """Add up the weights that make and read each unit."""
    family = families.of(model)
    layers, heads, head = family.layers(model), family.shape_of(model.config).heads, family.head(model)
    assert head.dense is not None, "a sequence classifier has a dense layer before its answer"  # noqa: S101
    assert head.out is not None, "a classifier has a head"  # noqa: S101
    attention = [
        importance.weight_norm([layer.query.weight, layer.key.weight, layer.value.weight], [layer.attended.weight])
        for layer in layers
    ]
    return (
        importance.weight_norm(family.stream_makers(model), family.stream_readers(model)).cpu(),
        importance.weight_norm([head.dense.weight], [head.out.weight]).cpu(),
        [importance.grouped(scores, heads).cpu() for scores in attention],
        [importance.weight_norm([layer.up.weight], [layer.down.weight]).cpu() for layer in layers],
    )


def recover(state: State, settings: Recovery) -> Iterator[Event]:
    """Train right after the cut: shallow layers first, then all; L2 adapted to the validation score."""
    model = state.model
    plan = state.plan(
        "prune.recovery",
        epochs=settings.epochs,
        rate=settings.rate,
        dropout=True,
        adapt_decay=settings.adapt_l2,
        patience=settings.patience,
        patience_from=settings.epochs // 2 if settings.shallow_first else 0,
    )
    ticks = train(
        model,
        plan,
        state.rows["train"],
        state.rows["validation"],
        labelled(state.task, model),
        before_epoch=_freezer(model, settings),
        course=state.course("pruned", "recover"),
        budget=state.budget,
    )
    outcome = yield from state.journey.follow("pruned", "recover", ticks)
    state.notes.append(
        f"Recovery: validation {state.task.metric} {outcome.before.score:.4f} → {outcome.best.score:.4f} "
        f"(best of epochs 0 to {settings.epochs}: {outcome.best_epoch})."
    )
    state.notes += outcome.remarks


def _freezer(model: PreTrainedModel, settings: Recovery) -> Callable[[int], None]:
    """In the first half of the epochs the lower half of the layers learns alone, in the second half everything does."""
    layers = families.of(model).layer_parameters(model)
    shallow = {id(parameter) for layer in layers[: (len(layers) + 1) // 2] for parameter in layer}

    def before_epoch(epoch: int) -> None:
        alone = settings.shallow_first and 2 * epoch <= settings.epochs
        for parameter in model.parameters():
            parameter.requires_grad_(not alone or id(parameter) in shallow)

    return before_epoch

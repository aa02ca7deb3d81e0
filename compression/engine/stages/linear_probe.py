"""Fits a linear model to the uploaded model's frozen features: tuning must reach at least its score."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from compression.distillation.teacher import FeatureRequest, request_features
from compression.engine.context import StageContext
from compression.modalities.base import Examples
from compression.modalities.sampling import BATCH, micro_batch_size, shuffled_rows
from compression.models.adapters.registry import adapter_of
from compression.planning.preparation import FEATURE_ROWS


@runtime_checkable
class LinearlyProbed(Protocol):
    """A task that a linear model can be fitted to."""

    def linear_logits(self, features: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        """Fit a linear model to (rows, n) features and labels; return its logits for `asked`, (others, n)."""
        ...


def linear_probe(context: StageContext) -> float | None:
    """Return the score on validation of a linear model of a model's features; None if not LinearlyProbed, or if it is a network
    none of whose stages leaves a feature map, as one of dense layers alone. It is fitted to at most FEATURE_ROWS rows of train,
    sampled with the job's seed. The model is not changed.
    """
    task, adapter = context.task, adapter_of(context.model)
    is_network = adapter.network(context.model.config) is not None
    if not isinstance(task, LinearlyProbed) or (is_network and not adapter.feature_maps(context.model)):
        return None
    train = shuffled_rows(context.rows["train"], FEATURE_ROWS, context.recipe.train.seed)
    validation = context.rows["validation"]
    known, asked = (features(context.model, rows, context.parts) for rows in (train, validation))
    return task.score(task.linear_logits(known, train.labels, asked), validation)


@torch.inference_mode()
def features(model: PreTrainedModel, rows: Examples, parts: int = 1) -> Tensor:
    """Return the mean of the last hidden states over real tokens, or of the last feature map over its positions.

    -> (rows, width), float32 on the CPU
    """
    training, maps = model.training, len(adapter_of(model).feature_maps(model))
    model.eval()
    device = next(model.parameters()).device
    out: Tensor | None = None
    for batch in rows.by_length(micro_batch_size(BATCH, parts)):
        here = batch.to(device)
        if maps:
            (last,) = request_features(model, here, rows.task, FeatureRequest(maps=(maps,))).maps
            means = last.float().mean(dim=(2, 3)).cpu()
        else:
            states = model.base_model(**here.inputs).last_hidden_state.float()
            mask = here.mask[..., None].float()
            means = ((states * mask).sum(dim=1) / mask.sum(dim=1)).cpu()
        out = torch.zeros((len(rows), means.shape[1])) if out is None else out
        out[batch.rows] = means
    model.train(training)
    assert out is not None, "a split has rows"  # noqa: S101
    return out

"""Estimates the running statistics of a network's normalizations anew, after a cut has changed what they normalize."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn


def running_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the modules with running statistics."""
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d) and module.track_running_stats]


@torch.no_grad()
def reestimate_statistics(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> None:
    """Replace running means and variances by the mean of those of the batches, in which each row counts alike.

    batches: arguments of the model. In a batch each layer normalizes by the batch's own statistics, as in training.
    """
    norms, training, rows = running_norms(model), model.training, 0
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train()
    for batch in batches:
        more = len(next(iter(batch.values())))
        rows += more
        for norm in norms:
            norm.momentum = more / rows
        model(**batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.train(training)

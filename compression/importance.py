"""How much a unit matters: pure reductions of activations and weights to one score a unit, and the choice by score.

`l1` is the L1 norm of what a unit says on calibration rows, `l1_weight` that of the weights which make and read it (Li et
al. 2017). On encoders the first keeps far more of the model; docs/method.md says why.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def activation_norm(activations: Tensor, mask: Tensor) -> Tensor:
    """L1 norm over real tokens. activations: (rows, tokens, units), mask: (rows, tokens), 1 at real tokens -> (units,)."""
    return (activations.abs() * mask[..., None].to(activations.dtype)).sum(dim=(0, 1))


def grouped(scores: Tensor, groups: int) -> Tensor:
    """Add up the scores of neighbouring units, for example of a head's channels. (groups × n,) -> (groups,)."""
    return scores.view(groups, -1).sum(dim=1)


def weight_norm(makers: Iterable[Tensor], readers: Iterable[Tensor]) -> Tensor:
    """L1 norm of the weights that make a unit and of those that read it.

    makers: matrices (units, inputs), readers: matrices (outputs, units) -> (units,).
    """
    made = [weight.abs().sum(dim=1) for weight in makers]
    read = [weight.abs().sum(dim=0) for weight in readers]
    return torch.stack(made + read).sum(dim=0)


def strongest(scores: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` largest scores, ascending; of equal ones the earlier stay. (units,) -> (count,)."""
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values

"""Importance scores: one score per unit from activations, gradients or weights, and top-k selection. Pure functions.

`l1` and `l2` are the norm of a unit's activations on calibration rows, `l1_weight` and `l2_weight` of its weights (Li et al.
2017), `bn_scale` is the factor of its batch normalization (Liu et al. 2017), and `taylor` the first-order estimate of the
change in loss without it (Molchanov et al. 2017, 2019). In transformers activations preserve far more of the model than weights
(docs/method.md). Layers are scored by block influence (Men et al. 2024, ShortGPT), and where they take different times, by
the influence lost for each millisecond saved.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def activation_scores(activations: Tensor, mask: Tensor, norm: Literal["l1", "l2"]) -> Tensor:
    """Return the L1 norm over real tokens, or the squared L2 norm: unlike the norm it can be summed over batches.

    activations: (rows, tokens, units), mask: (rows, tokens), 1 at real tokens -> (units,).
    """
    sizes = activations.abs() if norm == "l1" else activations.square()
    return (sizes * mask[..., None].to(activations.dtype)).sum(dim=(0, 1))


def first_order(activations: Tensor, gradients: Tensor, mask: Tensor, groups: int | None = None) -> Tensor:
    """Return the first-order estimate of the loss change without each unit, or group of adjacent units.

    Σ over rows of |Σ over tokens of g · a|: the derivative with respect to a gate on the unit's output (Molchanov et al. 2019,
    eq. 5 to 8, with the absolute value of the 2017 paper). activations, gradients (of the sum over rows): (rows, tokens,
    units); mask: (rows, tokens) -> (units or groups,).
    """
    changes = (activations * gradients * mask[..., None].to(activations.dtype)).sum(dim=1)
    if groups is not None:
        changes = changes.view(len(changes), groups, -1).sum(dim=2)
    return changes.abs().sum(dim=0)


def block_influence(states: Tensor) -> Tensor:
    """Return Σ over tokens of 1 − cosine of each layer's input and output. (layers + 1, tokens, width) -> (layers,)."""
    return (1 - functional.cosine_similarity(states[:-1], states[1:], dim=-1)).sum(dim=1)


def influence_per_time(influence: Tensor, milliseconds: Tensor) -> Tensor:
    """Return the influence that is lost for each millisecond saved. Both (layers,) -> (layers,); all times are above 0."""
    return influence / milliseconds


def expert_scores(
    inputs: Tensor, chosen: Tensor, weights: Tensor, activations_of: Callable[[int, Tensor], Tensor], down: Tensor
) -> tuple[Tensor, Tensor]:
    """Score a layer's experts and their units by their contribution to the residual stream, summed over tokens.

    An expert's score is its router weight times the L2 norm of its output (REAP, Lasby et al. 2025, who take the mean over its
    tokens), a unit's the router weight times the absolute value of its activation. inputs: (tokens, hidden); chosen, weights:
    (tokens, n), the experts of each token and their router weights; activations_of: of an expert's number and its tokens, (m,
    hidden) -> (m, units); down: (experts, hidden, units) -> (experts,), (experts, units).
    """
    experts, units = torch.zeros(len(down), device=down.device), torch.zeros(len(down), down.shape[2], device=down.device)
    for number in sorted(set(chosen.flatten().tolist())):
        tokens, places = torch.where(chosen == number)
        weighted = activations_of(number, inputs[tokens]) * weights[tokens, places, None].to(inputs.dtype)
        units[number] = weighted.float().abs().sum(dim=0)
        experts[number] = functional.linear(weighted, down[number]).float().norm(dim=1).sum()
    return experts, units


def expert_first_order(
    inputs: Tensor,
    chosen: Tensor,
    weights: Tensor,
    gradients: Tensor,
    rows: Tensor,
    activations_of: Callable[[int, Tensor], Tensor],
    down: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return `first_order` of a layer's experts and of their units: what the loss changes without them.

    inputs, chosen, weights, activations_of, down: as in `expert_scores`; gradients: (tokens, hidden), of the sum over rows with
    respect to what all experts add to the stream; rows: (tokens,), each token's row -> (experts,), (experts, units).
    """
    experts, units = torch.zeros(len(down), device=down.device), torch.zeros(len(down), down.shape[2], device=down.device)
    for number in sorted(set(chosen.flatten().tolist())):
        tokens, places = torch.where(chosen == number)
        weighted = activations_of(number, inputs[tokens]) * weights[tokens, places, None].to(inputs.dtype)
        changes = (weighted * (gradients[tokens].to(down.dtype) @ down[number])).float()
        of_rows = changes.new_zeros(int(rows.max()) + 1, changes.shape[1]).index_add_(0, rows[tokens], changes)
        units[number] = of_rows.abs().sum(dim=0)
        experts[number] = of_rows.sum(dim=1).abs().sum()
    return experts, units


def grouped(scores: Tensor, groups: int) -> Tensor:
    """Sum the scores of adjacent units, for example the channels of a head. (groups × n,) -> (groups,)."""
    return scores if len(scores) == groups else scores.view(groups, -1).sum(dim=1)


def weight_norm(weight: Tensor, dim: int, norm: Literal["l1", "l2"] = "l1") -> Tensor:
    """Return the norm of each unit's weights along `dim`. weight: any shape -> (size of `dim`,)."""
    others = [other for other in range(weight.ndim) if other != dim]
    return weight.abs().sum(dim=others) if norm == "l1" else weight.square().sum(dim=others).sqrt()


def strongest(scores: Tensor, count: int) -> Tensor:
    """Return the sorted indices of the `count` largest scores. (units,) -> (count,). Ties go to the lower index."""
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


def strongest_of_each(scores: Tensor, count: int, parts: int) -> Tensor:
    """Return `strongest` within each of `parts` equal, adjacent blocks. (units,) -> (count,), `count` in total."""
    size = len(scores) // parts
    found = [strongest(part, count // parts) + number * size for number, part in enumerate(scores.view(parts, size))]
    return torch.cat(found)

"""How much a unit matters: pure reductions of activations, gradients and weights to one score a unit, and the choice by score.

`l1` and `l2` are the norm of a unit's activations on calibration rows, `l1_weight` that of the weights which make and read it
(Li et al. 2017), `taylor` what the loss would change without it, to the first order (Molchanov et al. 2017, 2019). On encoders
the first keeps far more of the model than the weights' norm; docs/method.md says why. Layers are scored by what they change
(block influence: Men et al. 2024, ShortGPT).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def activation_norm(activations: Tensor, mask: Tensor) -> Tensor:
    """L1 norm over real tokens. activations: (rows, tokens, units), mask: (rows, tokens), 1 at real tokens -> (units,)."""
    return (activations.abs() * mask[..., None].to(activations.dtype)).sum(dim=(0, 1))


def activation_squares(activations: Tensor, mask: Tensor) -> Tensor:
    """Squared L2 norm over real tokens: unlike the norm it adds up over batches, and it ranks the same.

    activations: (rows, tokens, units), mask: (rows, tokens), 1 at real tokens -> (units,).
    """
    return (activations.square() * mask[..., None].to(activations.dtype)).sum(dim=(0, 1))


def first_order(activations: Tensor, gradients: Tensor, mask: Tensor, groups: int | None = None) -> Tensor:
    """What the loss of each row would change if a unit were silent, to the first order, its size added up over rows.

    That is |Σ over tokens of g · a|: the derivative by a gate on the unit's output (Molchanov et al. 2019, eq. 5 to 8, by the
    absolute value of the 2017 paper). With `groups` neighbouring units share a gate, for example those of a head.
    activations, gradients: (rows, tokens, units), gradients of the sum over rows; mask: (rows, tokens) -> (units or groups,).
    """
    changes = (activations * gradients * mask[..., None].to(activations.dtype)).sum(dim=1)
    if groups is not None:
        changes = changes.view(len(changes), groups, -1).sum(dim=2)
    return changes.abs().sum(dim=0)


def block_influence(states: Tensor) -> Tensor:
    """How much each layer turns the stream: 1 − cosine of what enters and what leaves it, added up over tokens.

    states: (layers + 1, tokens, width), the stream before the first layer and after each -> (layers,).
    """
    return (1 - functional.cosine_similarity(states[:-1], states[1:], dim=-1)).sum(dim=1)


def expert_scores(
    inputs: Tensor, chosen: Tensor, weights: Tensor, activations_of: Callable[[int, Tensor], Tensor], down: Tensor
) -> tuple[Tensor, Tensor]:
    """Score a layer's experts and the units of each, by what they add to the stream, added up over tokens.

    An expert by its router's weight times the L2 norm of its output (REAP, Lasby et al. 2025, who take the mean over its
    tokens: the sum also says how often it is asked); a unit by the weight times the size of its activation.
    inputs: (tokens, hidden); chosen, weights: (tokens, n), the experts that a token goes to; activations_of: an expert's number
    and its tokens, (m, hidden), to its units' activations, (m, units); down: (experts, hidden, units)
    -> (experts,), (experts, units).
    """
    experts, units = torch.zeros(len(down), device=down.device), torch.zeros(len(down), down.shape[2], device=down.device)
    for number in sorted(set(chosen.flatten().tolist())):
        tokens, places = torch.where(chosen == number)
        weighted = activations_of(number, inputs[tokens]) * weights[tokens, places, None].to(inputs.dtype)
        units[number] = weighted.float().abs().sum(dim=0)
        experts[number] = functional.linear(weighted, down[number]).float().norm(dim=1).sum()
    return experts, units


def grouped(scores: Tensor, groups: int) -> Tensor:
    """Add up the scores of neighbouring units, for example of a head's channels. (groups × n,) -> (groups,)."""
    return scores if len(scores) == groups else scores.view(groups, -1).sum(dim=1)


def weight_norm(weight: Tensor, dim: int) -> Tensor:
    """L1 norm of the weights that make or read each unit of a dimension. weight: any shape -> (size of `dim`,)."""
    return weight.abs().sum(dim=[other for other in range(weight.ndim) if other != dim])


def strongest(scores: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` largest scores, ascending; of equal ones the earlier stay. (units,) -> (count,)."""
    return torch.argsort(scores, descending=True, stable=True)[:count].sort().values


def strongest_of_each(scores: Tensor, count: int, parts: int) -> Tensor:
    """Return the same of neighbouring parts, as many of each: `count` in all. (units,) -> (count,)."""
    size = len(scores) // parts
    found = [strongest(part, count // parts) + number * size for number, part in enumerate(scores.view(parts, size))]
    return torch.cat(found)

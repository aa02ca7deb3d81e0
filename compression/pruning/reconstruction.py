"""Least squares after a cut: what is left of a model takes over what it can of what went.

A cut leaves each linear layer with a part of its inputs. What the others said is not lost: on real text much of it follows
from those that stay. So each layer is solved anew, in the order in which they compute, such that on calibration rows it says
what the whole model's layer said, given what the layers before it, solved already, now give it (reconstruction: He, Zhang &
Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks"). No label is needed and no step is taken: a few passes,
and a system of equations a layer. Where layers were dropped, the one before the gap is solved for the stream beyond it.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Batch
from compression.models.adapters.registry import encoder_of
from compression.models.adapters.structure import EncoderLayer, PruningPlan
from compression.models.linear_layers import matrix

RIDGE = 0.1
"""How much a change of weights costs, in units of the inputs' mean square. Of 0.001, 0.01 and 0.1 none was best for all of four
cuts of MiniLM-L6 on SST-2 (norms were fitted too in that trial); the largest keeps nearest to what was learned before."""

Side = Literal["in", "out"]
Tap = tuple[nn.Module, Side]


class _Enough(Exception):
    """All that was wanted has been computed."""


@torch.no_grad()
def reconstruct(
    small: PreTrainedModel,
    whole: PreTrainedModel,
    kept: PruningPlan,
    batches: Sequence[Batch],
    before_layer: Callable[[], None] = lambda: None,
) -> None:
    """Solve the linear layers of `small`, which was cut from `whole` as `kept` says, in place.

    Both are on one device, as the batches are; `whole` may simulate integers, `small` may not yet. Embeddings, norms and
    head stay as they are: norms gain nothing by it, and a head that reads one vector a row has too few rows to be solved on.
    Raises what `before_layer` does.
    """
    family = encoder_of(whole)
    shape = family.shape_of(whole.config)
    ours, theirs = family.layers(small.eval()), family.layers(whole.eval())
    numbers = kept.layers if kept.layers is not None else tuple(range(len(theirs)))
    ends = [number - 1 for number in numbers[1:]] + [len(theirs) - 1]
    size, stream = shape.hidden // shape.heads, kept.hidden
    attention = kept.attention_rows(size)
    for layer, number, end, (compared, values), units in zip(ours, numbers, ends, attention, kept.ffn, strict=True):
        before_layer()
        stay = (compared, compared, values, stream, units, stream)
        said = _said(whole, theirs[number], theirs[end], batches)
        wanted = [states[:, those] for states, those in zip(said, stay, strict=True)]
        wanted[0] *= kept.query_scale(size)
        _solve(small, layer, wanted, batches)


def _said(whole: PreTrainedModel, layer: EncoderLayer, end: EncoderLayer, batches: Sequence[Batch]) -> list[Tensor]:
    """Hear query, key, value, the stream before attention's norm, feed-forward units, and the stream before the last norm."""
    taps: list[Tap] = [(part, "out") for part in (layer.query, layer.key, layer.value)]
    return collect_activations(whole, [*taps, (layer.attended_norm, "in"), (layer.up, "out"), (end.norm, "in")], batches)


def _solve(small: PreTrainedModel, layer: EncoderLayer, wanted: list[Tensor], batches: Sequence[Batch]) -> None:
    """Solve one layer part by part, each on what the parts before it now give it."""
    projections = (layer.query, layer.key, layer.value)
    given, *said = collect_activations(small, [(layer.query, "in"), *((part, "out") for part in projections)], batches)
    for part, now, then in zip(projections, said, wanted[:3], strict=True):
        solve_layer(part, given, then - now)
    # What writes to the stream is solved for the sum that it enters: so it makes good what the stream itself has lost.
    steps: list[tuple[nn.Linear, Tap, Tensor]] = [
        (layer.attended, (layer.attended_norm, "in"), wanted[3]),
        (layer.up, (layer.up, "out"), wanted[4]),
        (layer.down, (layer.norm, "in"), wanted[5]),
    ]
    for part, tap, then in steps:
        given, now = collect_activations(small, [(part, "in"), tap], batches)
        solve_layer(part, given, then - now)


def collect_activations(model: nn.Module, taps: Sequence[Tap], batches: Sequence[Batch]) -> list[Tensor]:
    """Run the model no further than needed and return what goes into or comes out of modules, one (tokens, width) each.

    Of what has a vector for each token, only real ones are taken; a vector a row is taken as it is.
    """
    found: list[list[Tensor]] = [[] for _ in taps]
    mask = torch.empty(0)

    def take(number: int, states: Tensor) -> None:
        found[number].append((states[mask] if states.ndim == 3 else states).float())
        if all(len(one) == len(found[number]) for one in found):
            raise _Enough

    def hook(number: int, module: nn.Module, side: Side) -> torch.utils.hooks.RemovableHandle:
        if side == "in":
            return module.register_forward_pre_hook(lambda _, inputs: take(number, inputs[0]))
        return module.register_forward_hook(lambda _, __, out: take(number, out))

    with ExitStack() as hooks:
        for number, (module, side) in enumerate(taps):
            hooks.callback(hook(number, module, side).remove)
        for batch in batches:
            mask = batch.mask.bool()
            try:
                model(**batch.inputs)
            except _Enough:
                continue
    return [torch.cat(one) for one in found]


def solve_layer(linear: nn.Module, given: Tensor, missing: Tensor, ridge: float = RIDGE) -> None:
    """Change a layer so that it adds what is missing, as far as a linear map of its inputs can: ridge regression.

    given: (tokens, inputs), missing: (tokens, outputs). The change of weights is held small and not the weights, so what the
    tokens say nothing of stays as it was; the bias is free.
    """
    weight, bias = matrix(linear), dict(linear.named_parameters()).get("bias")
    mean_given, mean_missing = given.mean(dim=0), missing.mean(dim=0)
    if bias is None:
        mean_given, mean_missing = torch.zeros_like(mean_given), torch.zeros_like(mean_missing)
    apart = (given - mean_given).double()
    gram = apart.t() @ apart
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    change = torch.linalg.solve(gram, apart.t() @ (missing - mean_missing).double()).t().to(weight.dtype)
    weight.add_(change)
    if bias is not None:
        bias.add_(mean_missing - change @ mean_given)

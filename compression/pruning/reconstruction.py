"""Least-squares reconstruction after pruning: the remaining weights compensate for the removed units.

On real text, much of what a layer's removed inputs carried can be predicted from the remaining ones. So each layer is solved
anew, in forward order: on calibration rows it fits the outputs of the unpruned model's layer, given the inputs that the already
solved layers now produce (He, Zhang & Sun 2017, "Channel Pruning for Accelerating Very Deep Neural Networks"). A layer that
writes to the residual stream is solved for the sum after the addition, which also corrects the error in the stream; the layer
before a gap of dropped layers, for the stream after the gap. Each runs on the stored outputs of the previous layer, so no
earlier layer is computed again.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Batch
from compression.models.adapters.registry import adapter_of, is_decoder
from compression.models.adapters.structure import Layer, PruningPlan, Tap
from compression.models.linear_layers import is_linear, is_transposed, matrix
from compression.pruning.scores import observe_tap

RIDGE = 0.1
"""Penalty on the change of weights, in units of the inputs' mean square. Of 0.001, 0.01 and 0.1, none was best for all of four
cuts of MiniLM-L6 on SST-2 (that trial also fitted the norms). The largest stays closest to the trained weights."""


@torch.no_grad()
def reconstruct(
    small: PreTrainedModel,
    whole: PreTrainedModel,
    plan: PruningPlan,
    batches: Sequence[Batch],
    before_layer: Callable[[], None] = lambda: None,
) -> None:
    """Solve the linear layers of `small`, which was pruned from `whole` by `plan`, in place, on the batches' device.

    `whole` may simulate integers; `small` must not yet. Embeddings, norms, fused experts, routers and the head do not change:
    norms gain nothing, and a head that reads one vector per row has too few rows. `before_layer` runs before each layer.
    """
    family = adapter_of(whole)
    ours, theirs = family.layers(small.eval()), family.layers(whole.eval())
    cut, names = family.cut(whole, plan), {module: name for name, module in whole.named_modules()}
    numbers = plan.layers if plan.layers is not None else tuple(range(len(theirs)))
    ends = [number - 1 for number in numbers[1:]] + [len(theirs) - 1]
    before, after = LayerStack(whole, theirs, batches), LayerStack(small, ours, batches)
    for number in range(numbers[0]):
        before.advance(number)
    for place, (number, end) in enumerate(zip(numbers, ends, strict=True)):
        before_layer()
        layer, old = ours[place], theirs[number]
        parts = [
            (new, then)
            for new, then in zip(layer.whole.modules(), old.whole.modules(), strict=True)
            if is_linear(then) and f"{names[then]}.weight" in cut.tensors
        ]
        goals = before.collect(number, [_tap(old, then) for _, then in parts])
        for through in range(number, end):
            before.advance(through)
        if end > number:
            (beyond,) = before.collect(end, [theirs[end].sums[1]])
            goals = [beyond if then is old.down else goal for (_, then), goal in zip(parts, goals, strict=True)]
        before.advance(end)
        for (new, then), goal in zip(parts, goals, strict=True):
            wanted = cut.outputs(names[then], goal, int(is_transposed(then)))
            given, now = after.collect(place, [(new, "in"), _tap(layer, new)])
            solve_layer(new, given, wanted - now)
        after.advance(place)


def _tap(layer: Layer, part: nn.Module) -> Tap:
    """Return where to observe a linear layer's regression target: its output, or the stream it writes to."""
    if part is layer.attended:
        return layer.sums[0]
    return layer.sums[1] if part is layer.down else (part, "out")


class LayerStack:
    """Runs a model's layers one by one. `streams`: the input of the next layer, one tensor per batch."""

    def __init__(self, model: PreTrainedModel, layers: Sequence[Layer], batches: Sequence[Batch]) -> None:
        self.layers = [layer.whole for layer in layers]
        self.masks = [batch.mask.bool() for batch in batches]
        self.streams: list[Tensor] = []
        self.others: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in layers]
        more = {"use_cache": False} if is_decoder(model) else {}
        with ExitStack() as hooks:
            for number, layer in enumerate(self.layers):
                hooks.enter_context(layer.register_forward_pre_hook(partial(self._keep, number), with_kwargs=True))
            for batch in batches:
                model.base_model(**{**batch.inputs, **more})

    def _keep(self, number: int, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a layer's other inputs: masks and positions, independent of the stream."""
        if number == 0:
            self.streams.append(args[0])
        self.others[number].append((args[1:], kwargs))

    def run(self, number: int) -> list[Tensor]:
        """Run a layer on the current streams and return its output for each batch."""
        given = zip(self.streams, self.others[number], strict=True)
        found = [self.layers[number](stream, *args, **kwargs) for stream, (args, kwargs) in given]
        return [one[0] if isinstance(one, tuple) else one for one in found]

    def advance(self, number: int) -> None:
        """Run a layer and replace the streams with its outputs."""
        self.streams = self.run(number)

    def collect(self, number: int, taps: Sequence[Tap]) -> list[Tensor]:
        """Run a layer and return the tapped inputs or outputs at real tokens, (tokens, width) each."""
        taken: list[list[Tensor]] = [[] for _ in taps]

        def take(place: int, values: Tensor) -> None:
            real = self.masks[len(taken[place])]
            taken[place].append(values.reshape(*real.shape, -1)[real].float())  # the low-rank layers have one more dimension

        with ExitStack() as hooks:
            for place, tap in enumerate(taps):
                observe_tap(hooks, tap, partial(take, place))
            self.run(number)
        return [torch.cat(one) for one in taken]


def solve_layer(linear: nn.Module, given: Tensor, missing: Tensor, ridge: float = RIDGE) -> None:
    """Add a linear map of a layer's inputs that best fits `missing`, by ridge regression, in place.

    given: (tokens, inputs), missing: (tokens, outputs). The penalty, none for the bias, applies to the change of the weights.
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

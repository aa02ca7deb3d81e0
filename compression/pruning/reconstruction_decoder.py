"""Least squares after a cut of a decoder, as `reconstruct` has it for encoders: layer by layer, each on what it now is given.

Linear layers are solved in the order in which they compute, to say on calibration rows what the whole model's said: those that
write the stream for the sum that they enter, which makes good what the stream has lost, experts' part in it included. Fused
experts and routers stay as they were cut. Decoders are deep, so a layer is run by itself on what the one before has said, and
nothing before it is computed again.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Batch
from compression.models.adapters.registry import decoder_of
from compression.models.adapters.structure import DecoderLayer, PruningPlan
from compression.models.linear_layers import is_linear
from compression.pruning.reconstruction import Tap, solve_layer


class _Stack:
    """A decoder's layers, to be run one by one. `streams`: what enters the next, of each batch."""

    def __init__(self, model: PreTrainedModel, blocks: Sequence[DecoderLayer], batches: Sequence[Batch]) -> None:
        self.layers = [block.whole for block in blocks]
        self.masks = [batch.mask.bool() for batch in batches]
        self.streams: list[Tensor] = []
        self.others: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = [[] for _ in blocks]
        with ExitStack() as hooks:
            for number, layer in enumerate(self.layers):
                hook = layer.register_forward_pre_hook(self._keeper(number), with_kwargs=True)
                hooks.callback(hook.remove)
            for batch in batches:
                model.base_model(**{**batch.inputs, "use_cache": False})

    def _keeper(self, number: int) -> Any:
        """Keep what a layer is given beside the stream: masks and positions, the same whatever the stream is."""

        def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if number == 0:
                self.streams.append(args[0])
            self.others[number].append((args[1:], kwargs))

        return keep

    def run(self, number: int) -> list[Tensor]:
        """Run a layer on the streams that are here; return what leaves it, of each batch."""
        given = zip(self.streams, self.others[number], strict=True)
        return [self.layers[number](stream, *args, **kwargs) for stream, (args, kwargs) in given]

    def go_on(self, number: int) -> None:
        """Run a layer for good."""
        self.streams = self.run(number)

    def heard(self, number: int, taps: Sequence[Tap]) -> list[Tensor]:
        """Run a layer and return what goes into or comes out of modules in it at real tokens, one (tokens, width) each."""
        found: list[list[Tensor]] = [[] for _ in taps]

        def take(place: int, said: Tensor) -> None:
            real = self.masks[len(found[place])]
            found[place].append(said.reshape(*real.shape, -1)[real].float())  # ranks have a dimension of one more

        with ExitStack() as hooks:
            for place, (module, side) in enumerate(taps):
                if side == "in":
                    hook = module.register_forward_pre_hook(lambda _, given, place=place: take(place, given[0]))
                else:
                    hook = module.register_forward_hook(lambda _, __, said, place=place: take(place, said))
                hooks.callback(hook.remove)
            self.run(number)
        return [torch.cat(one) for one in found]

    def real(self) -> Tensor:
        """Return the streams at real tokens, (tokens, hidden)."""
        return torch.cat([stream[mask] for stream, mask in zip(self.streams, self.masks, strict=True)]).float()


@torch.no_grad()
def reconstruct_decoder(
    small: PreTrainedModel,
    whole: PreTrainedModel,
    kept: PruningPlan,
    batches: Sequence[Batch],
    before_layer: Callable[[], None] = lambda: None,
) -> None:
    """Solve the linear layers of `small`, which was cut from `whole` as `kept` says, in place.

    Both are on one device, as the batches are; `whole` may simulate integers, `small` may not yet. Embeddings, norms, experts
    and head stay as they are. Where layers were dropped, the one before the gap is solved for the stream beyond it. Raises what
    `before_layer` does.
    """
    family = decoder_of(whole)
    ours, theirs = family.blocks(small.eval()), family.blocks(whole.eval())
    stay = family.outputs_kept(whole, kept)
    numbers = kept.layers if kept.layers is not None else tuple(range(len(theirs)))
    ends = [number - 1 for number in numbers[1:]] + [len(theirs) - 1]
    before, after = _Stack(whole, theirs, batches), _Stack(small, ours, batches)
    for number in range(numbers[0]):
        before.go_on(number)
    for place, (number, end) in enumerate(zip(numbers, ends, strict=True)):
        before_layer()
        block, old = ours[place], theirs[number]
        parts = [
            (new, then)
            for new, then in zip(block.whole.modules(), old.whole.modules(), strict=True)
            if is_linear(then) and then in stay
        ]
        said = before.heard(number, [_tap(old, then) for _, then in parts])
        for through in range(number, end + 1):
            before.go_on(through)
        for (new, then), wanted in zip(parts, said, strict=True):
            goal = before.real() if then is old.down else wanted
            given, now = after.heard(place, [(new, "in"), _tap(block, new)])
            solve_layer(new, given, goal[:, stay[then]] - now)
        after.go_on(place)


def _tap(block: DecoderLayer, layer: nn.Module) -> Tap:
    """Say where to hear what a layer is solved for: itself, or the stream that it writes to."""
    if layer is block.attended:
        return block.norms[1], "in"
    return (block.whole, "out") if layer is block.down else (layer, "out")

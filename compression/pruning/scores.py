"""Scores of everything that can be cut, taken once on calibration rows: any ratio then chooses by them without another pass.

What is here is of encoders; decoders have other parts (`stages.decoder_scores`). `taken_scores` is the way to both.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compression.modalities.base import Batch, Examples, label_loss
from compression.modalities.sampling import micro_batch_size, shuffled_rows
from compression.models.adapters.registry import encoder_of, is_decoder
from compression.models.adapters.structure import ArchitectureAdapter, PruningPlan
from compression.models.tensors import Tensors
from compression.pruning import importance
from compression.pruning.decoder_scores import DecoderScores, decoder_scores
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape

CALIBRATION_BATCH = 32
PARTS = ("heads", "ffn", "compared", "values")
"""What each layer has scores of its own for."""


@dataclass(frozen=True)
class EncoderScores:
    """How much each unit of an encoder matters. On the CPU, the larger the more.

    hidden: (hidden,), summed over the whole stream; pooled: (hidden,), outputs of the head's dense layer; heads, ffn: (heads,)
    and (ffn,) of each layer; compared, values: (heads, size), the channels of each head, of queries with keys and of values;
    layers: (layers,), their block influence, or None where nobody asked for it.
    """

    hidden: Tensor
    pooled: Tensor
    heads: tuple[Tensor, ...]
    ffn: tuple[Tensor, ...]
    compared: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    layers: Tensor | None = None

    def choose(self, family: ArchitectureAdapter, to: Shape) -> PruningPlan:
        """Keep what matters most, for a model of the shape `to`: layers first, then heads and units of those that stay.

        Where they become narrower, each head's own channels are chosen last.
        """
        stay = tuple(range(len(self.heads)))
        if to.layers < len(stay):
            if self.layers is None:
                raise ValueError("no layer can be chosen: their influence was not asked for")
            stay = tuple(importance.strongest(self.layers, to.layers).tolist())
        heads = [importance.strongest(scores, to.heads) for scores in family.head_scores([self.heads[i] for i in stay])]
        size = to.hidden // to.heads
        narrower = size < self.values[0].shape[1]

        def within(scores: Tensor) -> Tensor:
            return torch.stack([importance.strongest(one, size) for one in scores])

        return PruningPlan(
            hidden=importance.strongest(self.hidden, to.hidden),
            pooled=importance.strongest(self.pooled, to.hidden),
            heads=tuple(heads),
            ffn=tuple(importance.strongest(self.ffn[i], to.ffn) for i in stay),
            layers=stay if to.layers < len(self.heads) else None,
            channels=tuple(
                (within(self.compared[i][those]), within(self.values[i][those])) for i, those in zip(stay, heads, strict=True)
            )
            if narrower
            else (),
        )

    def after(self, kept: PruningPlan) -> "EncoderScores":
        """Return the scores of what is left: the next cut goes on from them."""
        stay = kept.layers or tuple(range(len(self.heads)))
        heads = list(zip(stay, kept.heads, strict=True))
        compared, values = ([part[i][those] for i, those in heads] for part in (self.compared, self.values))
        if kept.channels:
            compared = [scores.gather(1, those) for scores, (those, _) in zip(compared, kept.channels, strict=True)]
            values = [scores.gather(1, those) for scores, (_, those) in zip(values, kept.channels, strict=True)]
        return EncoderScores(
            hidden=self.hidden[kept.hidden],
            pooled=self.pooled[kept.pooled],
            heads=tuple(self.heads[i][those] for i, those in heads),
            ffn=tuple(self.ffn[i][units] for i, units in zip(stay, kept.ffn, strict=True)),
            compared=tuple(compared),
            values=tuple(values),
            layers=self.layers[list(stay)] if self.layers is not None else None,
        )

    def tensors(self) -> Tensors:
        """Name each, for a save."""
        named = {"hidden": self.hidden, "pooled": self.pooled}
        for part in PARTS:
            named |= {f"{part}.{i}": scores for i, scores in enumerate(getattr(self, part))}
        return named | ({"layers": self.layers} if self.layers is not None else {})

    @classmethod
    def of_tensors(cls, found: Mapping[str, Tensor]) -> "EncoderScores":
        """Put together what `tensors` named."""
        layers = range(sum(name.startswith("heads.") for name in found))
        heads, ffn, compared, values = (tuple(found[f"{part}.{i}"] for i in layers) for part in PARTS)
        return cls(found["hidden"], found["pooled"], heads, ffn, compared, values, found.get("layers"))


def score_units(
    model: PreTrainedModel, settings: Prune, train_rows: Examples, seed: int, parts: int = 1, *, layers: bool = False
) -> EncoderScores | DecoderScores:
    """Score a model's units as the recipe says, on rows of train drawn with `seed`. `layers`: also how much each turns.

    Raises ValueError for scores that a decoder's units cannot have; `catalog.check_axes` refuses them before.
    """
    rows = shuffled_rows(train_rows, settings.calibration_rows, seed)
    size = micro_batch_size(CALIBRATION_BATCH, parts)
    if is_decoder(model):
        if settings.importance not in ("l1", "l2"):
            raise ValueError(f"units of decoders cannot be scored by {settings.importance}")
        return decoder_scores(model, rows.by_length(size), settings.importance)
    if settings.importance == "l1_weight":
        found = _by_weights(model)
    elif settings.importance == "taylor":
        found = _by_loss(model, rows, size)
    else:
        found = _by_activations(model, rows, size, squared=settings.importance == "l2")
    return EncoderScores(**found, layers=_influence(model, rows, size) if layers else None)


Hear = Callable[[nn.Module, Tensor], None]


class EncoderActivationCollector:
    """Listens at the stream's norms, queries and keys, and at what attention outputs, down projections and classifier read."""

    def __init__(self, model: PreTrainedModel) -> None:
        family = encoder_of(model)
        self.layers, head = family.layers(model), family.head(model).out
        assert head is not None, "a classifier has a head"  # noqa: S101
        self.head, self.norms = head, family.stream_norms(model)
        self.heads = family.shape_of(model.config).heads

    def listen(self, hooks: ExitStack, hear: Hear) -> None:
        """Have `hear` told of activations, (rows, tokens, units) or of a pooled vector (rows, units), until `hooks` end."""
        for maker in [*self.norms, *(part for layer in self.layers for part in (layer.query, layer.key))]:
            hooks.callback(maker.register_forward_hook(lambda module, _, out: hear(module, out)).remove)
        for reader in [self.head, *(part for layer in self.layers for part in (layer.attended, layer.down))]:
            hooks.callback(reader.register_forward_pre_hook(lambda module, inputs: hear(module, inputs[0])).remove)

    def sorted(self, found: dict[nn.Module, Tensor], heads: Callable[[nn.Module], Tensor]) -> dict[str, Any]:
        """Say what was heard by what it is of; `heads` says the scores of those that an attention output reads.

        A channel that queries and keys are compared by matters by the product of its two scores: either alone says nothing.
        """
        return {
            "hidden": torch.stack([found[norm] for norm in self.norms]).sum(dim=0).cpu(),
            "pooled": found[self.head].cpu(),
            "heads": tuple(heads(layer.attended).cpu() for layer in self.layers),
            "ffn": tuple(found[layer.down].cpu() for layer in self.layers),
            "compared": tuple(self.by_head(found[layer.query] * found[layer.key]) for layer in self.layers),
            "values": tuple(self.by_head(found[layer.attended]) for layer in self.layers),
        }

    def by_head(self, scores: Tensor) -> Tensor:
        """Make rows of heads. (heads × size,) -> (heads, size)."""
        return scores.view(self.heads, -1).cpu()


@torch.inference_mode()
def _by_activations(model: PreTrainedModel, rows: Examples, size: int, *, squared: bool) -> dict[str, Any]:
    model.eval()
    ears = EncoderActivationCollector(model)
    device = next(model.parameters()).device
    norms: dict[nn.Module, Tensor] = {}
    mask = torch.empty(0)
    measure = importance.activation_squares if squared else importance.activation_norm

    def hear(module: nn.Module, activations: Tensor) -> None:
        # The classifier reads one pooled vector a row, not one a token.
        pooled = activations.ndim == 2
        found = measure(activations[:, None], mask[:, :1]) if pooled else measure(activations, mask)
        norms[module] = norms[module] + found if module in norms else found

    with ExitStack() as hooks:
        ears.listen(hooks, hear)
        for batch in rows.by_length(size):
            here = batch.to(device)
            mask = here.mask
            model(**here.inputs)
    return ears.sorted(norms, lambda attended: importance.grouped(norms[attended], ears.heads))


def _by_loss(model: PreTrainedModel, rows: Examples, size: int) -> dict[str, Any]:
    model.eval()
    ears, loss = EncoderActivationCollector(model), label_loss(rows.task, model)
    device = next(model.parameters()).device
    changes: dict[nn.Module, Tensor] = {}
    of_heads: dict[nn.Module, Tensor] = {}
    attention = {layer.attended for layer in ears.layers}
    mask = torch.empty(0)

    def hear(module: nn.Module, activations: Tensor) -> None:
        told, real = activations.detach(), mask

        def learn(gradient: Tensor) -> None:
            a, g, m = (told, gradient, real) if told.ndim == 3 else (told[:, None], gradient[:, None], real[:, :1])
            add(changes, importance.first_order(a, g, m))
            if module in attention:
                add(of_heads, importance.first_order(a, g, m, ears.heads))

        def add(to: dict[nn.Module, Tensor], found: Tensor) -> None:
            to[module] = to[module] + found if module in to else found

        activations.register_hook(learn)  # type: ignore[no-untyped-call]

    def go_through(batch: Batch) -> None:
        nonlocal mask
        mask = batch.mask
        # The loss is a mean over rows or words; of their sum each has the gradient that it would have alone.
        (loss(batch) * batch.weight).backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    with ExitStack() as hooks:
        ears.listen(hooks, hear)
        for batch in rows.by_length(size):
            go_through(batch.to(device))
    return ears.sorted(changes, of_heads.__getitem__)


@torch.no_grad()
def _by_weights(model: PreTrainedModel) -> dict[str, Any]:
    """Add up the weights that make and read each unit."""
    family = encoder_of(model)
    layers, ears, head = family.layers(model), EncoderActivationCollector(model), family.head(model)
    assert head.out is not None, "a classifier has a head"  # noqa: S101
    attention = [
        importance.weight_norm([layer.query.weight, layer.key.weight, layer.value.weight], [layer.attended.weight])
        for layer in layers
    ]
    made = [head.dense.weight] if head.dense is not None else []
    return {
        "hidden": importance.weight_norm(family.stream_makers(model), family.stream_readers(model)).cpu(),
        "pooled": importance.weight_norm(made, [head.out.weight]).cpu(),
        "heads": tuple(importance.grouped(scores, ears.heads).cpu() for scores in attention),
        "ffn": tuple(importance.weight_norm([layer.up.weight], [layer.down.weight]).cpu() for layer in layers),
        "compared": tuple(
            ears.by_head(importance.weight_norm([layer.query.weight], []) * importance.weight_norm([layer.key.weight], []))
            for layer in layers
        ),
        "values": tuple(
            ears.by_head(importance.weight_norm([layer.value.weight], [layer.attended.weight])) for layer in layers
        ),
    }


@torch.inference_mode()
def _influence(model: PreTrainedModel, rows: Examples, size: int) -> Tensor:
    model.eval()
    device = next(model.parameters()).device
    found = torch.zeros(model.config.num_hidden_layers)
    for batch in rows.by_length(size):
        here = batch.to(device)
        states = model(**here.inputs, output_hidden_states=True).hidden_states
        real = here.mask.bool()
        found += importance.block_influence(torch.stack([state[real] for state in states])).cpu()
    return found

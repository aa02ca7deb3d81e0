"""Scores of everything in a decoder that can be cut, from one pass over calibration rows: any ratio then chooses by them.

What is heard is what Minitron listens to (Muralidharan et al. 2024): the inputs of the attention's output and of the down
projection, the norms of the stream, and how much each layer turns it; besides, what the router sends to each expert and what
that adds. Groups, units, experts and ranks are chosen within their layer, channels of the stream and layers once for the model.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compression.modalities.base import Batch
from compression.models.adapters.registry import decoder_of
from compression.models.adapters.structure import ArchitectureAdapter, DecoderLayer, KeptExperts, PruningPlan
from compression.models.tensors import Tensors
from compression.pruning import importance
from compression.schema.report.measurements import Experts, Shape


@dataclass(frozen=True)
class LayerScores:
    """How much each unit of one layer matters. On the CPU, the larger the more; None for what the layer does not have.

    groups: (groups,); ffn: (units,), of the shared experts where there are experts; experts: (experts,); units: (experts,
    units of one); query_rank, kv_rank: (rank,).
    """

    groups: Tensor
    ffn: Tensor
    experts: Tensor | None = None
    units: Tensor | None = None
    query_rank: Tensor | None = None
    kv_rank: Tensor | None = None

    def routed(self, to: Experts) -> KeptExperts | None:
        """Choose experts, as many of each of the router's groups, and their units; None where there are none."""
        if self.experts is None or self.units is None:
            return None
        of_group = self.experts.view(to.groups, -1)
        stay = [importance.strongest(scores, to.count // to.groups) for scores in of_group]
        experts = torch.cat([chosen + number * of_group.shape[1] for number, chosen in enumerate(stay)])
        units = torch.stack([importance.strongest(self.units[number], to.ffn) for number in experts.tolist()])
        return KeptExperts(experts=experts, units=units, shared=importance.strongest(self.ffn, to.shared))

    def after(
        self, groups: Tensor, ffn: Tensor, routed: KeptExperts | None, query: Tensor | None, kv: Tensor | None
    ) -> "LayerScores":
        """Return the scores of what is left."""
        experts, units = self.experts, self.units
        if routed is not None and experts is not None and units is not None:
            experts, units = experts[routed.experts], units[routed.experts].gather(1, routed.units)
        return LayerScores(
            groups=self.groups[groups],
            ffn=self.ffn[ffn if routed is None else routed.shared],
            experts=experts,
            units=units,
            query_rank=_at(self.query_rank, query),
            kv_rank=_at(self.kv_rank, kv),
        )


@dataclass(frozen=True)
class DecoderScores:
    """hidden: (hidden,), summed over all norms of the stream; influence: (layers,), how much each layer turns it."""

    hidden: Tensor
    influence: Tensor
    layers: tuple[LayerScores, ...]

    def choose(self, family: ArchitectureAdapter, to: Shape) -> PruningPlan:
        """Keep what matters most, for a model of the shape `to`: layers first, then the parts of those that stay.

        As many of these are without experts as `to` says: the two kinds are of different sizes, and a target of parameters
        was solved for so many of each.
        """
        stay = self._layers(to)
        layers = [self.layers[number] for number in stay]
        has_experts = [layer.experts is not None for layer in layers]
        query, kv = (to.latent.query, to.latent.kv) if to.latent is not None else (None, None)
        return PruningPlan(
            hidden=importance.strongest(self.hidden, to.hidden),
            pooled=torch.arange(0),
            heads=tuple(
                importance.strongest(groups, to.groups or to.heads)
                for groups in family.head_scores([layer.groups for layer in layers])
            ),
            ffn=tuple(
                importance.strongest(layer.ffn, 0 if routed else to.ffn)
                for layer, routed in zip(layers, has_experts, strict=True)
            ),
            layers=tuple(stay) if to.layers < len(self.layers) else None,
            routed=tuple(layer.routed(to.experts) for layer in layers) if to.experts is not None else (),
            query_ranks=_strongest([layer.query_rank for layer in layers], query),
            kv_ranks=_strongest([layer.kv_rank for layer in layers], kv),
        )

    def _layers(self, to: Shape) -> list[int]:
        """Choose the layers that stay, of either kind those that turn the stream most."""
        dense = [number for number, layer in enumerate(self.layers) if layer.experts is None]
        if to.experts is None or not dense:
            return importance.strongest(self.influence, to.layers).tolist()
        routed = [number for number, layer in enumerate(self.layers) if layer.experts is not None]
        counts = ((dense, to.experts.dense_layers), (routed, to.layers - to.experts.dense_layers))
        return [kind[place] for kind, count in counts for place in importance.strongest(self.influence[kind], count).tolist()]

    def after(self, kept: PruningPlan) -> "DecoderScores":
        """Return the scores of what is left: the next cut goes on from them."""
        stay = list(kept.layers) if kept.layers is not None else list(range(len(self.layers)))
        nothing = (None,) * len(stay)
        parts = zip(
            kept.heads, kept.ffn, kept.routed or nothing, kept.query_ranks or nothing, kept.kv_ranks or nothing, strict=True
        )
        layers = tuple(self.layers[number].after(*part) for number, part in zip(stay, parts, strict=True))
        return DecoderScores(self.hidden[kept.hidden], self.influence[stay], layers)

    def tensors(self) -> Tensors:
        """Name each, for a save."""
        named = {"hidden": self.hidden, "influence": self.influence}
        for number, layer in enumerate(self.layers):
            named |= {f"{part}.{number}": scores for part, scores in vars(layer).items() if scores is not None}
        return named

    @classmethod
    def of_tensors(cls, found: Mapping[str, Tensor]) -> "DecoderScores":
        """Put together what `tensors` named."""
        names = [field.name for field in fields(LayerScores)]
        layers = tuple(
            LayerScores(**{name: found[f"{name}.{number}"] for name in names if f"{name}.{number}" in found})
            for number in range(len(found["influence"]))
        )
        return cls(found["hidden"], found["influence"], layers)


@torch.inference_mode()
def decoder_scores(model: PreTrainedModel, batches: Iterable[Batch], norm: Literal["l1", "l2"] = "l1") -> DecoderScores:
    """Score a decoder's units by the norm of what they say at the real tokens of `batches`; for l2, its square.

    Experts cost their layers another forward pass, since the stock model does not show what happens inside them.
    """
    training = model.training
    model.eval()
    ears = DecoderActivationCollector(model, norm)
    device = next(model.parameters()).device
    with ExitStack() as hooks:
        ears.listen(hooks)
        for batch in batches:
            here = batch.to(device)
            ears.mask = here.mask
            # Not through the head: logits over a vocabulary would be the largest tensor, and nobody listens to them.
            model.base_model(**{**here.inputs, "use_cache": False})
    model.train(training)
    return ears.told()


class DecoderActivationCollector:
    """Adds up what is heard, by the module that it is of. `mask` is that of the batch on its way, (rows, tokens)."""

    def __init__(self, model: PreTrainedModel, norm: Literal["l1", "l2"]) -> None:
        family = decoder_of(model)
        self.blocks, self.norms = family.blocks(model), family.stream_norms(model)
        self.groups = family.shape_of(model.config).groups or 1
        self.measure = importance.activation_norm if norm == "l1" else importance.activation_squares
        self.mask = torch.empty(0)
        self.heard: dict[nn.Module, Tensor] = {}
        self.units: dict[nn.Module, Tensor] = {}

    def listen(self, hooks: ExitStack) -> None:
        """Hear every module until `hooks` end."""
        for norm in [*self.norms, *(rank for block in self.blocks for rank in (block.query_rank, block.kv_rank) if rank)]:
            hooks.callback(norm.register_forward_hook(lambda module, _, said: self._activations(module, said)).remove)
        for block in self.blocks:
            for reader in (block.attended, block.down):
                hook = reader.register_forward_pre_hook(lambda module, given: self._activations(module, given[0]))
                hooks.callback(hook.remove)
            hooks.callback(block.whole.register_forward_hook(self._turn).remove)
            if block.experts is not None:
                hooks.callback(block.experts.register_forward_pre_hook(self._routed).remove)

    def forget(self, module: nn.Module) -> None:
        """Leave out what was heard of a module so far."""
        self.heard.pop(module, None)

    def told(self) -> DecoderScores:
        """Say what was heard by what it is of."""
        return DecoderScores(
            hidden=torch.stack([self.heard[norm] for norm in self.norms]).sum(dim=0).cpu(),
            influence=torch.stack([self.heard[block.whole] for block in self.blocks]).cpu(),
            layers=tuple(self._of_layer(block) for block in self.blocks),
        )

    def _of_layer(self, block: DecoderLayer) -> LayerScores:
        optional = {"experts": block.experts, "query_rank": block.query_rank, "kv_rank": block.kv_rank}
        found = {name: self.heard[module].cpu() for name, module in optional.items() if module is not None}
        if block.experts is not None:
            found["units"] = self.units[block.experts].cpu()
        groups = importance.grouped(self.heard[block.attended], self.groups).cpu()
        return LayerScores(groups=groups, ffn=self.heard[block.down].cpu(), **found)

    def _activations(self, module: nn.Module, said: Tensor) -> None:
        _add(self.heard, module, self.measure(said.float(), self.mask))

    def _turn(self, module: nn.Module, given: tuple[Tensor, ...], said: Tensor) -> None:
        real = self.mask.bool()
        _add(self.heard, module, importance.block_influence(torch.stack([given[0][real], said[real]]).float())[0])

    def _routed(self, module: Any, given: tuple[Tensor, ...]) -> None:
        inputs, chosen, weights = (each[self.mask.flatten().bool()] for each in given)

        def said_by(number: int, tokens: Tensor) -> Tensor:
            gates, ups = functional.linear(tokens, module.gate_up_proj[number]).chunk(2, dim=-1)
            said: Tensor = module.act_fn(gates) * ups
            return said

        experts, units = importance.expert_scores(inputs, chosen, weights, said_by, module.down_proj)
        _add(self.heard, module, experts)
        _add(self.units, module, units)


def _add(sums: dict[nn.Module, Tensor], module: nn.Module, found: Tensor) -> None:
    sums[module] = sums[module] + found if module in sums else found


def _at(scores: Tensor | None, kept: Tensor | None) -> Tensor | None:
    return scores[kept] if scores is not None and kept is not None else scores


def _strongest(scores: list[Tensor | None], count: int | None) -> tuple[Tensor, ...]:
    return tuple(importance.strongest(each, count) for each in scores if each is not None and count is not None)

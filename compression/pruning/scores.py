"""Importance scores of all units of all pruning groups, computed once on calibration rows, for any pruning ratio.

The adapter's `observed` lists where: at the norms of the residual stream, and at the inputs of attention output and down
projections, as in Minitron (Muralidharan et al. 2024). The collector also observes the tokens that a router sends to each
expert, what the expert adds, and the block influence of each layer.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from compression.modalities.base import Batch, Examples, label_loss
from compression.modalities.sampling import micro_batch_size, shuffled_rows
from compression.models.adapters.adapter import ArchitectureAdapter
from compression.models.adapters.registry import adapter_of, is_decoder
from compression.models.adapters.structure import DecoderLayer, PruningPlan, Tap
from compression.models.architectures.pruning_groups import WITHIN, PruningGroup, axis_and_layer, key_of, units_at
from compression.models.tensors import Tensors
from compression.pruning import importance
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape

CALIBRATION_BATCH = 32
INFLUENCE = "layers"  #: name of the layers' scores in a checkpoint


@dataclass(frozen=True)
class ImportanceScores:
    """Importance score of each unit, on the CPU; a larger score is more important."""

    units: Mapping[str, Tensor]  #: by group: (units,), or (units of the outer group, units) within another (`WITHIN`)
    influence: Tensor | None = None  #: (layers,), the block influence of each layer, if requested

    def choose(self, family: ArchitectureAdapter, to: Shape) -> PruningPlan:
        """Choose the most important layers, then the most important units in them, for a model of shape `to`."""
        if to.widths is not None:
            return self._of_network(to)
        layers, count = self._layers(to), self._count
        kept: dict[str, Tensor] = {}
        for axis in family.shared_axes:
            total = torch.stack([self.units[key_of(axis, number)] for number in layers]).sum(dim=0)
            kept[axis] = importance.strongest(total, units_at(to, axis))
        plan = PruningPlan(kept, tuple(layers) if len(layers) < count else None)
        for key, scores in sorted(self.units.items(), key=lambda item: item[1].ndim):
            axis, layer = axis_and_layer(key)
            if axis in family.shared_axes or not (layer is None or layer in layers):
                continue
            units = units_at(to, axis)
            if axis in WITHIN:
                of_each = _at(scores, plan.of(WITHIN[axis], layer))
                if units < scores.shape[1]:
                    kept[key] = torch.stack([importance.strongest(one, units) for one in of_each])
            else:
                parts = to.experts.groups if axis == "experts" and to.experts is not None else 1
                kept[key] = importance.strongest_of_each(scores, units, parts)
        return plan

    def _of_network(self, to: Shape) -> PruningPlan:
        """Choose the units of each group by its own width, and the residual blocks: numbered apart from the groups."""
        kept = {key: importance.strongest(scores, units_at(to, *axis_and_layer(key))) for key, scores in self.units.items()}
        if self.influence is None or to.layers == len(self.influence):
            return PruningPlan(kept)
        return PruningPlan(kept, tuple(importance.strongest(self.influence, to.layers).tolist()))

    @property
    def _count(self) -> int:
        return 1 + max(layer for _, layer in map(axis_and_layer, self.units) if layer is not None)

    def _layers(self, to: Shape) -> list[int]:
        """Choose the layers with the largest block influence, with as many dense ones (without experts) as in `to`."""
        if to.layers == self._count:
            return list(range(to.layers))
        if self.influence is None:
            raise ValueError("no layer can be chosen: their influence was not scored")
        routed = [number for number in range(self._count) if key_of("experts", number) in self.units]
        dense = [number for number in range(self._count) if number not in routed]
        wanted = to.experts.dense_layers if to.experts is not None and routed else to.layers
        counts = ((dense, wanted), (routed, to.layers - wanted))
        return [kind[place] for kind, count in counts for place in importance.strongest(self.influence[kind], count).tolist()]

    def after(self, plan: PruningPlan) -> "ImportanceScores":
        """Return the scores of the remaining units and layers, for the next step of pruning. A network of images that loses
        residual blocks has no next one.
        """
        layers = list(range(self._count) if plan.layers is None else plan.layers)
        left: dict[str, Tensor] = {}
        for key, scores in self.units.items():
            axis, layer = axis_and_layer(key)
            if layer is not None and layer not in layers:
                continue
            kept = plan.of(axis, layer)
            if axis in WITHIN:
                of_each = _at(scores, plan.of(WITHIN[axis], layer))
                remaining = of_each if kept is None else of_each.gather(1, kept)
            else:
                remaining = _at(scores, kept)
            left[key_of(axis, None if layer is None else layers.index(layer))] = remaining
        influence = self.influence if plan.layers is None or self.influence is None else self.influence[layers]
        return ImportanceScores(left, influence)

    def tensors(self) -> Tensors:
        """Return all scores as named tensors, for a checkpoint."""
        return {**self.units, **({} if self.influence is None else {INFLUENCE: self.influence})}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "ImportanceScores":
        """Rebuild from the output of `tensors`."""
        return cls({name: scores for name, scores in tensors.items() if name != INFLUENCE}, tensors.get(INFLUENCE))


def _at(scores: Tensor, kept: Tensor | None) -> Tensor:
    return scores if kept is None else scores[kept]


def score_units(
    model: PreTrainedModel, settings: Prune, train_rows: Examples, seed: int, parts: int = 1, *, layers: bool = False
) -> ImportanceScores:
    """Score units, and `layers`, by the recipe's importance, on train rows sampled with `seed`."""
    rows = shuffled_rows(train_rows, settings.calibration_rows, seed)
    size = micro_batch_size(CALIBRATION_BATCH, parts)
    if settings.importance in ("l1", "l2"):
        return score_activations(model, rows.by_length(size), settings.importance, layers=layers)
    if is_decoder(model):
        raise ValueError(f"units of decoders cannot be scored by {settings.importance}")
    units = _by_weights(model) if settings.importance == "l1_weight" else _by_loss(model, rows, size)
    influence = score_activations(model, rows.by_length(size), layers=True).influence if layers else None
    return ImportanceScores(units, influence)


@torch.inference_mode()
def score_activations(
    model: PreTrainedModel, batches: Iterable[Batch], norm: Literal["l1", "l2"] = "l1", *, layers: bool = True
) -> ImportanceScores:
    """Score units by the norm of their activations at real tokens (l2: its square); experts run a second time for it."""
    training = model.training
    model.eval()
    collector = ActivationCollector(model, norm, layers=layers)
    device = next(model.parameters()).device
    with ExitStack() as hooks:
        collector.attach(hooks)
        for batch in batches:
            here = batch.to(device)
            collector.mask = here.mask
            run(model, here)
    model.train(training)
    return collector.scores()


def run(model: PreTrainedModel, batch: Batch) -> None:
    """Run a batch through the part of a model that is observed."""
    if is_decoder(model):
        # Skip the head: the logits over the vocabulary would be the largest tensor, and no hook observes them.
        model.base_model(**{**batch.inputs, "use_cache": False})
    else:
        model(**batch.inputs)


Observer = Callable[[str, int, Tensor], None]
"""Receives a group's key, the index of the observation point within the group, and the activations there."""


def observe_tap(hooks: ExitStack, tap: Tap, see: Callable[[Tensor], None]) -> None:
    """Pass a module's first input, or its output, to `see` until `hooks` close."""
    module, side = tap
    if side == "in":
        hooks.enter_context(module.register_forward_pre_hook(lambda _, inputs: see(inputs[0])))
    else:
        hooks.enter_context(module.register_forward_hook(lambda _, __, output: see(output)))


class UnitObserver:
    """Observes the units of each group in a model and sums their scores."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.family = adapter_of(model)
        self.points = self.family.observed(model)
        shape = self.family.shape_of(model.config)
        axes = {key: axis_and_layer(key)[0] for key in self.points}
        self.counts = {key: units_at(shape, WITHIN.get(axis, axis)) for key, axis in axes.items()}
        self.mask = torch.empty(0)
        self.sums: dict[tuple[str, int], Tensor] = {}

    def observe(self, hooks: ExitStack, observer: Observer) -> None:
        """Pass activations, (rows, tokens, units) or pooled (rows, units), to `observer` until `hooks` close."""
        for key, points in self.points.items():
            for number, tap in enumerate(points):
                observe_tap(hooks, tap, partial(observer, key, number))

    def add(self, key: str, number: int, worth: Tensor) -> None:
        """Add a batch's scores of a group's units at one observation point."""
        known = self.sums.get((key, number))
        self.sums[key, number] = worth if known is None else known + worth

    def masked(self, activations: Tensor) -> tuple[Tensor, Tensor]:
        """Return activations as (rows, tokens, units) with their mask; a pooled vector is one token per row."""
        return (activations, self.mask) if activations.ndim == 3 else (activations[:, None], self.mask[:, :1])

    def units(self) -> dict[str, Tensor]:
        """Return each group's scores: (units,), or (units of the outer group, units) for a nested group."""
        scores = {}
        for key, points in self.points.items():
            seen = torch.stack([self.sums[key, number] for number in range(len(points))])
            if axis_and_layer(key)[0] in WITHIN:
                scores[key] = seen.prod(dim=0).view(self.counts[key], -1).cpu()
            else:
                scores[key] = importance.grouped(seen.sum(dim=0), self.counts[key]).cpu()
        return scores


class ActivationCollector(UnitObserver):
    """Sums the norms of activations. `mask`: attention mask of the current batch, (rows, tokens)."""

    def __init__(self, model: PreTrainedModel, norm: Literal["l1", "l2"], *, layers: bool = True) -> None:
        super().__init__(model)
        self.measure = partial(importance.activation_scores, norm=norm)
        self.layers, self.with_influence = self.family.layers(model), layers
        self.influence: dict[int, Tensor] = {}

    def attach(self, hooks: ExitStack) -> None:
        """Observe every observation point until `hooks` close."""
        self.observe(hooks, lambda key, number, seen: self.add(key, number, self.measure(*self.masked(seen.float()))))
        for number, layer in enumerate(self.layers):
            if self.with_influence:
                hooks.enter_context(layer.whole.register_forward_hook(partial(self._turn, number), with_kwargs=True))
            if isinstance(layer, DecoderLayer) and layer.experts is not None:
                hooks.enter_context(layer.experts.register_forward_pre_hook(partial(self._routed, number)))

    def forget(self, module: nn.Module) -> None:
        """Discard the scores of the residual stream collected at a module so far."""
        for number, (each, _) in enumerate(self.points["hidden"]):
            if each is module:
                self.sums.pop(("hidden", number), None)

    def scores(self) -> ImportanceScores:
        """Return the scores of all observed units and layers."""
        of_experts = {key: worth.cpu() for (key, _), worth in self.sums.items() if key not in self.points}
        influence = [self.influence[number] for number in range(len(self.layers))] if self.influence else []
        return ImportanceScores({**self.units(), **of_experts}, torch.stack(influence).cpu() if influence else None)

    def _turn(self, number: int, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        real = self.mask.bool()
        before, after = given[0] if given else named["hidden_states"], output[0] if isinstance(output, tuple) else output
        found = importance.block_influence(torch.stack([before[real], after[real]]).float())[0]
        self.influence[number] = self.influence[number] + found if number in self.influence else found

    def _routed(self, number: int, module: Any, given: tuple[Tensor, ...]) -> None:
        inputs, chosen, weights = (each[self.mask.flatten().bool()] for each in given)

        def activations_of(expert: int, tokens: Tensor) -> Tensor:
            gates, ups = functional.linear(tokens, module.gate_up_proj[expert]).chunk(2, dim=-1)
            activations: Tensor = module.act_fn(gates) * ups
            return activations

        experts, units = importance.expert_scores(inputs, chosen, weights, activations_of, module.down_proj)
        self.add(key_of("experts", number), 0, experts)
        self.add(key_of("expert_ffn", number), 0, units)


def _by_loss(model: PreTrainedModel, rows: Examples, size: int) -> dict[str, Tensor]:
    """Score units by the first-order change in loss without them; the units of a head share a gate."""
    model.eval()
    seen, loss = UnitObserver(model), label_loss(rows.task, model)
    device = next(model.parameters()).device

    def observe(key: str, number: int, activations: Tensor) -> None:
        values, real = seen.masked(activations.detach())
        together = seen.counts[key] if axis_and_layer(key)[0] == "heads" else None

        def learn(gradient: Tensor) -> None:
            seen.add(key, number, importance.first_order(values, gradient.view(values.shape), real, together))

        activations.register_hook(learn)  # type: ignore[no-untyped-call]

    with ExitStack() as hooks:
        seen.observe(hooks, observe)
        for batch in rows.by_length(size):
            here = batch.to(device)
            seen.mask = here.mask
            # The loss is a mean over rows or words. The gradient of the sum gives each row the gradient it has alone.
            (loss(here) * here.weight).backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)
    return seen.units()


@torch.no_grad()
def _by_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Score units by the L1 norm of the matrices that produce and read them, over each group's members."""
    family = adapter_of(model)
    groups = family.groups(model)
    own = dict(model.named_parameters())
    scores = {}
    for key in family.observed(model):
        group = groups[key]
        norms = [importance.weight_norm(own[name], dim) for name, dim in _members(model, group) if own[name].ndim > 1]
        # Queries and keys are compared by dot product, so their channels score by the product of norms, as in `observed`.
        worth = torch.stack(norms).prod(dim=0) if group.axis == "compared" else torch.stack(norms).sum(dim=0)
        scores[key] = (worth.view(-1, group.units) if group.axis in WITHIN else importance.grouped(worth, group.units)).cpu()
    return scores


def _members(model: PreTrainedModel, group: PruningGroup) -> list[tuple[str, int]]:
    """Return (tensor, dimension) of a group's members; those that produce its units come first."""

    def reads(name: str, dim: int) -> bool:
        return dim == 1 and not isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding)

    return sorted(((each.tensor, each.dim) for each in group.members), key=lambda member: reads(*member))

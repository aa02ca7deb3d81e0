"""Importance scores of all units of all pruning groups, computed once on calibration rows, for any pruning ratio.

The adapter's `observed` lists where: at the norms of the residual stream, and at the inputs of attention output and down
projections, as in Minitron (Muralidharan et al. 2024). The collector also observes the tokens that a router sends to each
expert, what the expert adds, and the block influence of each layer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
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
from compression.models.adapters.structure import DecoderLayer, PruningPlan, Tap, view_of
from compression.models.architectures.pruning_groups import WITHIN, axis_and_layer, key_of, units_at, units_left
from compression.models.tensors import Tensors
from compression.pruning import importance
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape

CALIBRATION_BATCH = 32
INFLUENCE, MILLISECONDS, KEPT = "layers", "milliseconds", "kept layers"  #: what is of layers in a checkpoint


@dataclass(frozen=True)
class ImportanceScores:
    """Importance score of each unit, on the CPU; a larger score is more important."""

    units: Mapping[str, Tensor]  #: by group: (units,), or (units of the outer group, units) within another (`WITHIN`)
    influence: Tensor | None = None  #: (layers,), the block influence of each layer, if requested
    milliseconds: Tensor | None = None  #: (layers,), what the model is faster without each layer; None: all count alike
    kept: Tensor | None = None  #: (n,), the layers that stay, if a search has chosen them; None: their scores do

    def choose(self, family: ArchitectureAdapter, to: Shape) -> PruningPlan:
        """Choose the most important layers, then the most important units in them, for a model of shape `to`."""
        if to.widths is not None:
            return self._of_network(to)
        layers, count = self._layers(to), self._count
        kept: dict[str, Tensor] = {}
        for axis in family.shared_axes:
            total = torch.stack([self.units[key_of(axis, number)] for number in layers]).sum(dim=0)
            kept[axis] = importance.strongest(total, units_at(to, axis))
        plan = PruningPlan(kept, tuple(layers) if len(layers) < count else None, to.eight_bits or ())
        for key, scores in sorted(self.units.items(), key=lambda item: item[1].ndim):
            axis, layer = axis_and_layer(key)
            if axis in family.shared_axes or not (layer is None or layer in layers):
                continue
            units = units_left(to, key, layers)
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
        if self.kept is not None:
            return PruningPlan(kept, tuple(self.kept.tolist()))
        if self.influence is None or to.layers == len(self.influence):
            return PruningPlan(kept)
        return PruningPlan(kept, tuple(importance.strongest(self._of_layers(), to.layers).tolist()))

    def _of_layers(self) -> Tensor:
        """Return the score of each layer. Raises ValueError if none was computed."""
        if self.influence is None:
            raise ValueError("no layer can be chosen: their influence was not scored")
        return self.influence if self.milliseconds is None else importance.influence_per_time(self.influence, self.milliseconds)

    @property
    def _count(self) -> int:
        return 1 + max(layer for _, layer in map(axis_and_layer, self.units) if layer is not None)

    def _layers(self, to: Shape) -> list[int]:
        """Choose the layers with the largest block influence, with as many dense ones (without experts) as in `to`."""
        if to.layers == self._count:
            return list(range(to.layers))
        if self.kept is not None:
            return [int(number) for number in self.kept.tolist()]
        scores = self._of_layers()
        routed = [number for number in range(self._count) if key_of("experts", number) in self.units]
        dense = [number for number in range(self._count) if number not in routed]
        wanted = to.experts.dense_layers if to.experts is not None and routed else to.layers
        counts = ((dense, wanted), (routed, to.layers - wanted))
        return [kind[place] for kind, count in counts for place in importance.strongest(scores[kind], count).tolist()]

    def ordered(self, orders: Mapping[str, Tensor], layers: Sequence[int] | None) -> "ImportanceScores":
        """Return scores by which the units of some groups go in an order, and all layers but the given ones.

        orders: by group, (units,), the first that goes comes first. A group that all layers share may be scored layer by layer.
        """
        ranks = {key: torch.argsort(order).float() for key, order in orders.items()}
        units = {key: ranks.get(key, ranks.get(axis_and_layer(key)[0], scores)) for key, scores in self.units.items()}
        return replace(self, units=units, kept=None if layers is None else torch.tensor(layers))

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
        of_layers = [one if plan.layers is None or one is None else one[layers] for one in (self.influence, self.milliseconds)]
        return ImportanceScores(left, *of_layers)

    def tensors(self) -> Tensors:
        """Return all scores as named tensors, for a checkpoint."""
        of_layers = {INFLUENCE: self.influence, MILLISECONDS: self.milliseconds, KEPT: self.kept}
        return {**self.units, **{name: found for name, found in of_layers.items() if found is not None}}

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> "ImportanceScores":
        """Rebuild from the output of `tensors`."""
        units = {name: scores for name, scores in tensors.items() if name not in (INFLUENCE, MILLISECONDS, KEPT)}
        return cls(units, tensors.get(INFLUENCE), tensors.get(MILLISECONDS), tensors.get(KEPT))


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
    units = _by_loss(model, rows, size) if settings.importance == "taylor" else _by_weights(model, settings)
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
    """Pass a module's first input, or its output, to `see` until `hooks` close. What is observed is not arranged yet."""

    def given(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        see(inputs[0] if inputs else named["hidden_states"])

    def made(_: nn.Module, __: Any, output: Any) -> None:
        see(output if isinstance(output, Tensor) else output[0])

    if tap[1] == "in":
        hooks.enter_context(tap[0].register_forward_pre_hook(given, with_kwargs=True))
    else:
        hooks.enter_context(tap[0].register_forward_hook(made))


class UnitObserver:
    """Observes the units of each group in a model and sums their scores."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.family = adapter_of(model)
        self.points = self.family.observed(model)
        shape = self.family.shape_of(model.config)
        axes = {key: axis_and_layer(key) for key in self.points}
        self.counts = {key: units_at(shape, WITHIN.get(axis, axis), layer) for key, (axis, layer) in axes.items()}
        self.mask = torch.empty(0)
        self.sums: dict[tuple[str, int], Tensor] = {}

    def observe(self, hooks: ExitStack, observer: Observer) -> None:
        """Pass activations, as the model computes them, to `observer` until `hooks` close."""
        for key, points in self.points.items():
            for number, tap in enumerate(points):
                observe_tap(hooks, tap, partial(observer, key, number))

    def add(self, key: str, number: int, worth: Tensor) -> None:
        """Add a batch's scores of a group's units at one observation point."""
        known = self.sums.get((key, number))
        self.sums[key, number] = worth if known is None else known + worth

    def masked(self, tap: Tap, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is seen at a tap as (rows, positions, units), and the mask of real positions, (rows, positions).

        All are real of positions that are no tokens, or of the one of a pooled vector.
        """
        positions = view_of(tap)(seen)
        is_tokens = positions.shape[1] == self.mask.shape[1]
        return positions, self.mask if is_tokens else self.mask[:, :1].expand(-1, positions.shape[1])

    def units(self) -> dict[str, Tensor]:
        """Return each group's scores: (units,), or (units of the outer group, units) for a nested group. Those that were added
        of experts are whole.
        """
        scores = {key: worth.cpu() for (key, _), worth in self.sums.items() if key not in self.points}
        for key, points in self.points.items():
            seen, units = [self.sums[key, number] for number in range(len(points))], self.counts[key]
            if axis_and_layer(key)[0] in WITHIN:
                scores[key] = torch.stack(seen).prod(dim=0).view(units, -1).cpu()
            else:
                scores[key] = torch.stack([importance.grouped(each, units) for each in seen]).sum(dim=0).cpu()
        return scores


class ActivationCollector(UnitObserver):
    """Sums the norms of activations. `mask`: attention mask of the current batch, (rows, tokens)."""

    def __init__(self, model: PreTrainedModel, norm: Literal["l1", "l2"], *, layers: bool = True) -> None:
        super().__init__(model)
        self.measure = partial(importance.activation_scores, norm=norm)
        self.model, self.streams = model, self.family.streams(model) if layers else ()
        self.inputs: dict[int, Tensor] = {}  # of layers that have not run yet
        self.influence: dict[int, Tensor] = {}  # sums over positions
        self.positions: dict[int, int] = {}

    def attach(self, hooks: ExitStack) -> None:
        """Observe every observation point until `hooks` close."""
        self.observe(hooks, self._measured)
        for number, (before, after) in enumerate(self.streams):
            observe_tap(hooks, before, partial(self._before, number, before))
            observe_tap(hooks, after, partial(self._turn, number, after))
        for number, module in experts_of(self.model).items():
            hooks.enter_context(module.register_forward_pre_hook(partial(self._routed, number)))

    def forget(self, module: nn.Module) -> None:
        """Discard the scores of the residual stream collected at a module so far."""
        for number, (each, *_) in enumerate(self.points["hidden"]):
            if each is module:
                self.sums.pop(("hidden", number), None)

    def scores(self) -> ImportanceScores:
        """Return the scores of all observed units and layers."""
        # Means, not sums: layers of one model may have different numbers of positions.
        influence = [found / self.positions[number] for number, found in sorted(self.influence.items())]
        return ImportanceScores(self.units(), torch.stack(influence).cpu() if influence else None)

    def _measured(self, key: str, number: int, seen: Tensor) -> None:
        self.add(key, number, self.measure(*self.masked(self.points[key][number], seen.float())))

    def _before(self, number: int, tap: Tap, seen: Tensor) -> None:
        self.inputs[number] = self._real(tap, seen)

    def _turn(self, number: int, tap: Tap, seen: Tensor) -> None:
        states = torch.stack([self.inputs.pop(number), self._real(tap, seen)])
        found = importance.block_influence(states.float())[0]
        self.influence[number] = self.influence[number] + found if number in self.influence else found
        self.positions[number] = self.positions.get(number, 0) + states.shape[1]

    def _real(self, tap: Tap, seen: Tensor) -> Tensor:
        positions, mask = self.masked(tap, seen)
        return positions[mask.bool()]

    def _routed(self, number: int, module: Any, given: tuple[Tensor, ...]) -> None:
        inputs, chosen, weights = (each[self.mask.flatten().bool()] for each in given)
        found = importance.expert_scores(inputs, chosen, weights, activations_in(module), module.down_proj)
        add_experts(self, number, *found)


def experts_of(model: PreTrainedModel) -> dict[int, Any]:
    """Return the fused experts of each layer that has some, by the layer's number."""
    layers = enumerate(adapter_of(model).layers(model))
    return {number: one.experts for number, one in layers if isinstance(one, DecoderLayer) and one.experts is not None}


def experts_in(model: PreTrainedModel) -> int:
    """Return how many routed experts a layer has."""
    return units_at(adapter_of(model).shape_of(model.config), "experts")


def activations_in(module: Any) -> Callable[[int, Tensor], Tensor]:
    """Return a function that computes an expert's units for its tokens: (number, (tokens, hidden)) -> (tokens, units)."""

    def activations_of(expert: int, tokens: Tensor) -> Tensor:
        gates, ups = functional.linear(tokens, module.gate_up_proj[expert]).chunk(2, dim=-1)
        activations: Tensor = module.act_fn(gates) * ups
        return activations

    return activations_of


def add_experts(seen: UnitObserver, number: int, experts: Tensor, units: Tensor) -> None:
    """Add a batch's scores of a layer's experts, (experts,), and of their units, (experts, units)."""
    seen.add(key_of("experts", number), 0, experts)
    seen.add(key_of("expert_ffn", number), 0, units)


def _by_loss(model: PreTrainedModel, rows: Examples, size: int) -> dict[str, Tensor]:
    """Score units by the first-order change in loss without them; all that is of a unit shares a gate."""
    model.eval()
    seen, loss = UnitObserver(model), label_loss(rows.task, model)
    device = next(model.parameters()).device

    def observe(key: str, number: int, activations: Tensor) -> None:
        tap = seen.points[key][number]
        values, real = seen.masked(tap, activations.detach())
        together = None if axis_and_layer(key)[0] in WITHIN else seen.counts[key]

        def learn(gradient: Tensor) -> None:
            seen.add(key, number, importance.first_order(values, seen.masked(tap, gradient)[0], real, together))

        activations.register_hook(learn)  # type: ignore[no-untyped-call]

    def observe_experts(number: int, module: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
        # No module shows what is in fused experts: it is computed again from what they were given.
        real = seen.mask.flatten().bool()
        rows = torch.arange(len(seen.mask), device=real.device).repeat_interleave(seen.mask.shape[1])[real]
        inputs, chosen, weights = (each.detach()[real] for each in given)

        def learn(gradient: Tensor) -> None:
            asked = (inputs, chosen, weights, gradient.flatten(0, -2)[real], rows)
            with torch.no_grad():
                add_experts(seen, number, *importance.expert_first_order(*asked, activations_in(module), module.down_proj))

        out.register_hook(learn)  # type: ignore[no-untyped-call]

    with ExitStack() as hooks:
        seen.observe(hooks, observe)
        for number, module in experts_of(model).items():
            hooks.enter_context(module.register_forward_hook(partial(observe_experts, number)))
        for batch in rows.by_length(size):
            here = batch.to(device)
            seen.mask = here.mask
            # The loss is a mean over rows or words. The gradient of the sum gives each row the gradient it has alone.
            (loss(here) * here.weight).backward()  # type: ignore[no-untyped-call]
            model.zero_grad(set_to_none=True)
    return seen.units()


@torch.no_grad()
def _by_weights(model: PreTrainedModel, settings: Prune) -> dict[str, Tensor]:
    """Score units by the norm of their weights (l1_weight, l2_weight), or by the factors of the normalizations with running
    statistics (bn_scale). Raises ValueError if units of the recipe's axes have no such factors; others then count alike.
    """
    family, kind = adapter_of(model), settings.importance
    norm: Literal["l1", "l2"] = "l2" if kind == "l2_weight" else "l1"
    counts, scores = UnitObserver(model).counts, {}
    for number in experts_of(model):
        counts |= dict.fromkeys((key_of("experts", number), key_of("expert_ffn", number)), experts_in(model))
    for key, units in counts.items():
        axis = axis_and_layer(key)[0]
        if kind == "bn_scale":
            norms = [scales.abs() for scales in family.scales(model, key)]
        else:
            norms = [importance.weight_norm(weight, dim, norm) for weight, dim in family.weights(model, key)]
        if not norms:
            if axis in settings.axes:
                raise ValueError(f"nothing of {key} can be scored by {kind}")
            norms = [torch.ones(units)]
        if axis not in WITHIN:
            norms = [importance.grouped(each, units) for each in norms]
        # Queries and keys are compared by dot product, so their channels score by the product of norms, as in `observed`.
        worth = torch.stack(norms).prod(dim=0) if axis == "compared" else torch.stack(norms).sum(dim=0)
        scores[key] = (worth.view(units, -1) if axis in WITHIN else worth).cpu()
    return scores

"""Takes the widths of a cut from the recipe's search, under its targets, by the error tables of the current model."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages.apply_cut import updated_cut
from compression.engine.stages.cut_facts import taken, with_errors
from compression.engine.stages.error_weights import error_weights
from compression.engine.stages.latency_target import measured_latency
from compression.engine.stages.signs_of_life import beat_of, solver_of
from compression.engine.tables_checkpoint import tables_saved, write_search
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS, ArchitectureSpec
from compression.models.architectures.pruning_groups import axis_and_layer, units_left, width_of
from compression.models.architectures.shapes import Count, Ratios, planned
from compression.models.tensors import Tensors
from compression.planning.search import costs
from compression.planning.search.comparison import ComparedSearch
from compression.planning.search.nested import nested_sizes
from compression.planning.search.problem import OutOfTime
from compression.planning.search.solver import SECONDS
from compression.planning.search.space import Cost, SearchSpace
from compression.planning.search.spaces import space_of
from compression.planning.search.within import Found, solve_within
from compression.pruning.scores import ImportanceScores
from compression.quantization.fake_quantize import simulation_of
from compression.schema.error_tables import ErrorTables
from compression.schema.errors import MissingResource, TargetOutOfReach, UnsupportedShape
from compression.schema.events import Event, Log
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.report.measurements import Shape
from compression.schema.report.points import PointCut
from compression.schema.report.written import plain
from compression.schema.schemes import Scheme
from compression.schema.solved_search import ParameterFacts, SolvedSearch
from compression.schema.stages import DISTILLED, POINTS, Stage

CORRECTIONS = 4
"""Shapes that are timed for a target latency, each solved with what the one before taught of the prediction."""


@dataclass(frozen=True)
class SolvedWidths:
    """What the solver has chosen, as the cut needs it."""

    shape: Shape
    scores: ImportanceScores  #: by which the units go in the tables' order
    ratios: Ratios  #: what each axis loses
    errors: Mapping[str, float] = field(default_factory=dict)  #: predicted, by group
    points: tuple[PointCut, ...] = ()  #: if the recipe asks for several: all, the largest first, which is this one


def solved_widths(
    context: StageContext,
    settings: Prune,
    scores: ImportanceScores,
    found: tuple[ErrorTables, Tensors],
    before: Shape,
    facts: ParameterFacts,
) -> Generator[Event, None, SolvedWidths]:
    """Return the widths that err least within all targets. What other targets are answered from is stored beside the tables.

    found: the tables, and by group the order in which its units go. before: the shape with all tokens. facts: what parameters
    are counted from. Raises TargetOutOfReach with what comes nearest, UnsupportedShape and Pause; if a latency is asked for,
    MissingResource without a device table and RuntimeError if this machine cannot measure.
    """
    tables, orders = found
    model, family = context.model, adapter_of(context.model)
    kind, network = ARCHITECTURE_SPECS[model.config.model_type], family.network(model.config)
    whole = family.shape_of(model.config)

    sizes_by = costs.sizes_of(facts, kind, network, context.recipe.quantize, context.length)
    limits = _limits(settings, kind, before, whole, sizes_by)
    latency = None
    if settings.target_latency is not None:
        latency = yield from latency_limit(context, settings.target_latency, whole, _scheme(model))

    def scores_of(chosen: Found) -> ImportanceScores:
        return scores.ordered(orders, chosen.layers if "layers" in settings.axes else None)

    def cut(chosen: Found) -> PreTrainedModel:
        return updated_cut(context, model, scores_of(chosen).choose(family, chosen.shape))

    space_with = partial(space_of, tables, kind, whole, settings, network)
    every = limits if latency is None else [*limits, latency.cost]
    try:
        weights, outcomes = yield from error_weights(context, tables, space_with, every, cut)
        space = space_with(weights)
        search = _search(context, settings, space)
        if latency is None:
            chosen = yield from _solved(context, search, space, limits, limits)
        else:
            chosen = yield from _timed(context, search, space, limits, latency, scores_of)
        sizes = (yield from _sizes(context, settings, space, tables, chosen, every)) if settings.points > 1 else (chosen,)
    except OutOfTime:
        raise _too_long() from None
    facts_of = {"before": before, "whole": whole, "prune": settings, "network": network, "parameters": facts}
    yield from store_search(context, tables, chosen, weights=dict(weights), outcomes=outcomes, **facts_of)
    points = tuple(
        point_cut(stage, each, tables, settings, (before, whole), sizes_by.parameters)
        for stage, each in zip((DISTILLED, *POINTS), sizes, strict=False)
        if settings.points > 1
    )
    widths, errors = axes_and_errors(sizes[0], tables, settings, whole)
    return SolvedWidths(sizes[0].shape, scores_of(sizes[0]), widths, errors, points)


def point_cut(
    stage: Stage, found: Found, tables: ErrorTables, settings: Prune, uncut: tuple[Shape, Shape], count: Count
) -> PointCut:
    """Return one of several sizes, for the stage that distills it and for the report. uncut: the shapes with all tokens, and
    before the cut of widths; count: of parameters.
    """
    before, whole = uncut
    ratios, errors = axes_and_errors(found, tables, settings, whole)
    parameters = count(found.shape)
    return PointCut(
        stage=stage,
        parameters=parameters,
        share=parameters / count(before),
        shape=found.shape,
        layers=found.layers,
        error=found.error,
        pruning=with_errors(taken(before, found.shape, settings, ratios), whole, found.shape, errors, found.layers),
    )


def _sizes(
    context: StageContext, settings: Prune, space: SearchSpace, tables: ErrorTables, smallest: Found, costs: Sequence[Cost]
) -> Generator[Event, None, tuple[Found, ...]]:
    """Return the sizes that the recipe asks for, the largest first. Raises UnsupportedShape, OutOfTime and Pause."""
    found = nested_sizes(space, tables, smallest, costs, settings.points, solver_of(context, space))
    names = {cost.name: f"{'predicted ' if cost.predicted else ''}{cost.name}" for cost in costs}
    told = "; ".join(
        f"{each.shape.short}, {', '.join(f'{plain(each.costs[key], 4)} {name}' for key, name in names.items())}, "
        f"predicted error {each.error:.4g}"
        for each in found
    )
    told = f"{len(found)} sizes, each of which contains the next: {told}. The first is cut here, each other one from its model."
    context.notes.append(told)
    yield Log(message=told[:4000])
    return found


def axes_and_errors(chosen: Found, tables: ErrorTables, settings: Prune, whole: Shape) -> tuple[Ratios, dict[str, float]]:
    """Return what each axis loses by a solution, and the predicted error of each group. whole: before the cut of widths."""
    gone = {key for number, layer in enumerate(tables.layers) if number not in chosen.layers for key in layer.groups}
    errors = {
        group.key: group.at(units_left(chosen.shape, group.key, chosen.layers))
        for group in tables.groups
        if axis_and_layer(group.key)[0] in settings.axes and group.key not in gone
    }
    ratios = {axis: 1 - _left(chosen.shape, whole, axis) for axis in settings.ratios}
    return ratios, errors


def store_search(context: StageContext, tables: ErrorTables, chosen: Found, **known: Any) -> Iterator[Event]:
    """Store beside the tables what other targets are answered from. known: fields of `SolvedSearch`."""
    place, model = context.checkpointer, context.model
    own: dict[str, Any] = {"family": model.config.model_type, "scheme": _scheme(model), "quantize": context.recipe.quantize}
    write_search(place.folder, place.part, SolvedSearch(digest=tables.digest, error=chosen.error, **own, **known))
    yield tables_saved(place.folder, place.part, tables)


def _limits(settings: Prune, kind: ArchitectureSpec, before: Shape, whole: Shape, sizes: costs.Sizes) -> list[Cost]:
    """Return the limits of the recipe's targets but a latency; without a target, as many parameters as the ratio leaves."""
    limits, count = sizes.limits(settings, before), sizes.parameters
    if not settings.has_target:
        alike = planned(kind, before, settings, vocabulary=whole.vocabulary, network=sizes.network)[1]
        limits.append(replace(costs.parameters(count(alike), count), key="ratio"))
    return limits


def _left(shape: Shape, whole: Shape, axis: str) -> float:
    had = width_of(whole, axis)
    return width_of(shape, axis) / had if had else 1.0


def _too_long() -> UnsupportedShape:
    cause = f"the solver found no widths within the targets in {SECONDS:.0f} seconds, and did not prove that there are none"
    remedy = "Leave layers out of prune.axes, name fewer targets, or set prune.search to null, without prune.mixed_bits."
    return UnsupportedShape(cause, param="recipe.prune.search", remedy=remedy)


def _search(context: StageContext, settings: Prune, space: SearchSpace) -> ComparedSearch:
    """Return the recipe's search in a space, which a pause ends, with signs of life."""
    assert settings.search is not None, "only a recipe that searches asks"  # noqa: S101
    seed, solve = context.recipe.train.seed, solver_of(context, space)
    return ComparedSearch(settings.search, settings.search_budget, seed, beat=beat_of(context), solve=solve)


def _solved(
    context: StageContext, search: ComparedSearch, space: SearchSpace, limits: Sequence[Cost], asked: Sequence[Cost]
) -> Generator[Event, None, Found]:
    """Solve once, and note what came of it and, of another search, how the solver did beside it. asked: the limits as the
    recipe has them. Raises TargetOutOfReach, OutOfTime, MissingResource and Pause.
    """
    found = solve_within(space, limits, search)
    told = ", ".join(f"{plain(found.costs[cost.name], 4)} {cost.name} of at most {plain(cost.most, 4)}" for cost in asked)
    taken, comparison = search.of(found.picks)
    of = f"prune.search {search.name}" if taken == search.name else f"The solver, not prune.search {search.name},"
    chose = f"{of} chose {found.shape.short}: {told}; predicted error {found.error:.4g}"
    unproven = ", not proven to be the least" + (f": another may err up to {found.gap:.1%} less" if found.gap else "")
    context.notes.append(f"{chose}{'' if found.proven else unproven}.")
    context.result.search = comparison
    if comparison is not None:
        context.notes.append(comparison.told)
        yield Log(message=comparison.told)
    return found


@dataclass(frozen=True)
class LatencyLimit:
    """A target latency as the device table predicts it."""

    target: TargetLatency
    cost: Cost

    def share(self, milliseconds: float, speed_up: float) -> float:
        """Return a measured latency as a share of the target."""
        if self.target.milliseconds is not None:
            return milliseconds / self.target.milliseconds
        return (self.target.speed_up or 1.0) / speed_up


def latency_limit(
    context: StageContext, target: TargetLatency, whole: Shape, scheme: Scheme | None
) -> Generator[Event, None, LatencyLimit]:
    """Return the limit of a target latency. whole: the shape before the cut; scheme: that the cut model will be in.

    Raises MissingResource if nothing predicts it.
    """
    times = yield from context.device_times()
    most = target.milliseconds
    if times is not None and most is None:
        alone = times.milliseconds(whole, None)
        most = alone and alone / (target.speed_up or 1.0)
    if times is None or most is None or times.milliseconds(whole, scheme) is None:
        cause = "target_latency with prune.search needs a device table that has times of this model and scheme"
        remedy = "Leave prune.search out: shapes are then timed one by one (docs/device-table.md)."
        raise MissingResource(cause, param="recipe.prune.search", remedy=remedy)
    cost = costs.milliseconds(most, times, scheme)
    assert cost is not None  # noqa: S101 (the whole model is predicted)
    return LatencyLimit(target, cost)


def _scheme(model: PreTrainedModel) -> Scheme | None:
    """Return the scheme in which a model simulates integers; None in floating point."""
    simulation = simulation_of(model)
    return simulation.scheme if simulation is not None else None


def _timed(
    context: StageContext,
    search: ComparedSearch,
    space: SearchSpace,
    limits: Sequence[Cost],
    latency: LatencyLimit,
    scores_of: Callable[[Found], ImportanceScores],
) -> Generator[Event, None, Found]:
    """Solve by predicted milliseconds and time what was found; if it is too slow, solve again with a corrected limit. Return
    the first solution that is fast enough, or the fastest, noted. Raises as `_solved`, and RuntimeError if none can be timed.
    """
    cost, timed = latency.cost, list[str]()
    best: tuple[float, Found] | None = None
    for _ in range(CORRECTIONS):
        context.check_pause()
        try:
            found = yield from _solved(context, search, space, [*limits, cost], [*limits, latency.cost])
        except (TargetOutOfReach, OutOfTime):
            if best is None:
                raise
            break  # only the corrected limit is out of reach
        ms, speed_up = measured_latency(context, found.shape, scores_of(found))
        timed.append(f"predicted {found.costs[cost.name]:.2f} ms, measured {ms:.2f} ms, {speed_up:.2f} times")
        yield Log(message=f"Timed for target_latency: {timed[-1]}.")
        yield from context.tracker.emit_boundary("cut", done=False)
        share = latency.share(ms, speed_up)
        if best is None or share < best[0]:
            best = share, found
        if share <= 1:
            break
        cost = replace(cost, most=min(cost.most, found.costs[cost.name]) / share)
    assert best is not None  # noqa: S101 (the first round ends with one, or raises)
    missed = " None was fast enough: the fastest was taken." if best[0] > 1 else ""
    context.notes.append(f"Timed with drawn weights: {'; '.join(timed)}.{missed}")
    context.result.search = search.of(best[1].picks)[1]
    return best[1]

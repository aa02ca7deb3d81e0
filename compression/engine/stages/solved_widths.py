"""Takes the widths of a cut from the solver, under the recipe's targets, by the error tables of the current model."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

from compression.engine.context import StageContext
from compression.engine.stages.latency_target import measured_latency
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.pruning_groups import axis_and_layer, units_at, width_of
from compression.models.architectures.shapes import Count, Ratios, allowed, planned
from compression.models.tensors import Tensors
from compression.planning.device_times import ShapeTimes
from compression.planning.search import costs
from compression.planning.search.space import Cost, SearchSpace
from compression.planning.search.spaces import space_of
from compression.planning.search.within import Found, solve_within
from compression.pruning.scores import ImportanceScores
from compression.quantization.fake_quantize import simulation_of
from compression.schema.error_tables import ErrorTables
from compression.schema.errors import MissingResource, TargetOutOfReach
from compression.schema.events import Event, Log
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.report.measurements import Shape

CORRECTIONS = 4
"""Shapes that are timed for a target latency, each solved with what the one before taught of the prediction."""


@dataclass(frozen=True)
class SolvedWidths:
    """What the solver has chosen, as the cut needs it."""

    shape: Shape
    scores: ImportanceScores  #: by which the units go in the tables' order
    ratios: Ratios  #: what each axis loses
    errors: Mapping[str, float] = field(default_factory=dict)  #: predicted, by group


def solved_widths(
    context: StageContext,
    settings: Prune,
    scores: ImportanceScores,
    found: tuple[ErrorTables, Tensors],
    before: Shape,
    count: Count,
) -> Generator[Event, None, SolvedWidths]:
    """Return the widths that err least within all targets; if these are out of reach, what comes nearest, noted.

    found: the tables, and by group the order in which its units go. before: the shape with all tokens. count: the parameters of
    a shape. Raises UnsupportedShape and Pause; if a latency is asked for, MissingResource without a device table and
    RuntimeError if this machine cannot measure.
    """
    tables, orders = found
    model, family = context.model, adapter_of(context.model)
    kind, network = ARCHITECTURE_SPECS[model.config.model_type], family.network(model.config)
    whole = family.shape_of(model.config)
    space = space_of(tables, kind, whole, settings, network)
    limits = []
    if settings.target_params is not None:
        limits.append(costs.parameters(allowed(settings.target_params, count(before)), count))
    if settings.target_flops is not None and network is not None:
        most = allowed(settings.target_flops, network.multiply_adds())
        limits.append(costs.multiply_adds(most, network))
    if not settings.has_target:
        alike = planned(kind, before, settings, count=count, vocabulary=whole.vocabulary, network=network)[1]
        limits.append(costs.parameters(count(alike), count))
    if settings.target_latency is None:
        chosen = yield from _solved(context, space, limits)
    else:
        search = _LatencySolver(context, space, limits, settings.target_latency, whole)
        chosen = yield from search.run(scores, orders)
    layers = chosen.layers if "layers" in settings.axes else None
    ratios = {axis: 1 - _left(chosen.shape, whole, axis) for axis in settings.ratios}
    errors = {
        group.key: group.at(units_at(chosen.shape, *axis_and_layer(group.key)))
        for group in tables.groups
        if axis_and_layer(group.key)[0] in settings.axes
    }
    gone = {key for at, layer in enumerate(tables.layers) if at not in chosen.layers for key in layer.groups}
    errors = {key: error for key, error in errors.items() if key not in gone}
    return SolvedWidths(chosen.shape, scores.ordered(orders, layers), ratios, errors)


def _left(shape: Shape, whole: Shape, axis: str) -> float:
    had = width_of(whole, axis)
    return width_of(shape, axis) / had if had else 1.0


def _solved(context: StageContext, space: SearchSpace, limits: Sequence[Cost]) -> Generator[Event, None, Found]:
    """Solve once, and note what came of it."""
    try:
        found, missed = solve_within(space, limits), ""
    except TargetOutOfReach as problem:
        if not isinstance(problem.nearest, Found):
            raise
        found, missed = problem.nearest, f"Out of reach: {problem.cause}. It was taken. "
        yield Log(level="warning", message=missed.strip())
    told = ", ".join(f"{found.costs[cost.name]:,.6g} {cost.name} of at most {cost.most:,.6g}" for cost in limits)
    context.notes.append(f"{missed}The solver chose {found.shape.short}: {told}; predicted error {found.error:.4g}.")
    return found


class _LatencySolver:
    """Solves with predicted milliseconds, times what was found, and solves again with a corrected limit if it is too slow."""

    def __init__(
        self, context: StageContext, space: SearchSpace, limits: Sequence[Cost], target: TargetLatency, whole: Shape
    ) -> None:
        self.context, self.space, self.limits, self.target, self.whole = context, space, limits, target, whole
        simulation = simulation_of(context.model)
        self.scheme = simulation.scheme if simulation is not None else None

    def run(self, scores: ImportanceScores, orders: Tensors) -> Generator[Event, None, Found]:
        """Return the first solution that is measured as fast enough, or the last one, noted. Raises as `solved_widths`."""
        times = yield from self.context.device_times()
        most = self._predicted_limit(times)
        if times is None or most is None:
            cause = "target_latency with prune.search: solver needs a device table that has times of this model and scheme"
            remedy = "Leave prune.search out: shapes are then timed one by one (docs/device-table.md)."
            raise MissingResource(cause, param="recipe.prune.search", remedy=remedy)
        timed = []
        for _ in range(CORRECTIONS):
            self.context.check_pause()
            cost = costs.milliseconds(most, times, self.scheme)
            assert cost is not None  # noqa: S101 (a limit was predicted)
            found = yield from _solved(self.context, self.space, [*self.limits, cost])
            own = scores.ordered(orders, found.layers if len(found.layers) < self.whole.layers else None)
            ms, speed_up = measured_latency(self.context, found.shape, own)
            timed.append(f"predicted {found.costs[cost.name]:.2f} ms, measured {ms:.2f} ms, {speed_up:.2f} times")
            yield Log(message=f"Timed for target_latency: {timed[-1]}.")
            yield from self.context.tracker.emit_boundary("cut", done=False)
            share = self._share(ms, speed_up)
            if share <= 1:
                break
            most = min(most, found.costs[cost.name]) / share
        self.context.notes.append(f"Timed with drawn weights: {'; '.join(timed)}.")
        if share > 1:
            self.context.notes.append("target_latency was not met by what was timed; the last shape was taken.")
        return found

    def _predicted_limit(self, times: ShapeTimes | None) -> float | None:
        """Return the most milliseconds by the table; None if it cannot predict."""
        if times is None or times.milliseconds(self.whole, self.scheme) is None:
            return None
        if self.target.milliseconds is not None:
            return self.target.milliseconds
        whole = times.milliseconds(self.whole, None)
        return None if whole is None else whole / (self.target.speed_up or 1.0)

    def _share(self, milliseconds: float, speed_up: float) -> float:
        """Return the measured latency as a share of the target."""
        if self.target.milliseconds is not None:
            return milliseconds / self.target.milliseconds
        return (self.target.speed_up or 1.0) / speed_up

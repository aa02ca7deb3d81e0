"""Solves for widths by a share of the whole model's parameters, or predicted milliseconds, for the search for a size."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedModel

from compression.engine.context import StageContext
from compression.engine.stages import signs_of_life
from compression.engine.stages.apply_cut import updated_cut
from compression.engine.tables_checkpoint import read_tables, stored_search
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.models.architectures.shapes import Count
from compression.models.tensors import Tensors
from compression.planning.search import costs
from compression.planning.search.problem import OutOfTime, Solve
from compression.planning.search.space import Cost, SearchSpace
from compression.planning.search.spaces import space_of
from compression.planning.search.within import Found, solve_within
from compression.pruning.scores import ImportanceScores
from compression.quantization.fake_quantize import simulation_of
from compression.schema.error_tables import ErrorTables
from compression.schema.errors import MissingResource, TargetOutOfReach, UnsupportedShape
from compression.schema.events import Event
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.network import NetworkFacts
from compression.schema.report.size_search import SizeTried
from compression.schema.schemes import Scheme
from compression.schema.solved_search import SolvedSearch

MILDEST = 0.95
"""Share of the uncut model's cost that the mildest cut may have, at most."""


@dataclass(frozen=True)
class SizeCost:
    """What is made small, and what the whole model has of it."""

    cost: Cost
    whole: float

    def limit(self, share: float) -> Cost:
        """Return the cost that allows a share of the whole model's."""
        return replace(self.cost, most=share * self.whole)


def within_all(cost: Cost, limits: Sequence[Cost]) -> list[Cost]:
    """Return a cost's limit with others; of two of one cost the stricter one counts."""
    most = min(each.most for each in (cost, *limits) if each.name == cost.name)
    return [replace(cost, most=most), *(each for each in limits if each.name != cost.name)]


@dataclass
class SizeSolver:
    """Solves once for each share that it is asked for."""

    space: SearchSpace
    cost: SizeCost
    uncut: Shape  #: before the cut of widths, with the tokens that stay
    count: Count  #: of parameters at a shape
    solve: Solve
    limits: Sequence[Cost] = ()  #: that every size keeps to: the recipe's targets of the cut
    _known: dict[float, Found] = field(default_factory=dict)

    def at(self, share: float) -> Found:
        """Return what errs least within a share of the whole model's cost, or what comes nearest to it within all limits.

        Raises UnsupportedShape if the solver finds nothing in its time, TargetOutOfReach if what comes nearest is above a
        limit, and Pause.
        """
        if share not in self._known:
            try:
                asked = within_all(self.cost.limit(share), self.limits)
                self._known[share] = solve_within(self.space, asked, self.solve)
            except TargetOutOfReach as problem:
                if not isinstance(problem.nearest, Found) or not problem.nearest.within(self.limits):
                    raise
                self._known[share] = problem.nearest
            except OutOfTime:
                cause = f"the solver found no widths for {share:.1%} of the model in its time"
                remedy = "Leave layers out of prune.axes."
                raise UnsupportedShape(cause, param="recipe.prune.axes", remedy=remedy) from None
        return self._known[share]

    def error_at(self, share: float) -> float:
        """Return the error that is predicted for a share."""
        return self.at(share).error

    def share_of(self, found: Found) -> float:
        """Return what a solution costs, as a share of the whole model."""
        return found.costs[self.cost.cost.name] / self.cost.whole

    def size(self, share: float, **own: object) -> SizeTried:
        """Return the solution for a share as a size that is tried. own: further fields."""
        found = self.at(share)
        facts = {"share": share, "shape": found.shape, "layers": found.layers, "error": found.error}
        parameters = round(self.space.cost_of(costs.parameters(0.0, self.count), found.picks))  # of the layers that stay
        return SizeTried.model_validate({**facts, "parameters": parameters, "cost": self.share_of(found), **own})

    def is_at(self, share: float, size: SizeTried) -> bool:
        """Return whether a size that was tried is the solution for a share."""
        found = self.at(share)
        return (found.shape, found.layers) == (size.shape, size.layers)

    @property
    def mildest(self) -> float:
        """Return the largest share that still cuts anything, and if there are limits, that they allow. Raises as `at`."""
        return min(self._mild, self.share_of(self.at(self._mild))) if self.limits else self._mild

    @property
    def is_limited(self) -> bool:
        """Return whether the limits exclude the uncut model."""
        return any(self.space.cost_of(each, self.space.uncut) > each.most for each in self.limits)

    @property
    def _mild(self) -> float:
        return MILDEST * self.cost.cost.of_shape(self.uncut) / self.cost.whole


def size_cost(context: StageContext, facts: SolvedSearch, objective: str) -> Generator[Event, None, SizeCost]:
    """Return what the recipe makes small. Raises MissingResource for a latency that no device table predicts."""
    if objective == "parameters":
        cost = costs.parameters(0.0, count_of(facts))
        return SizeCost(cost, cost.of_shape(facts.before))
    return (yield from latency_cost(context, facts.whole, facts.scheme, facts.network))


def latency_cost(
    context: StageContext, whole: Shape, scheme: Scheme | None, network: NetworkFacts | None
) -> Generator[Event, None, SizeCost]:
    """Return the milliseconds that are made small. whole, network: of the uncut model, whatever the context's is by now.
    Raises MissingResource if no device table predicts them.
    """
    times = yield from context.device_times()
    times = replace(times, network=network) if times is not None else None
    found = costs.milliseconds(0.0, times, scheme) if times is not None else None
    if found is None or times is None or times.milliseconds(whole, scheme) is None:
        cause = "auto.objective: latency needs a device table that has times of this model and scheme"
        remedy = "Set recipe.auto.objective to parameters, or ask for a table of the worker (docs/device-table.md)."
        raise MissingResource(cause, param="recipe.auto.objective", remedy=remedy)
    return SizeCost(found, found.of_shape(whole))


def count_of(facts: SolvedSearch) -> Count:
    """Return what counts the parameters of a model at a shape."""
    kind, network = ARCHITECTURE_SPECS[facts.family], facts.network
    return lambda shape: costs.count_parameters(facts.parameters, kind, network, shape).total


def facts_of(context: StageContext, settings: Prune, **known: object) -> SolvedSearch:
    """Return what sizes are solved by, of the current model. known: `SolvedSearch`'s fields of the job."""
    model, simulation = context.model, simulation_of(context.model)
    return SolvedSearch.model_validate(
        {
            "family": model.config.model_type,
            "whole": adapter_of(model).shape_of(model.config),
            "prune": settings,
            "quantize": context.recipe.quantize,
            "scheme": simulation.scheme if simulation is not None else None,
            "network": adapter_of(model).network(model.config),
            "error": 0.0,
            **known,
        }
    )


def solver_of(context: StageContext, tables: ErrorTables, facts: SolvedSearch, cost: SizeCost) -> SizeSolver:
    """Return the solver by tables, and by what their errors count. It raises Pause."""
    family = ARCHITECTURE_SPECS[facts.family]
    space = space_of(tables, family, facts.whole, facts.prune, facts.network, facts.weights)
    solve = signs_of_life.solver_of(context, space)
    return SizeSolver(space, cost, facts.whole, count_of(facts), solve, limits_of(context, facts))


def limits_of(context: StageContext, facts: SolvedSearch) -> list[Cost]:
    """Return what the recipe's cut allows of every size."""
    kind = ARCHITECTURE_SPECS[facts.family]
    sizes = costs.sizes_of(facts.parameters, kind, facts.network, facts.quantize, context.length)
    return sizes.limits(facts.prune, facts.before)


def stored_solver(context: StageContext) -> Generator[Event, None, tuple[SizeSolver, SolvedSearch, ErrorTables, Tensors]]:
    """Return the solver of this job's cut by what was stored of it, for a stage after the cut: with the facts, the tables and
    their orders. Raises UnusableCheckpoint.
    """
    auto, place = context.recipe.auto, context.checkpointer
    assert auto is not None, "only a recipe with auto asks"  # noqa: S101
    folder, facts = stored_search(place.folder, place.resume, place.part)
    tables, orders = read_tables(folder, place.part, facts.digest)
    cost = yield from size_cost(context, facts, auto.objective)
    return solver_of(context, tables, facts, cost), facts, tables, orders


def cut_of(
    context: StageContext, uncut: PreTrainedModel, scores: ImportanceScores, orders: Tensors, size: SizeTried
) -> PreTrainedModel:
    """Return the model of a size, cut by the tables' order and not trained. scores: any of the uncut model."""
    settings = context.recipe.prune
    layers = size.layers if settings is not None and "layers" in settings.axes else None
    plan = scores.ordered(orders, layers).choose(adapter_of(uncut), size.shape)
    return updated_cut(context, uncut, plan)

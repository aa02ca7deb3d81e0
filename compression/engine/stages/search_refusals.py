"""Refuses what a search among widths cannot end with, before anything is trained."""

from collections.abc import Generator
from contextlib import suppress

from compression.engine.context import StageContext
from compression.engine.stages.prune import model_sizes
from compression.engine.stages.signs_of_life import solver_of
from compression.engine.stages.size_solver import latency_cost
from compression.engine.stages.solved_widths import latency_limit
from compression.models.adapters.registry import adapter_of
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.search.problem import OutOfTime
from compression.planning.search.reach import blank_tables
from compression.planning.search.spaces import space_of
from compression.planning.search.within import solve_within
from compression.planning.search_rules import check_search
from compression.schema.errors import TargetOutOfReach
from compression.schema.events import Event


def check_search_targets(context: StageContext) -> Generator[Event, None, None]:
    """Refuse targets that no widths of the whole model meet, and a latency that nothing predicts.

    A device table that is not known yet is measured. Raises InvalidSpec, TargetOutOfReach with the nearest point,
    MissingResource and Pause.
    """
    prune, quantize = context.recipe.prune, context.recipe.quantize
    if prune is None or prune.search is None:
        return
    family, kind = adapter_of(context.model), ARCHITECTURE_SPECS[context.model.config.model_type]
    shape, network = family.shape_of(context.model.config), family.network(context.model.config)
    sizes = model_sizes(context.model, quantize, context.length)
    kept = len(context.input_pruner.kept) if context.input_pruner is not None else None
    check_search(context.recipe, kind, shape, sizes, kept)
    whole = shape.model_copy(update={"vocabulary": kept or shape.vocabulary})
    scheme, auto = quantize.assumed if quantize is not None else None, context.recipe.auto
    if auto is not None and auto.objective == "latency":
        yield from latency_cost(context, whole, scheme, network)
    if prune.target_latency is None:
        return
    latency = yield from latency_limit(context, prune.target_latency, whole, scheme)
    limits = [*sizes.limits(prune, shape), latency.cost]
    with suppress(OutOfTime):  # the solver will say, with tables
        try:
            space = space_of(blank_tables(whole, prune, network), kind, whole, prune, network)
            solve_within(space, limits, solver_of(context, space))
        except TargetOutOfReach as problem:
            if problem.proven:  # else a cut that was not looked at may do
                raise

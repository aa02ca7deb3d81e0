"""Whether any cut that a search may choose is within its sizes: known before anything is computed. Torch-free, no solver."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from compression.models.architectures.families import ArchitectureSpec
from compression.models.architectures.pruning_groups import key_of, units_at
from compression.planning.search import costs
from compression.planning.search.problem import Picks, out_of_reach_cause
from compression.planning.search.spaces import space_of
from compression.schema.error_tables import ErrorTables, GroupErrors, LayerErrors, WidthError, widths_of
from compression.schema.errors import TargetOutOfReach
from compression.schema.recipe.prune import Prune
from compression.schema.report.measurements import Shape
from compression.schema.report.network import NetworkFacts
from compression.schema.solved_search import ParameterFacts


def blank_tables(whole: Shape, prune: Prune, network: NetworkFacts | None) -> ErrorTables:
    """Return tables without errors: they name what a search among this model's widths and layers could choose."""
    if network is not None:
        units = {group.key: group.units for group in network.groups if group.axis in prune.axes}
        layers = [block.name for block in network.blocks]
    else:
        units = {axis: units_at(whole, axis) for axis in prune.axes if axis not in ("layers", "vocabulary")}
        layers = [str(number) for number in range(whole.layers)]
        if prune.free_widths:
            units |= {key_of("ffn", number): units["ffn"] for number in range(whole.layers)}
            del units["ffn"]
    groups = (
        GroupErrors(key=key, readers=1, points=tuple(WidthError(units=width, error=0.0) for width in widths_of(most)))
        for key, most in units.items()
        if most
    )
    named = tuple(LayerErrors(name=name, change=0.0) for name in layers)
    return ErrorTables(digest="0" * 64, rows=1, seconds=0.0, groups=tuple(groups), layers=named)


def check_reach(family: ArchitectureSpec, shape: Shape, prune: Prune, sizes: costs.Sizes, kept: int | None = None) -> None:
    """Refuse sizes that even the deepest cut of a search exceeds. shape: before any cut; kept: tokens that stay, if known.

    If the texts decide how many tokens stay, as few as may be count, so that nothing is refused that could be reached. Raises
    TargetOutOfReach, which names the nearest point.
    """
    limits, network = sizes.limits(prune, shape), sizes.network
    if not limits:
        return
    fewest = max(round(shape.vocabulary * (1 - prune.vocabulary_ratio)), 1) if prune.vocabulary_ratio else shape.vocabulary
    whole = shape.model_copy(update={"vocabulary": kept or fewest})
    space = space_of(blank_tables(whole, prune, network), family, whole, prune, network)

    counted = partial(costs.count_parameters, ParameterFacts(), family, network)
    # A network's own head may not be the one that the data need.
    own = replace(sizes, parts=counted).limits(prune, shape) if network is not None else limits

    def spent(picks: Picks) -> dict[str, float]:
        reached = {cost.name: space.cost_of(cost, picks) for cost in limits}
        if network is not None:
            cut = space.shape(picks)
            for cost, plain in zip(limits, own, strict=True):
                reached[cost.name] += cost.of_shape(cut) - plain.of_shape(cut)
        return reached

    def over(reached: Mapping[str, float]) -> float:
        return max((reached[cost.name] - cost.most) / max(cost.most, 1.0) for cost in limits)

    points = [(spent(picks), picks) for picks in space.deepest()]
    reached, nearest = min(points, key=lambda point: over(point[0]))
    if over(reached) > 0:
        key = next(cost.key for cost in limits if reached[cost.name] > cost.most)
        cause = out_of_reach_cause({cost.name: cost.most for cost in limits}, reached, shape=space.shape(nearest).short)
        raise TargetOutOfReach(cause, param=f"recipe.prune.{key}")

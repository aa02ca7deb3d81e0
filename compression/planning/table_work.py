"""What error tables cost in a forecast: passes over calibration rows, and the removal of units layer by layer. Torch-free."""

from collections.abc import Iterator

from compression.planning.counted import Counted
from compression.schema.recipe.prune import Prune
from compression.schema.searches import SEARCHES

PASSES = 3
"""Over the calibration rows: for second moments, for what layers change, and for the weights that are updated at the cut. A
model whose moments do not fit into `MOST_BYTES` of `pruning.error_tables` has more of the first."""
CANDIDATES, JUDGED_ROWS = 8, 512
"""Solutions that are cut and judged to correct the tables, at most, and the rows that judge them."""
REMOVAL_FLOPS = 8
"""Operations for each cube of a layer's columns: the inverse of its moments and the removal of all of them, which in double
precision take twice the time."""
MOMENTS_BYTES = 1 << 30
"""Of second moments that are in memory at once."""
READERS_OF_STREAM = 3
"""Of a transformer's layer: what reads the stream before attention, before the feed-forward part, and a head's share."""


def columns_of(model: Counted) -> Iterator[int]:
    """Yield the columns of each layer whose inputs' units may go."""
    shape, network = model.shape, model.network
    if network is not None:
        widths = {**network.widths, **(shape.widths or {})}
        for layer in network.layers:
            if layer.kind in ("conv", "linear") and layer.inputs.units:
                yield layer.inputs.at(widths) * layer.area
        return
    for columns in (shape.ffn, shape.attended, *[shape.hidden] * READERS_OF_STREAM):
        yield from [columns] * shape.layers


def removal_flops(model: Counted) -> float:
    """Return the operations of removing all units of all groups."""
    return float(sum(REMOVAL_FLOPS * columns**3 for columns in columns_of(model)))


def moments_bytes(model: Counted) -> int:
    """Return the bytes of second moments at once, with the inverse and the products of the group that is at work."""
    sizes = [8 * columns**2 for columns in columns_of(model)]
    return min(sum(sizes), MOMENTS_BYTES) + 4 * max(sizes, default=0)


def search_seconds(prune: Prune) -> float:
    """Return the seconds for which a recipe's search looks for widths: at most its budget's."""
    if prune.search is None:
        return 0.0
    budget = prune.search_budget
    return min(budget.seconds, budget.evaluations * SEARCHES[prune.search].evaluation_seconds)


def calibration_share(prune: Prune, rows: int) -> float:
    """Return the passes over train that error tables and their correction take. rows: of train."""
    calibrated, judged = (min(count, rows) for count in (prune.calibration_rows, JUDGED_ROWS))
    return (PASSES * calibrated + CANDIDATES * (calibrated + judged)) / max(rows, 1)

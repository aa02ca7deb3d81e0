"""What error tables cost in a forecast: passes over calibration rows, sums that are held, and the removal of units layer by
layer. The engine keeps to the same limits. Torch-free.
"""

from collections.abc import Iterable, Iterator

from compression.planning.counted import Counted
from compression.planning.size_fit import HALVINGS
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.prune import Prune
from compression.schema.searches import SEARCHES

CANDIDATES, JUDGED_ROWS = 8, 512
"""Solutions that are cut and judged to correct the tables, at most, and the rows that judge them."""
JUDGED_TOKENS = 65_536
"""Of these rows, if they are sequences: as many as judge a language model's epochs, for differences need no more."""
OTHER_SIZES = (0.35, 0.7, 1.3, 1.6)
"""Shares of what a target takes away, of further cuts that are judged: milder and deeper ones."""
JUDGED = CANDIDATES + len(OTHER_SIZES)
CUT_FLOPS, REMOVAL_FLOPS = 1, 6
"""Operations for each cube of the columns that a layer reads: to update its weights at one cut, which leaves about half of
them, and to invert its moments and remove all of them. Double precision counts twice."""
MOMENTS_BYTES = 1 << 30
"""Of second moments that are summed in one pass, and of what a group's readers hold in double precision; one layer's may be
more. If one pass suffices for a model they stay in memory, else they lie in a file."""
MOST_POSITIONS = 64
"""Positions of a row that count, evenly spaced, if they are no tokens: a large map has thousands that resemble each other."""
MOST_TOKENS = 16_384
"""Of calibration rows that are sequences (compression/modalities/sampling.py)."""
SOLUTION_SECONDS = 0.03
"""Of the solver, for each choice among widths. Measured on made tables, two busy cores, one run: 0.02 to 0.07 seconds for a
BERT-base and SmolLM2 (two choices, layers as choices or not), 0.1 for a ResNet-20 (12), 0.3 to 0.9 for a ResNet-56 (30)."""
MATRICES = 3
"""Of a reader while its units go, each of columns × columns at most: the inverse, the weights as they are and as they were."""
WORKING = 5
"""Matrices in double precision that the making of one reader, or an update, takes for a while."""


def moments_bytes(columns: int) -> int:
    """Return the bytes of the second moments of what a layer reads."""
    return 4 * columns**2


def removal_itemsize(readers: Iterable[int]) -> int:
    """Return the bytes of a number while a group's units go: 8 if all of its readers have room so. readers: their columns."""
    return 8 if MATRICES * 8 * sum(columns**2 for columns in readers) <= MOMENTS_BYTES else 4


def columns_of(model: Counted) -> Iterator[tuple[str, int]]:
    """Yield the axis, and the columns, of each input that layers read whose units may go, in the order in which they run.
    Layers that read the very same share it.
    """
    shape, network = model.shape, model.network
    if network is not None:
        widths = {**network.widths, **(shape.widths or {})}
        for layer in network.layers:
            if layer.kind in ("conv", "linear") and layer.inputs.units and not layer.grouped:
                yield min(layer.inputs.units), layer.inputs.at(widths) * layer.area
        return
    dense = shape.layers if shape.experts is None else shape.experts.dense_layers
    for number in range(shape.layers):
        yield "hidden", shape.hidden
        if shape.latent is not None and shape.latent.query is not None:
            yield f"query_rank.{number}", shape.latent.query
        if shape.latent is not None:
            yield f"kv_rank.{number}", shape.latent.kv
        yield f"heads.{number}", shape.attended if shape.latent is None else shape.heads * shape.latent.value
        yield "hidden", shape.hidden
        if number < dense:
            yield f"ffn.{number}", shape.each_ffn[number]
    if not model.tied:
        yield "hidden", shape.hidden


def passes(model: Counted, most: int = MOMENTS_BYTES) -> int:
    """Return how often calibration rows run through a model: a pass sums as much as it has room for."""
    left, count = [moments_bytes(columns) for _, columns in columns_of(model)], 0
    while left or not count:
        put_off, room = list[int](), most
        for place, size in enumerate(left):
            if place and size > room:
                put_off.append(size)
            else:
                room -= size
        left, count = put_off, count + 1
    return count


def table_flops(model: Counted, positions: float, auto: Auto | None = None) -> float:
    """Return the operations of the tables and of all cuts beside the model's own. positions: of all calibration rows."""
    each = REMOVAL_FLOPS + CUT_FLOPS * cuts(auto)
    return float(sum(each * columns**3 + 2 * positions * columns**2 for _, columns in columns_of(model)))


def update_flops(model: Counted, positions: float) -> float:
    """Return the operations of one cut by tables that are known, beside the model's own. positions: as of `table_flops`."""
    return float(sum(CUT_FLOPS * columns**3 + 2 * positions * columns**2 for _, columns in columns_of(model)))


def kept_bytes(model: Counted) -> int:
    """Return the bytes of second moments of all layers."""
    return sum(moments_bytes(columns) for _, columns in columns_of(model))


def filed_bytes(model: Counted) -> int:
    """Return the bytes of second moments in a file."""
    return kept_bytes(model) if passes(model) > 1 else 0


def tables_bytes(model: Counted) -> int:
    """Return the bytes of second moments at once, with the readers of the group that needs most and what is made for one."""
    largest = max((columns for _, columns in columns_of(model)), default=0)
    sums = kept_bytes(model) if passes(model) == 1 else max(MOMENTS_BYTES, moments_bytes(largest))
    return sums + max(group_bytes(model).values(), default=0) + WORKING * 8 * largest**2


def group_bytes(model: Counted) -> dict[str, int]:
    """Return the bytes that each group's readers hold while its units go, at most."""
    groups: dict[str, list[int]] = {}
    for key, columns in columns_of(model):
        groups.setdefault(key, []).append(columns)
    return {key: MATRICES * removal_itemsize(own) * sum(each**2 for each in own) for key, own in groups.items()}


def search_seconds(prune: Prune) -> float:
    """Return the seconds for which a recipe's search looks for widths: at most its budget's."""
    if prune.search is None:
        return 0.0
    budget = prune.search_budget
    return min(budget.seconds, budget.evaluations * SEARCHES[prune.search].evaluation_seconds)


def cuts(auto: Auto | None) -> int:
    """Return how often a model is cut: by what is judged, in each round of a search for a size, and in the end."""
    return JUDGED + (auto.rounds if auto is not None else 0) + 1


def solver_seconds(model: Counted, prune: Prune, auto: Auto | None) -> float:
    """Return the seconds of all solutions: of each cut that is judged, of the one that is made, and of the shares that a
    search for a size looks at before each round and once behind the last.
    """
    if model.network is None:
        choices = len({*prune.axes} - {"layers", "vocabulary"})
        choices += model.shape.layers - 1 if prune.free_widths else 0  # a choice of units for each layer
        choices += model.shape.layers if prune.mixed_bits else 0
    else:
        choices = sum(group.axis in prune.axes for group in model.network.groups)
        choices += len(model.network.blocks) if "layers" in prune.axes else 0
    shares = auto.rounds * (HALVINGS + 2) if auto is not None else 0
    return SOLUTION_SECONDS * choices * (JUDGED + 1 + shares)


def calibrated_rows(prune: Prune, rows: int, tokens: float) -> float:
    """Return the rows that error tables see. rows: of train, with so many tokens each."""
    return min(prune.calibration_rows, rows, MOST_TOKENS / max(tokens, 1.0))


def calibration_share(prune: Prune, rows: int, tokens: float, model: Counted, auto: Auto | None = None) -> float:
    """Return the passes over train that error tables and their correction take. rows: of train, with so many tokens each.

    All layers are observed in the passes for moments. Each cut of a network estimates running statistics again; the whole model
    and each cut that is judged answer the same rows.
    """
    seen, judged = passes(model) * calibrated_rows(prune, rows, tokens), float(min(JUDGED_ROWS, rows))
    if model.network is None:
        judged = min(judged, JUDGED_TOKENS / max(tokens, 1.0))
    if model.network is not None and prune.refresh_statistics:
        seen += cuts(auto) * min(prune.calibration_rows, rows)
    return (seen + (JUDGED + 1) * judged) / max(rows, 1)


def update_share(prune: Prune, rows: int, tokens: float, model: Counted) -> float:
    """Return the passes over train of one cut by tables that are known: for what layers read, and a network's statistics."""
    refreshed = min(prune.calibration_rows, rows) if model.network is not None and prune.refresh_statistics else 0
    return (passes(model) * calibrated_rows(prune, rows, tokens) + refreshed) / max(rows, 1)

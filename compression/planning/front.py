"""Recommends one of several sizes of a job: the smallest that keeps the target, else the one that keeps most. Torch-free.

The figures are of validation, as in all choices. While not all sizes are there, it is the best so far.
"""

from collections.abc import Sequence
from math import inf

from compression.schema.recipe.recipe import Targets
from compression.schema.report.measurements import Row
from compression.schema.report.points import Front
from compression.schema.report.targets import of_rows
from compression.schema.stages import DISTILLED, STAGE_SPECS


def front_of(rows: Sequence[Row], targets: Targets) -> Front | None:
    """Return the front of a job's sizes; None if there is one size so far."""
    points = [row for row in rows if row.stage == DISTILLED or STAGE_SPECS[row.stage].point]
    if len(points) < 2:
        return None
    keeping = [row for row in points if keeps(row, targets)]
    chosen = min(keeping, key=lambda row: row.parameters.total) if keeping else max(points, key=_kept)
    share, on = chosen.ratios.judged_retention, chosen.ratios.judged_on
    kept = "what it keeps is not known" if share is None else f"{share:.1%} of the score kept on {on}"
    told = f"{chosen.parameters.total:,} parameters, {kept}"
    why = f"Of {len(points)} sizes, {chosen.stage} is the smallest that keeps the target ({told})."
    if not keeping:
        best = "keeps most" if share is not None else "is the largest"
        why = f"None of {len(points)} sizes keeps the target; {chosen.stage} {best} ({told})."
    return Front(stages=tuple(row.stage for row in points), recommended=chosen.stage, why=why)


def keeps(row: Row, targets: Targets) -> bool:
    """Return whether a row reaches the targets of the score."""
    return all(kind.is_reached(row, targets) for kind in of_rows(targets) if kind.figure == "score")


def without_others(rows: Sequence[Row], front: Front | None) -> list[Row]:
    """Return the rows without the sizes that are not recommended."""
    return [row for row in rows if front is None or row.stage == front.recommended or row.stage not in front.stages]


def _kept(row: Row) -> tuple[float, int]:
    """Return what orders sizes of which none keeps the target: of equals the smaller first, of unknown ones the larger."""
    share, size = row.ratios.judged_retention, row.parameters.total
    return (-inf, size) if share is None else (share, -size)

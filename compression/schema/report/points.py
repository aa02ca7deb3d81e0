"""The sizes that a recipe with `prune.points` distilled, and which of them is the best. Torch-free."""

from typing import Annotated, Any

from pydantic import Field

from compression.schema.config import Config
from compression.schema.report.measurements import Row, Shape
from compression.schema.stages import Stage


class PointCut(Config):
    """One size, as the solver chose it."""

    stage: Annotated[Stage, Field(description="The row that has its figures.")]
    parameters: int
    share: Annotated[float, Field(description="Of the original's parameters.")]
    shape: Shape
    layers: Annotated[tuple[int, ...], Field(description="Numbers of the layers that stay.")]
    error: Annotated[float, Field(description="Predicted by the error tables, summed over the layers.")]
    pruning: Annotated[dict[str, Any], Field(description="Per axis: units before and after, ratio asked and taken.")]


class Front(Config):
    """Size against score: the rows of all sizes, and which is the best size. What is shipped is the report's headline."""

    stages: Annotated[tuple[Stage, ...], Field(description="The largest size first. Figures are in the rows.")]
    recommended: Annotated[Stage, Field(description="The best size: the smallest that keeps the target, else what keeps most.")]
    why: Annotated[str, Field(description="The rule and the figures.")]


def size_text(row: Row, front: Front) -> str:
    """Return a size and what it keeps as one line. row: of the front."""
    found = row.ratios
    faster = f", {found.speed_up:.2f} times as fast" if found.speed_up is not None else ""
    share = f"{100 * found.judged_retention:.1f} %" if found.judged_retention is not None else "not known what is"
    size = f"{row.parameters.total:,} parameters, {100 * (1 - found.parameter_reduction):.1f} % of the original"
    chosen = ", best size" if row.stage == front.recommended else ""
    return f"{row.stage}: {size} ({row.shape.short}){faster}, {share} kept on {found.judged_on}{chosen}"

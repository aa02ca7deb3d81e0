"""The work of several sizes of one job (`prune.points`), of which only the smallest is counted. Torch-free, pure."""

from collections.abc import Iterator

from compression.planning.work import Work
from compression.schema.recipe.prune import Prune
from compression.schema.stages import DISTILLED, POINTS

GROWS = ("plain_flops", "exact_flops", "simulated_flops", "step_bytes", "encoder_flops", "decoder_flops")
"""Of a `Work`: what grows with the model that is trained or scored."""


def point_factors(prune: Prune | None, whole: float, smallest: float) -> Iterator[tuple[str, float]]:
    """Yield the stage of each size that is distilled, and how many times as much work it is as the smallest; 1 of the only one.

    whole, smallest: work of the uncut model and of the smallest size.
    """
    count = prune.points if prune is not None else 1
    for number, stage in enumerate((DISTILLED, *POINTS)[:count], 1):
        yield stage, (max(whole / smallest, 1.0) if smallest > 0 else 1.0) ** (1 - number / count)


def resized(work: Work, factor: float) -> Work:
    """Return the work of a model that is so many times as much."""
    return work.model_copy(update={name: factor * getattr(work, name) for name in GROWS})

"""Which jobs can be done from file to file, and what memory they take. Torch-free."""

from typing import get_args

from compression.catalog.cost import HELD_BYTES, KEPT_FREED, PROCESS_BYTES, TRAINED_BYTES
from compression.recipe import Recipe
from compression.recipe.base import StreamedScheme

STREAMED_BYTES = PROCESS_BYTES + (1 << 30)
"""Resident peak of a job from file to file, whatever its model: a process, a block of rows and what becomes of it."""


def quantizes_only(recipe: Recipe) -> bool:
    """Say whether nothing of a recipe needs data: no training, no calibration, no cut. Its integers follow from the weights."""
    asked = recipe.quantize
    return (
        asked is not None
        and asked.scheme in get_args(StreamedScheme)
        and asked.qat is None
        and asked.smoothing is None
        and recipe.prune is None
        and recipe.distill is None
        and recipe.prepare.epochs == 0
    )


def whole_bytes(parameters: int) -> int:
    """Reckon what a job takes at the least that has its model in memory, as `estimate` does."""
    return round(KEPT_FREED * (PROCESS_BYTES + (TRAINED_BYTES + HELD_BYTES) * parameters))


def opened_bytes(file: int, table: int) -> int:
    """Reckon what a process takes that opens a checkpoint and answers.

    file: bytes of its weights, which stock code reads to other memory; table: elements of its largest table, which torchao
    makes float32 of.
    """
    return PROCESS_BYTES + 2 * file + 4 * table

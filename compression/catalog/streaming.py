"""Which jobs can be done from file to file, and what memory they take. Torch-free."""

from typing import get_args

from compression.catalog.cost import (
    ARTIFACT_EXTRAS,
    HELD_BYTES,
    INT8_OVERHEAD,
    KEPT_FREED,
    LARGEST_GRAPH,
    PROCESS_BYTES,
    TRAINED_BYTES,
    Estimate,
)
from compression.recipe import Recipe
from compression.recipe.base import StreamedScheme
from compression.report import ModelFacts

STREAMED_BYTES = PROCESS_BYTES + (1 << 30)
"""Resident peak of a job from file to file, whatever its model: a process, a block of rows and what becomes of it."""

STREAMED_ELEMENTS = 2e7
"""Elements a second that are quantized and held against their source, on one core."""
FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
"""What safetensors are stored in; blocks of a GGUF file are unpacked first."""


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


def fits_a_graph(parameters: int) -> bool:
    """Say whether the float32 baseline fits into an ONNX file of one piece."""
    return HELD_BYTES * parameters < LARGEST_GRAPH


def from_file_to_file(whole: Estimate, model: ModelFacts, parameters: int) -> Estimate:
    """Reckon a job that only quantizes a decoder. whole: what it takes with its model in memory, where there is so much."""
    memory = min(whole.memory_bytes, STREAMED_BYTES)
    if fits_a_graph(parameters):
        return whole.model_copy(update={"memory_bytes": memory})
    # The checkpoint as it was sent, unpacked where it was a GGUF file, and its integers; each with its tokenizer and card.
    disk = model.bytes + HELD_BYTES * parameters * (model.dtype not in FLOATS) + round(INT8_OVERHEAD * parameters)
    minutes = round(parameters / STREAMED_ELEMENTS / 60, 1)
    return Estimate(memory_bytes=memory, disk_bytes=disk + 2 * ARTIFACT_EXTRAS, minutes=minutes)


def opened_bytes(file: int, table: int) -> int:
    """Reckon what a process takes that opens a checkpoint and answers.

    file: bytes of its weights, which stock code reads to other memory; table: elements of its largest table, which torchao
    makes float32 of.
    """
    return PROCESS_BYTES + 2 * file + 4 * table

"""The memory of a cut: of scoring units, of error tables and of least squares. Torch-free."""

from typing import TYPE_CHECKING

from compression.planning.memory import (
    GRADIENT_BYTES,
    HEAD_BYTES,
    HELD_BYTES,
    LOGITS_BYTES,
    Products,
    idle_bytes,
    step_bytes,
    units_of,
)
from compression.planning.table_work import tables_bytes

if TYPE_CHECKING:
    from compression.planning.estimator import PlannedJob

SOLVED_TOKENS = 16_384
"""Maximum tokens that least squares see (compression/modalities/sampling.py)."""

CALIBRATION_BATCH = 32
"""Rows whose importance is scored at once, fewer of a language model (compression/pruning/scores.py)."""
TOGETHER = 8192
"""About the most tokens of these (compression/modalities/text/causal_lm/packed_examples.py)."""


def cut_bytes(job: "PlannedJob", device: str) -> int:
    """Return the bytes of a cut: the model before and after it, and what least squares solve of one layer; on a CPU the teacher
    too. device: cpu or cuda.
    """
    prune, before, after = job.recipe.prune, job.model, job.result
    if prune is None:
        return 0
    models = HELD_BYTES * (before.parameters.total + after.parameters.total)
    models = max(models, scored_bytes(job)) + idle_bytes(job, device)
    if prune.search is not None:
        # The matrices as they were, beside the updated ones.
        models += tables_bytes(before) + HELD_BYTES * before.parameters.other
    if not prune.reconstructs:
        return models
    tokens = min(SOLVED_TOKENS, prune.calibration_rows * job.longest)
    # The streams of both models, the outputs that the whole layer had, and a layer's inputs and errors in double precision.
    widths = 4 * before.shape.hidden + 2 * units_of(before.shape) + 4 * (units_of(after.shape) + before.shape.hidden)
    # The products of a layer's inputs with each other, in double precision: as summed, as solved, and what solving needs.
    return models + 4 * tokens * widths + 3 * 8 * before.shape.ffn**2


def scored_bytes(job: "PlannedJob") -> int:
    """Return the bytes of a backward pass over calibration rows, which Taylor importance takes."""
    prune, model, recipe = job.recipe.prune, job.model, job.recipe
    if prune is None or prune.importance != "taylor":
        return 0
    rows = max(min(CALIBRATION_BATCH, TOGETHER // job.longest), 1) if job.is_language else CALIBRATION_BATCH
    simulated: Products = "float32" if recipe.quantize is None else "int8"
    step = step_bytes(model.shape, rows, job.longest, model.network, simulated)
    passing = LOGITS_BYTES + HEAD_BYTES * model.shape.vocabulary * model.shape.hidden if job.is_language else 0
    return (HELD_BYTES + GRADIENT_BYTES) * model.parameters.total + step + passing

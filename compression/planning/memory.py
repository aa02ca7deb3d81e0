"""The memory of a job's process: what a parameter, a token and a vocabulary take. Torch-free."""

from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts

PROCESS_BYTES = 600_000_000
"""A process that has imported torch, transformers and the exporter, before it loads a model."""
TRAINED_BYTES, HELD_BYTES = 24, 4
"""Bytes per trained parameter: weight, gradient, AdamW's two moments, and the weights of the last good and of the best
epoch, all in float32. A parameter that is only in memory (the teacher's): 4."""
UNTRAINED_BYTES = 26
"""Bytes per parameter of a model that nothing trains, with its conversions to an artifact; a BERT of 69 M took 25."""
ROUNDED_BYTES = 1
"""Bytes per parameter of a teacher in 8 bits."""
TOKEN_FLOATS_HIDDEN, TOKEN_FLOATS_FFN = 16, 5
"""Floats kept for the backward pass, per token and layer: multiples of the hidden and of the feed-forward width."""
KEPT_FREED = 1.1
"""Freed blocks that the C library keeps (system/process.py), and the copy of the weights at the end of an epoch."""
RELATIONS_FLOATS = 8
"""Tensors of the size of one layer's attention over a row in memory if a language model's attention is compared (by count)."""
HARNESS_BYTES = 1 << 30
"""Maximum bytes of logits and their logarithms while lm-eval runs a language model; a single request may take more."""
LOGITS_BYTES = 400_000_000
"""Bytes that a loss over a vocabulary holds at a time, in chunks (compression/modalities/text/causal_lm/chunked_head.py)."""


def model_bytes(before: Parameters, after: Parameters, recipe: Recipe, spoken: int = 0) -> int:
    """Return the bytes of memory that the model, its training and its teacher take together.

    A teacher in 8 bits, in the task phase of distillation and if recovery learns its outputs, saves memory only if no earlier
    training beside it in float32 is larger. spoken: elements of an output layer, which stays in float32.
    """
    trains = recipe.prepare.trains or (recipe.quantize is not None and recipe.quantize.qat is not None)
    if not trains and recipe.distill is None and (recipe.prune is None or recipe.prune.recovery is None):
        return UNTRAINED_BYTES * before.total
    whole = (TRAINED_BYTES + HELD_BYTES * recipe.has_teacher) * before.total
    if trains or not may_hold(recipe):
        return whole
    # Each training beside its teacher: after the first of several cuts, on plain texts, and on the task.
    prune, held = recipe.prune, HELD_BYTES * before.total
    general = recipe.distill.general if recipe.distill is not None else None
    rounded = HELD_BYTES * (before.embedding + spoken) + ROUNDED_BYTES * (before.other - spoken)
    phases = [2 * held + HELD_BYTES * after.total, TRAINED_BYTES * after.total + rounded]
    if prune is not None and prune.recovery is not None:
        first = before.total * (after.total / before.total) ** (1 / prune.steps)
        phases.append(2 * held + HELD_BYTES * round(first))
        phases.append(TRAINED_BYTES * round(first) + (rounded if recipe.recovers_by_teacher else held))
    if general is not None:
        phases.append(TRAINED_BYTES * after.total + held * (2 if general.teacher == "base" else 1))
    return min(max(phases), whole)


def may_hold(recipe: Recipe) -> bool:
    """Return whether a teacher is in 8 bits, or may be if memory is short."""
    return recipe.has_teacher and (recipe.distill or Distill()).teachers.precision != "float32"


def step_bytes(shape: Shape, train: Train, longest: int, network: NetworkFacts | None = None) -> int:
    """Return the bytes that a step keeps for its backward pass: a network's values. longest: tokens of the longest row."""
    if network is not None:
        return 4 * network.values * train.batch
    experts = shape.experts  # of them the chosen and the shared ones
    units = shape.ffn if experts is None else max(shape.ffn, experts.chosen * experts.ffn + experts.shared)
    token_floats = shape.layers * (TOKEN_FLOATS_HIDDEN * shape.hidden + TOKEN_FLOATS_FFN * units)
    if train.recompute:  # only the input of each layer is kept, and the activations inside one layer
        token_floats = shape.layers * shape.hidden + token_floats // shape.layers
    return 4 * token_floats * train.batch * longest

"""What a job will take: first guesses of its memory, its disk and its minutes."""

from typing import Annotated

from pydantic import Field

from compression.recipe import Augment, Config, Recipe
from compression.report import DataFacts, Parameters, Shape

PROCESS_BYTES = 600_000_000
"""A process that has imported torch, transformers and the exporter, before it holds a model."""
TRAINED_BYTES, HELD_BYTES = 16, 4
"""A trained parameter: weight, gradient and AdamW's two moments in float32. One that is only held (the teacher): 4."""
TOKEN_FLOATS_HIDDEN, TOKEN_FLOATS_FFN = 16, 5
"""Floats kept for the backward pass, for each token and layer: so many of the hidden and of the feed-forward width."""
TEACHER_BYTES = 2 * 2**30
"""The teacher's hidden states are kept in memory up to this; beyond it the teacher is asked again in each epoch."""
LARGEST_GRAPH = 2**31
"""Bytes that an ONNX file of one piece can have (a protobuf message); the float32 baseline must fit."""
KEPT_FREED = 1.1
"""Freed blocks that the C library keeps (compression/process.py). Seen: 3.08 GB where the sum before this factor is 2.9."""
INT8_OVERHEAD = 1.05
"""An int8 artifact's bytes a parameter: scales, biases and the graph beside the integers."""
ARTIFACT_EXTRAS = 2_000_000
"""Tokenizer, configs and card of an artifact."""
TRAINING_FLOPS = 1.4e11
"""Useful floating-point operations a second in training, two cores with AVX-512 together (`standard` on MiniLM-L6, calm
machine: 2.1e11 in full precision, 1.3e11 fake-quantized)."""
TOKENS_A_WORD = 1.4
SHIP_MINUTES = 0.2
"""Exporting, verifying and timing an artifact (same run); the score's time comes on top."""
SCORED_ROWS_A_SECOND = 100.0
"""Rows a second when the test split is answered, one at a time and again by 32, on one thread."""
WINDOWS_OVERLAP = 4 / 3
"""Tokens that go through the model for one of a question's context."""
AUGMENT_SECONDS = {"wordnet": 0.001, "embeddings": 0.002, "masked-lm": 0.05, "apertium": 0.006, "models": 0.5}
"""Seconds that a made row takes on two cores, by where it comes from (sentences of some 20 words; docs/method.md)."""
CURVE_RATIOS, CURVE_ROWS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 256
"""What a sensitivity curve tries on each of three axes (heads go with hidden), and the rows of validation that judge it."""
PROBES = 6
"""Shapes that are exported and timed for a target latency: half of some 60 each time."""
DEFAULT_TEST_SHARE = 0.2
"""Of train, where no test split is given."""


class Estimate(Config):
    """What a job will take, roughly. Minutes are those of two cores."""

    memory_bytes: Annotated[int, Field(description="Resident peak of the training process.")]
    disk_bytes: Annotated[int, Field(description="Checkpoints and artifacts at the job's end, and what it writes in passing.")]
    minutes: float


def estimate(shape: Shape, before: Parameters, after: Parameters, data: DataFacts, recipe: Recipe) -> Estimate:
    """Reckon a job from the shape of its model, the parameters before and after, its rows and its recipe."""
    train = recipe.train
    token_floats = shape.layers * (TOKEN_FLOATS_HIDDEN * shape.hidden + TOKEN_FLOATS_FFN * shape.ffn)
    longest = min(train.max_length, round(data.longest_words * TOKENS_A_WORD) + 2)
    row = data.mean_words * TOKENS_A_WORD + 2
    # Contexts are not cut but read in windows, a quarter of which the one before has read already.
    row = row * WINDOWS_OVERLAP if data.task == "question-answering" else min(train.max_length, row)
    tokens = data.rows["train"] * row
    augment = recipe.distill.augment if recipe.distill else None
    taught = tokens * (1 + augment.copies if augment else 1)
    memory = PROCESS_BYTES + (TRAINED_BYTES + HELD_BYTES) * before.total + 4 * token_floats * train.batch * longest
    if recipe.distill and (recipe.distill.hidden or recipe.distill.attention):
        states = shape.layers + 1 + 3 * bool(recipe.distill.attention)
        memory += min(TEACHER_BYTES, round(2 * taught * shape.hidden * states))
    memory = round(memory * KEPT_FREED)
    sizes = [before.total] + [before.total] * (recipe.quantize is not None)
    sizes += [after.total] * ((recipe.prune is not None) + (recipe.distill is not None))
    bytes_each = INT8_OVERHEAD if recipe.quantize else HELD_BYTES
    disk = HELD_BYTES * sum(sizes)  # one checkpoint a row
    disk += HELD_BYTES * before.total + round(bytes_each * sum(sizes[1:])) + ARTIFACT_EXTRAS * (len(sizes) + 1)
    disk += 2 * HELD_BYTES * after.total  # the transformers artifact, and its float32 weights in passing
    # A training step costs three forward passes, one of 2 operations a parameter and token; a teacher one more, once.
    forward, small = (2 * parameters.other * tokens for parameters in (before, after))
    more = taught / tokens
    work = (
        3 * forward * (recipe.prepare.epochs + (recipe.quantize.qat.epochs if recipe.quantize and recipe.quantize.qat else 0))
    )
    if recipe.prune and recipe.prune.recovery:
        work += 3 * small * recipe.prune.recovery.epochs
    if recipe.prune and recipe.prune.sensitivity:
        work += forward / max(data.rows["train"], 1) * CURVE_ROWS * len(CURVE_RATIOS) * 3
    if recipe.distill:
        again = -(-recipe.distill.epochs // 2) if recipe.remedy == "apply" else 0
        work += more * (3 * small * (recipe.distill.epochs + again) + forward)
    planned = planned_steps(recipe, data.rows["train"])
    work *= min(1.0, (train.max_steps or planned) / max(planned, 1))
    training = min(work / TRAINING_FLOPS / 60, train.max_minutes or float("inf"))
    tests = data.rows.get("test", round(DEFAULT_TEST_SHARE * data.rows["train"]))
    made = augment_seconds(augment, data.rows["train"]) / 60 if augment else 0.0
    shipping = made + (len(sizes) + 1) * (SHIP_MINUTES + tests / SCORED_ROWS_A_SECOND / 60)
    shipping += PROBES * SHIP_MINUTES * (recipe.prune is not None and recipe.prune.target_latency is not None)
    return Estimate(memory_bytes=memory, disk_bytes=disk, minutes=round(training + shipping, 1))


def planned_steps(recipe: Recipe, rows: int) -> int:
    """Count the optimizer steps that a recipe asks for over `rows` of train, before any limit or early end."""
    epochs = recipe.prepare.epochs
    epochs += recipe.quantize.qat.epochs if recipe.quantize and recipe.quantize.qat else 0
    epochs += recipe.prune.recovery.epochs if recipe.prune and recipe.prune.recovery else 0

    def an_epoch(rows: int) -> int:
        batches = -(-rows // recipe.train.batch)
        return -(-batches // recipe.train.accumulate)

    taught = 0
    if recipe.distill:
        copies = recipe.distill.augment.copies if recipe.distill.augment else 0
        taught = recipe.distill.epochs * an_epoch(rows * (1 + copies))
    return epochs * an_epoch(rows) + taught


def augment_seconds(augment: Augment, rows: int) -> float:
    """Say about how long making the new rows takes. The source `auto` counts as the dearer of the two that it may be."""
    seconds, copies = 0.0, augment.copies
    if augment.back_translation is not None:
        copies -= 1
        seconds += AUGMENT_SECONDS["models" if augment.back_translation.models else "apertium"] * rows
    if augment.synonyms is not None:
        source = augment.synonyms.source
        seconds += AUGMENT_SECONDS["embeddings" if source == "auto" else source] * rows * copies
    return seconds

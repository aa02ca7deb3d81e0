"""What a job will take: first guesses of its memory, its disk and its minutes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from compression.planning import preparation
from compression.planning.teacher_cost import Lessons
from compression.planning.token_estimates import CHARACTERS_A_TOKEN, TOKENS_A_WORD, Tokens, of_row, packed
from compression.schema.recipe.augment import Augment
from compression.schema.recipe.base import Config, Split
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Train
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.validation import DataFacts

PROCESS_BYTES = 600_000_000
"""A process that has imported torch, transformers and the exporter, before it holds a model."""
TRAINED_BYTES, HELD_BYTES = 24, 4
"""A trained parameter: weight, gradient, AdamW's two moments, and the weights of the last good and of the best epoch, all in
float32. One that is only held (the teacher): 4."""
UNTRAINED_BYTES = 26
"""A parameter of a model that nothing trains, and what is made of it on its way to an artifact; a BERT of 69 M took 25."""
ROUNDED_BYTES = 1
"""A parameter of a teacher that is held in 8 bits."""
SAVED_BYTES = 2 * 20
"""A parameter of a training that is saved: weight, AdamW's two moments, the weights of the last good and of the best epoch.
Twice, since a save goes only once the next is there."""
TOKEN_FLOATS_HIDDEN, TOKEN_FLOATS_FFN = 16, 5
"""Floats kept for the backward pass, for each token and layer: so many of the hidden and of the feed-forward width."""
LARGEST_GRAPH = 2**31
"""Bytes that an ONNX file of one piece can have (a protobuf message); the float32 baseline must fit."""
KEPT_FREED = 1.1
"""Freed blocks that the C library keeps (compression/system/process.py), and weights as they are copied at the end of an epoch."""
INT8_OVERHEAD = 1.05
"""An artifact's bytes by those of its integers: scales, biases and the graph lie beside them."""
ARTIFACT_EXTRAS = 2_000_000
"""Tokenizer, configs and card of an artifact."""
TRAINING_FLOPS = 1.4e11
"""Useful floating-point operations a second in training, two cores with AVX-512 together (`standard` on MiniLM-L6, calm
machine: 2.1e11 in full precision, 1.3e11 fake-quantized)."""
RELATIONS_FLOATS = 8
"""Tensors as large as one layer's attention over a row that are held where a language model's is compared: reckoned."""
HARNESS_BYTES = 1 << 30
"""What logits and their logarithms may take where lm-eval asks a language model; a single request may take more."""
LOGITS_BYTES = 400_000_000
"""What a loss over a vocabulary holds for a moment, in chunks (compression/modalities/text/causal_lm/chunked_head.py)."""
SHIP_MINUTES = 0.2
"""Exporting, verifying and timing an artifact (same run); the score's time comes on top."""
SCORED_ROWS_A_SECOND = 100.0
"""Rows a second when the test split is answered, one at a time and again by 32, on one thread: no model answers more."""
ENCODER_FLOPS = 1.4e11
"""Useful floating-point operations a second of one thread that answers with an encoder (MiniLM-L6 reads 128 tokens in 14.8 ms
alone: 1.9e11); what pads the shorter rows of 32 takes its share. Decoders are reckoned by what one core does in training."""
MEASURE_SECONDS = 3000.0
"""An artifact that takes longer to measure is given up; what was not known of it by then is told as not measured."""
AUGMENT_SECONDS = {"wordnet": 0.001, "embeddings": 0.002, "masked-lm": 0.05, "apertium": 0.006, "models": 0.5}
"""Seconds that a made row takes on two cores, by where it comes from (sentences of some 20 words; docs/method.md)."""
CURVE_RATIOS, CURVE_ROWS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 256
"""What a sensitivity curve tries on each of three axes (heads go with hidden), and the rows of validation that judge it."""
PROBES = 6
"""Shapes that are exported and timed for a target latency: half of some 60 each time."""
DEFAULT_SHARES: dict[Split, float] = {"validation": 0.1, "test": 0.2}
"""The splits that artifacts are scored on: what each is of train, if it is not given."""


class Estimate(Config):
    """What a job will take, roughly. Minutes are those of two cores."""

    memory_bytes: Annotated[int, Field(description="Resident peak of the training process.")]
    disk_bytes: Annotated[int, Field(description="Checkpoints and artifacts at the job's end, and what it writes in passing.")]
    minutes: float


@dataclass(frozen=True)
class Counted:
    """A model, its head for the data's task included. tied: whether its token table is its output layer too; spoken: the
    elements of a language model's output layer that is no table."""

    shape: Shape
    parameters: Parameters
    tied: bool = False
    spoken: int = 0

    @property
    def active(self) -> int:
        """Count the parameters that a token is multiplied by: no table that it is looked up in, and of experts the chosen."""
        experts, found = self.shape.experts, self.parameters.other + self.parameters.embedding * self.tied
        if experts is None:
            return found
        left_out = (self.shape.layers - experts.dense_layers) * (experts.count - experts.chosen)
        return found - left_out * 3 * self.shape.hidden * experts.ffn


def estimate(
    model: Counted,
    result: Counted,
    data: DataFacts,
    recipe: Recipe,
    evaluate: JobEvaluate,
    named: Sequence[Counted] = (),
) -> Estimate:
    """Reckon a job from its model, what becomes of it or of a student, its rows, its recipe, and how artifacts are scored.

    named: the teachers that the job names.
    """
    shape, before, after, spoken = model.shape, model.parameters, result.parameters, model.spoken
    train, language = recipe.train, data.task == "causal-lm"
    if language:
        data = packed(data, recipe)
    longest = min(train.max_length, round(data.longest_words * TOKENS_A_WORD) + 2)
    read = Tokens.of(data, recipe)
    tokens, taught, plain = read.train, read.taught, read.plain
    augment = recipe.distill.augment if recipe.distill else None
    seeds = recipe.distill.teachers.seeds if recipe.distill else 1
    memory = PROCESS_BYTES + model_bytes(before, after, recipe, spoken) + step_bytes(shape, train, longest)
    memory += LOGITS_BYTES * language
    feature_losses = recipe.distill is not None and "attention" in recipe.distill.weights()
    if language and feature_losses:
        memory += RELATIONS_FLOATS * 4 * shape.heads * longest**2
    memory += HELD_BYTES * (max(seeds - 1, 0) * before.total + sum(each.parameters.total for each in named))
    answers = 0
    if recipe.distill and language and recipe.distill.kept is not None:
        an_id = 2 if shape.vocabulary <= 1 << 16 else 4
        answers = round(taught * (2 * (recipe.distill.kept + 1) + an_id * recipe.distill.kept))
    asked = objectives(model, result, data, recipe, named)
    memory = round((memory + asked.bytes_in("memory")) * KEPT_FREED)
    sizes = [before.total] + [before.total] * (recipe.quantize is not None)
    sizes += [after.total] * ((recipe.prune is not None) + (recipe.distill is not None))
    shipped = [before] * (recipe.quantize is not None) + [after] * ((recipe.prune is not None) + (recipe.distill is not None))
    disk = HELD_BYTES * (sum(sizes) + max(seeds - 1, 0) * before.total)  # one checkpoint a row; teachers beside the baseline's
    disk += asked.bytes_in("disk") + answers
    if recipe.recovers_by_teacher and may_hold(recipe):
        disk += HELD_BYTES * before.total  # the teacher's float weights, while it is rounded
    disk += HELD_BYTES * before.total + sum(artifact_bytes(each, recipe.quantize) for each in shipped)
    scored = artifacts(model, result, recipe, language=language)
    disk += ARTIFACT_EXTRAS * len(scored)
    disk += SAVED_BYTES * max(before.total, after.total) + 2 * HELD_BYTES * max(seeds - 1, 0) * before.total
    # The headline as transformers artifacts, and its float32 weights in passing; a language model's cut beside it.
    disk += HELD_BYTES * (2 * before.total + after.total * language)
    # Calibration, sensitivities and the check of ranges are forward passes over a few hundred rows: left out.
    # A training step costs three forward passes, one of 2 operations a parameter and token; a teacher one more, once, or in
    # each epoch where what it says is not kept.
    forward, small = (2 * each.active * tokens for each in (model, result))
    more = taught / tokens
    qat = recipe.quantize.qat.epochs if recipe.quantize and recipe.quantize.qat else 0
    rows = data.rows["train"]
    work = 3 * forward * (preparation.passes(recipe.prepare, rows, train, seeds) + qat)
    work += forward * preparation.read_once(recipe.prepare, rows)
    if recipe.prune and recipe.prune.recovery:
        work += 3 * small * recipe.prune.recovery.epochs + forward * (asked.recovery.passes if asked.recovery else 0)
    if recipe.prune and recipe.prune.sensitivity:
        work += forward / max(data.rows["train"], 1) * CURVE_ROWS * len(CURVE_RATIOS) * 3
    if recipe.distill:
        others = 2 * sum(each.active for each in named) * tokens
        work += more * (3 * small * recipe.distill.epochs + forward * seeds + others)
        if asked.task:  # each teacher is asked once, the one that shows its insides maybe again
            work += more * 2 * guide_of(model, recipe, named).active * tokens * (asked.task.passes - 1)
        if recipe.distill.general and asked.general:
            work += plain / tokens * (3 * small * recipe.distill.general.epochs + forward * asked.general.passes)
    planned = planned_steps(recipe, rows, data.rows.get("unlabelled"))
    work *= min(1.0, (train.max_steps or planned) / max(planned, 1))
    training = min(work / TRAINING_FLOPS / 60, train.max_minutes or float("inf"))
    made = augment_seconds(augment, data.rows["train"]) / 60 if augment else 0.0
    shipping = made + sum(SHIP_MINUTES + scoring_seconds(each, data, train, evaluate) / 60 for each in scored)
    shipping += PROBES * SHIP_MINUTES * (recipe.prune is not None and recipe.prune.target_latency is not None)
    return Estimate(memory_bytes=memory, disk_bytes=disk, minutes=round(training + shipping, 1))


def objectives(model: Counted, result: Counted, data: DataFacts, recipe: Recipe, named: Sequence[Counted]) -> Lessons:
    """Reckon what is asked of teachers. Arguments are those of `estimate`."""
    language = data.task == "causal-lm"
    tokens = Tokens.of(packed(data, recipe) if language else data, recipe)
    guide = guide_of(model, recipe, named)
    return Lessons.of(recipe, tokens, model.shape, guide.shape, result.shape, language=language)


def guide_of(model: Counted, recipe: Recipe, named: Sequence[Counted]) -> Counted:
    """Return the teacher that shows its insides. Where named ones alone teach, validation chooses: here it is the dearest."""
    alone = recipe.distill is not None and recipe.distill.teachers.seeds == 0
    return max(named, key=lambda each: each.active, default=model) if alone else model


def artifacts(model: Counted, result: Counted, recipe: Recipe, *, language: bool) -> list[Counted]:
    """List what a job's artifacts are made of, at most: one a row, and the headline again in the form of its own library.

    A language model's has two such forms; and so has what it was cut to, where an earlier stage is the headline.
    """
    smaller = recipe.prune is not None or result.parameters.total < model.parameters.total
    whole = 1 + (recipe.quantize is not None) + (2 if language else 1)
    return [model] * whole + [result] * ((recipe.prune is not None) + (recipe.distill is not None) + 2 * (language and smaller))


def scoring_seconds(model: Counted, data: DataFacts, train: Train, evaluate: JobEvaluate) -> float:
    """Estimate how long one artifact's scores take, on validation and on test.

    Each token is read twice: of a row alone and among 32, of a language model's text in windows that go on by half.
    """
    if data.task == "causal-lm":
        characters = [data.characters.get(split, share * data.characters["train"]) for split, share in DEFAULT_SHARES.items()]
        asked = sum(min(each / CHARACTERS_A_TOKEN, evaluate.tokens) for each in characters)
        return 2 * 2 * model.active * asked / (TRAINING_FLOPS / 2) / evaluate.threads
    rows = sum(data.rows.get(split, round(share * data.rows["train"])) for split, share in DEFAULT_SHARES.items())
    flops = TRAINING_FLOPS / 2 if model.shape.groups is not None else ENCODER_FLOPS
    return rows * max(2 * 2 * model.active * of_row(data, train) / flops, 1 / SCORED_ROWS_A_SECOND) / evaluate.threads


def model_bytes(before: Parameters, after: Parameters, recipe: Recipe, spoken: int = 0) -> int:
    """Reckon what the model, its training and its teacher take together.

    A teacher that may be held in 8 bits spares memory only where nothing larger is trained beside it in float32 before; it is
    held so in the task phase of distillation and where recovery learns its answers. spoken: what stays in float32 beside its
    tables, a language model's output layer.
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
    """Say whether a teacher is held in 8 bits, or may be where memory asks for it."""
    return recipe.has_teacher and (recipe.distill or Distill()).teachers.precision != "float32"


def step_bytes(shape: Shape, train: Train, longest: int) -> int:
    """Reckon what a step keeps for its backward pass. longest: tokens of the longest row."""
    token_floats = shape.layers * (TOKEN_FLOATS_HIDDEN * shape.hidden + TOKEN_FLOATS_FFN * units_a_token(shape))
    if train.recompute:  # what enters each layer is kept, and one layer's insides
        token_floats = shape.layers * shape.hidden + token_floats // shape.layers
    return 4 * token_floats * train.batch * longest


def units_a_token(shape: Shape) -> int:
    """Count the feed-forward units that a token goes through in a layer: of experts, those it is sent to and the shared."""
    experts = shape.experts
    return shape.ffn if experts is None else max(shape.ffn, experts.chosen * experts.ffn + experts.shared)


def artifact_bytes(parameters: Parameters, quantize: Quantize | None) -> int:
    """Reckon the bytes of an ONNX artifact's weights by their scheme. Tables are int8 in all of them."""
    if quantize is None:
        return HELD_BYTES * parameters.total
    if quantize.scheme != "weight-only-int4":
        return round(INT8_OVERHEAD * parameters.total)
    # Half a byte each, and a float32 scale a group.
    return round(INT8_OVERHEAD * (parameters.embedding + (0.5 + 4 / quantize.group_size) * parameters.other))


def planned_steps(recipe: Recipe, rows: int, unlabelled: int | None = None) -> int:
    """Count the optimizer steps that a recipe asks for, before any limit or early end.

    rows: of train; unlabelled: of the general phase's texts, train's where there are none.
    """
    originals = recipe.distill.teachers.seeds if recipe.distill else 1
    prepared = preparation.passes(recipe.prepare, rows, recipe.train, originals)
    epochs = recipe.quantize.qat.epochs if recipe.quantize and recipe.quantize.qat else 0
    epochs += recipe.prune.recovery.epochs if recipe.prune and recipe.prune.recovery else 0

    def an_epoch(rows: int) -> int:
        batches = -(-rows // recipe.train.batch)
        return -(-batches // recipe.train.accumulate)

    taught = 0
    if recipe.distill:
        copies = recipe.distill.augment.rows if recipe.distill.augment else 0
        taught = recipe.distill.epochs * an_epoch(rows * (1 + copies))
        if recipe.distill.general:
            taught += recipe.distill.general.epochs * an_epoch(unlabelled or rows)
    return round((prepared + epochs) * an_epoch(rows)) + taught


def augment_seconds(augment: Augment, rows: int) -> float:
    """Say about how long making the new rows takes, if the worker has the dearer of what the recipe leaves to it."""
    seconds, copies = 0.0, augment.rows - augment.splices
    if augment.back_translation is not None:
        copies -= 1
        seconds += AUGMENT_SECONDS["models" if augment.back_translation.models else "apertium"] * rows
    if augment.synonyms is not None:
        source = augment.synonyms.source
        seconds += AUGMENT_SECONDS["embeddings" if source == "auto" else source] * rows * copies
    return seconds

"""First estimates of a job's memory, disk and minutes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field

from compression.planning import preparation
from compression.planning.teacher_cost import Lessons
from compression.planning.token_estimates import CHARACTERS_A_TOKEN, TOKENS_A_WORD, Tokens, of_row, packed
from compression.schema.config import Config
from compression.schema.recipe.augment import Augment
from compression.schema.recipe.base import Split
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Train
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, QUANTIZED
from compression.schema.tasks import TASKS
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
"""Freed blocks that the C library keeps (system/process.py), and weights as they are copied at the end of an epoch."""
INT8_OVERHEAD = 1.05
"""An artifact's bytes by those of its integers: scales, biases and the graph lie beside them."""
ARTIFACT_EXTRAS = 2_000_000
"""Tokenizer, configs and card of an artifact."""
TRAINING_FLOPS = 1.4e11
"""Useful floating-point operations a second in training, two cores with AVX-512 together (`standard` on MiniLM-L6, calm
machine: 2.1e11 in full precision, 1.3e11 fake-quantized)."""
RELATIONS_FLOATS = 8
"""Tensors as large as one layer's attention over a row that are held if a language model's is compared (by count)."""
HARNESS_BYTES = 1 << 30
"""What logits and their logarithms may take while lm-eval runs a language model; a single request may take more."""
LOGITS_BYTES = 400_000_000
"""What a loss over a vocabulary holds for a moment, in chunks (compression/modalities/text/causal_lm/chunked_head.py)."""
SHIP_MINUTES = 0.2
"""Exporting, verifying and timing an artifact (same run); the score's time comes on top."""
SCORED_ROWS_A_SECOND = 100.0
"""Rows a second when the test split is answered, one at a time and again by 32, on one thread: no model answers more."""
ENCODER_FLOPS = 1.4e11
"""Useful floating-point operations a second of one thread that answers with an encoder (MiniLM-L6 reads 128 tokens in 14.8 ms
alone: 1.9e11); what pads the shorter rows of 32 takes its share. Decoders are estimated from what one core does in training."""
MEASURE_SECONDS = 3000.0
"""Measuring an artifact ends after this; figures that are missing then are reported as not measured."""
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


@dataclass(frozen=True)
class CostItem:
    """What one part of a job takes; a job takes the sum of its parts."""

    stage: str
    memory: int = 0  #: bytes, when the process holds most
    disk: int = 0  #: bytes
    steps: float = 0.0  #: of the optimizer
    flops: float = 0.0  #: of training, which the recipe's limits may end
    minutes: float = 0.0  #: of all else


@dataclass(frozen=True)
class PlannedJob:
    """A job, as its cost follows from it."""

    model: Counted
    result: Counted  #: what becomes of the model, or of a student
    data: DataFacts
    recipe: Recipe
    evaluate: JobEvaluate
    named: Sequence[Counted] = ()  #: the teachers that the job names

    @cached_property
    def is_language(self) -> bool:
        """Return whether answers are next tokens."""
        return TASKS[self.data.task].generates

    @cached_property
    def texts(self) -> DataFacts:
        """Return the data, of a language model as packed rows."""
        return packed(self.data, self.recipe) if self.is_language else self.data

    @cached_property
    def tokens(self) -> Tokens:
        """Return the tokens of train."""
        return Tokens.of(self.texts, self.recipe)

    @cached_property
    def guide(self) -> Counted:
        """Return the teacher that shows its insides. Of named ones alone validation chooses: here it is the dearest."""
        return self.model if self.originals else max(self.named, key=lambda each: each.active, default=self.model)

    @cached_property
    def objectives(self) -> Lessons:
        """Return what is asked of teachers."""
        shapes = (each.shape for each in (self.model, self.guide, self.result))
        return Lessons.of(self.recipe, self.tokens, *shapes, language=self.is_language)

    @property
    def originals(self) -> int:
        """Return how many originals are tuned: the baseline, and teachers beside it; 0 if named ones teach alone."""
        return self.recipe.distill.teachers.seeds if self.recipe.distill else 1

    def forward(self, *models: Counted) -> float:
        """Return the operations of a pass over train: 2 a parameter and token. Training takes three times as many."""
        return 2 * sum(each.active for each in models) * self.tokens.train

    def steps(self, rows: int | None = None) -> int:
        """Return the optimizer steps of an epoch. rows: of train, if it is no other number."""
        return preparation.steps_an_epoch(self.texts.rows["train"] if rows is None else rows, self.recipe.train)

    @cached_property
    def items(self) -> list[CostItem]:
        """Return what the parts of the job take, in the order of its stages."""
        return [each for part in PARTS for each in part(self)]


def planned_steps(job: PlannedJob) -> int:
    """Count the optimizer steps that a recipe asks for, before any limit or early end."""
    return round(sum(item.steps for item in job.items))


def estimate(job: PlannedJob) -> Estimate:
    """Add up what the parts of a job take."""
    train, planned = job.recipe.train, planned_steps(job)
    flops = sum(item.flops for item in job.items) * min(1.0, (train.max_steps or planned) / max(planned, 1))
    training = min(flops / TRAINING_FLOPS / 60, train.max_minutes or float("inf"))
    return Estimate(
        memory_bytes=round(sum(item.memory for item in job.items) * KEPT_FREED),
        disk_bytes=sum(item.disk for item in job.items),
        minutes=round(training + sum(item.minutes for item in job.items), 1),
    )


def _process(job: PlannedJob) -> Iterator[CostItem]:
    """Count what training holds in memory at once, and what it saves."""
    model, train, distill = job.model, job.recipe.train, job.recipe.distill
    before, after = model.parameters, job.result.parameters
    longest = min(train.max_length, round(job.texts.longest_words * TOKENS_A_WORD) + 2)
    yield CostItem("process", memory=PROCESS_BYTES)
    yield CostItem("model", memory=model_bytes(before, after, job.recipe, model.spoken))
    yield CostItem(
        "training", memory=step_bytes(model.shape, train, longest), disk=SAVED_BYTES * max(before.total, after.total)
    )
    if job.is_language:
        yield CostItem("logits", memory=LOGITS_BYTES)
        if distill is not None and "attention" in distill.weights():
            yield CostItem("relations", memory=RELATIONS_FLOATS * 4 * model.shape.heads * longest**2)
    # Originals beside the baseline have a checkpoint each, and lie twice in a save.
    more = HELD_BYTES * max(job.originals - 1, 0) * before.total
    yield CostItem("teachers", memory=more + HELD_BYTES * sum(each.parameters.total for each in job.named), disk=3 * more)
    yield CostItem("teachers", memory=job.objectives.bytes_in("memory"), disk=job.objectives.bytes_in("disk"))


# What a stage leaves on disk is its checkpoint and its artifact. Calibration, sensitivities and the check of ranges are forward
# passes over a few hundred rows: left out.


def _baseline(job: PlannedJob) -> Iterator[CostItem]:
    prepare, rows = job.recipe.prepare, job.texts.rows["train"]
    passes = preparation.passes(prepare, rows, job.recipe.train, job.originals)
    flops = (3 * passes + preparation.read_once(prepare, rows)) * job.forward(job.model)
    yield CostItem(BASELINE, disk=2 * HELD_BYTES * job.model.parameters.total, steps=passes * job.steps(), flops=flops)


def _quantized(job: PlannedJob) -> Iterator[CostItem]:
    quantize, parameters = job.recipe.quantize, job.model.parameters
    if quantize is not None:
        yield CostItem(QUANTIZED, disk=HELD_BYTES * parameters.total + artifact_bytes(parameters, quantize))
        epochs = quantize.qat.epochs if quantize.qat else 0
        yield CostItem(QUANTIZED, steps=epochs * job.steps(), flops=3 * job.forward(job.model) * epochs)


def _pruned(job: PlannedJob) -> Iterator[CostItem]:
    prune, recipe, parameters = job.recipe.prune, job.recipe, job.result.parameters
    if prune is None:
        return
    yield CostItem(PRUNED, disk=HELD_BYTES * parameters.total + artifact_bytes(parameters, recipe.quantize))
    if prune.recovery:
        epochs, asked = prune.recovery.epochs, job.objectives.recovery.passes if job.objectives.recovery else 0
        flops = 3 * job.forward(job.result) * epochs + job.forward(job.model) * asked
        yield CostItem(PRUNED, steps=epochs * job.steps(), flops=flops)
    if recipe.recovers_by_teacher and may_hold(recipe):  # the teacher's float weights, while it is rounded
        yield CostItem(PRUNED, disk=HELD_BYTES * job.model.parameters.total)
    if prune.sensitivity:
        curves = CURVE_ROWS * len(CURVE_RATIOS) * 3 / max(job.texts.rows["train"], 1)
        yield CostItem(PRUNED, flops=job.forward(job.model) * curves)


def _distilled(job: PlannedJob) -> Iterator[CostItem]:
    distill, recipe, parameters = job.recipe.distill, job.recipe, job.result.parameters
    if distill is None:
        return
    teacher, training, objectives = job.forward(job.model), 3 * job.forward(job.result), job.objectives
    yield CostItem(DISTILLED, disk=HELD_BYTES * parameters.total + artifact_bytes(parameters, recipe.quantize))
    # Each teacher is asked once, the one that shows its insides maybe in each epoch.
    asked = teacher * job.originals + job.forward(*job.named)
    asked += job.forward(job.guide) * (objectives.task.passes - 1) if objectives.task else 0
    taught, rows = job.tokens.taught / job.tokens.train, job.texts.rows["train"]
    steps = distill.epochs * job.steps(rows * (1 + (distill.augment.rows if distill.augment else 0)))
    yield CostItem(DISTILLED, steps=steps, flops=taught * (training * distill.epochs + asked))
    if distill.kept is not None and job.is_language:
        an_id = 2 if job.model.shape.vocabulary <= 1 << 16 else 4
        yield CostItem(DISTILLED, disk=round(job.tokens.taught * (2 * (distill.kept + 1) + an_id * distill.kept)))
    if distill.general and objectives.general:
        flops = job.tokens.plain / job.tokens.train * (training * distill.general.epochs + teacher * objectives.general.passes)
        steps = distill.general.epochs * job.steps(job.texts.rows.get("unlabelled"))
        yield CostItem(DISTILLED, steps=steps, flops=flops)
    if distill.augment:
        yield CostItem(DISTILLED, minutes=augment_seconds(distill.augment, rows) / 60)


def _exported(job: PlannedJob) -> Iterator[CostItem]:
    shipped, prune = artifacts(job.model, job.result, job.recipe, language=job.is_language), job.recipe.prune
    minutes = sum(SHIP_MINUTES + scoring_seconds(each, job.data, job.recipe.train, job.evaluate) / 60 for each in shipped)
    # The headline as transformers artifacts, and its float32 weights in passing; a language model's cut beside it.
    floats = 2 * job.model.parameters.total + job.result.parameters.total * job.is_language
    yield CostItem("export", disk=HELD_BYTES * floats + ARTIFACT_EXTRAS * len(shipped), minutes=minutes)
    if prune is not None and prune.target_latency is not None:
        yield CostItem("export", minutes=PROBES * SHIP_MINUTES)


PARTS = (_process, _baseline, _quantized, _pruned, _distilled, _exported)


def artifacts(model: Counted, result: Counted, recipe: Recipe, *, language: bool) -> list[Counted]:
    """List what a job's artifacts are made of, at most: one a row, and the headline again in the form of its own library.

    A language model's has two such forms; and so has the cut model, if an earlier stage is the headline.
    """
    smaller = recipe.prune is not None or result.parameters.total < model.parameters.total
    whole = 1 + (recipe.quantize is not None) + (2 if language else 1)
    return [model] * whole + [result] * ((recipe.prune is not None) + (recipe.distill is not None) + 2 * (language and smaller))


def scoring_seconds(model: Counted, data: DataFacts, train: Train, evaluate: JobEvaluate) -> float:
    """Estimate how long one artifact's scores take, on validation and on test.

    Each token is read twice: of a row alone and among 32, of a language model's text in windows that go on by half.
    """
    if TASKS[data.task].generates:
        characters = [data.characters.get(split, share * data.characters["train"]) for split, share in DEFAULT_SHARES.items()]
        asked = sum(min(each / CHARACTERS_A_TOKEN, evaluate.tokens) for each in characters)
        return 2 * 2 * model.active * asked / (TRAINING_FLOPS / 2) / evaluate.threads
    rows = sum(data.rows.get(split, round(share * data.rows["train"])) for split, share in DEFAULT_SHARES.items())
    flops = TRAINING_FLOPS / 2 if model.shape.groups is not None else ENCODER_FLOPS
    return rows * max(2 * 2 * model.active * of_row(data, train) / flops, 1 / SCORED_ROWS_A_SECOND) / evaluate.threads


def model_bytes(before: Parameters, after: Parameters, recipe: Recipe, spoken: int = 0) -> int:
    """Return the bytes that the model, its training and its teacher take together.

    A teacher that may be held in 8 bits saves memory only if nothing larger is trained beside it in float32 before; it is held
    so in the task phase of distillation and if recovery learns its answers. spoken: what stays in float32 beside its
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
    """Return whether a teacher is held in 8 bits, or may be if memory is short."""
    return recipe.has_teacher and (recipe.distill or Distill()).teachers.precision != "float32"


def step_bytes(shape: Shape, train: Train, longest: int) -> int:
    """Return the bytes that a step keeps for its backward pass. longest: tokens of the longest row."""
    token_floats = shape.layers * (TOKEN_FLOATS_HIDDEN * shape.hidden + TOKEN_FLOATS_FFN * units_a_token(shape))
    if train.recompute:  # what enters each layer is kept, and one layer's insides
        token_floats = shape.layers * shape.hidden + token_floats // shape.layers
    return 4 * token_floats * train.batch * longest


def units_a_token(shape: Shape) -> int:
    """Count the feed-forward units that a token goes through in a layer: of experts, those it is sent to and the shared."""
    experts = shape.experts
    return shape.ffn if experts is None else max(shape.ffn, experts.chosen * experts.ffn + experts.shared)


def artifact_bytes(parameters: Parameters, quantize: Quantize | None) -> int:
    """Return the bytes of an ONNX artifact's weights by their scheme. Tables are int8 in all of them."""
    if quantize is None:
        return HELD_BYTES * parameters.total
    if quantize.scheme != "weight-only-int4":
        return round(INT8_OVERHEAD * parameters.total)
    # Half a byte each, and a float32 scale a group.
    return round(INT8_OVERHEAD * (parameters.embedding + (0.5 + 4 / quantize.group_size) * parameters.other))


def augment_seconds(augment: Augment, rows: int) -> float:
    """Estimate the seconds of making the new rows, if the worker has the dearer of what the recipe leaves to it."""
    seconds, copies = 0.0, augment.rows - augment.splices
    if augment.back_translation is not None:
        copies -= 1
        seconds += AUGMENT_SECONDS["models" if augment.back_translation.models else "apertium"] * rows
    if augment.synonyms is not None:
        source = augment.synonyms.source
        seconds += AUGMENT_SECONDS["embeddings" if source == "auto" else source] * rows * copies
    return seconds

"""Rough estimates of a job's memory, disk and minutes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field

from compression.models.architectures.network_shapes import multiply_adds
from compression.planning import formats, preparation
from compression.planning.augmentation_cost import augment_seconds
from compression.planning.card_memory import card_memory
from compression.planning.memory import HELD_BYTES, KEPT_FREED, PROCESS_BYTES, largest_part, may_hold, teachers_bytes
from compression.planning.network_rules import pixel_bytes
from compression.planning.teacher_cost import TeacherCosts
from compression.planning.token_estimates import CHARACTERS_A_TOKEN, TOKENS_A_WORD, Tokens, of_row, packed
from compression.schema.artifact_formats import BUILT_IN, further_formats
from compression.schema.config import Config
from compression.schema.recipe.base import Split
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Train
from compression.schema.report.measurements import Parameters, Shape
from compression.schema.report.network import NetworkFacts
from compression.schema.schemes import SCHEMES
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, QUANTIZED, STAGE_SPECS, wanted
from compression.schema.tasks import TASKS
from compression.schema.validation import DataFacts

SAVED_BYTES = 2 * 20
"""Bytes per parameter of a training checkpoint: weight, AdamW's two moments, the weights of the last good and of the best
epoch. Twice, since the old checkpoint is removed only once the next is written."""
LARGEST_GRAPH = 2**31
"""Maximum bytes of an ONNX file in one piece (a protobuf message); the float32 baseline must fit."""
INT8_OVERHEAD = 1.05
"""An artifact's bytes divided by those of its integers: scales, biases and the graph are stored beside them."""
ARTIFACT_EXTRAS = 2_000_000
"""Bytes of an artifact's tokenizer, configs and card."""
TRAINING_FLOPS = 1.4e11
"""Useful floating-point operations per second in training, two cores with AVX-512 together (`standard` on MiniLM-L6, idle
machine: 2.1e11 in full precision, 1.3e11 fake-quantized)."""
SHIP_MINUTES = 0.2
"""Minutes to export, verify and time an artifact (same run); scoring is added to it."""
SCORED_ROWS_A_SECOND = 100.0
"""Rows per second when the test split is predicted, one at a time and again by 32, on one thread: no model is faster."""
ENCODER_FLOPS = 1.4e11
"""Useful floating-point operations per second of one thread that runs an encoder (MiniLM-L6 reads 128 tokens in 14.8 ms alone:
1.9e11), less the padding in batches of 32. Decoders are estimated from one core's speed in training."""
MEASURE_SECONDS = 3000.0
"""Seconds after which measuring an artifact ends; missing figures are then reported as not measured."""
CURVE_RATIOS, CURVE_ROWS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 256
"""Ratios that a sensitivity curve tries on each of three axes (heads go with hidden), and the validation rows that score it."""
PROBES = 6
"""Shapes that are exported and timed for a target latency: each halves some 60 candidates."""
DEFAULT_SHARES: dict[Split, float] = {"validation": 0.1, "test": 0.2}
"""The splits that artifacts are scored on, each as a share of train if it is not given."""


class Estimate(Config):
    """Rough cost of a job. Minutes are those of two cores."""

    memory_bytes: Annotated[int, Field(description="Resident peak of the training process, if it trains on the CPU.")]
    card_bytes: Annotated[int, Field(description="Peak of the card's memory, if it trains on one; 0 if nothing runs on it.")]
    host_bytes_with_card: Annotated[int, Field(description="Resident peak of the training process beside a card.")]
    disk_bytes: Annotated[int, Field(description="Checkpoints and artifacts at the job's end, and what it writes in passing.")]
    minutes: float


@dataclass(frozen=True)
class Counted:
    """The parameters of a model, including its head for the data's task."""

    shape: Shape
    parameters: Parameters
    tied: bool = False  #: whether its token table is also its output layer
    spoken: int = 0  #: elements of a language model's output layer that is not a table
    network: NetworkFacts | None = None  #: of a network of images, uncut

    @cached_property
    def multiply_adds(self) -> int | None:
        """Return the multiply-adds of one image; None if the model is no network of images."""
        return None if self.network is None else multiply_adds(self.network, self.shape)

    @property
    def active(self) -> int:
        """Count the parameters in a token's products: no table, and of experts only the chosen; a network's multiply-adds."""
        if self.multiply_adds is not None:
            return self.multiply_adds
        experts, found = self.shape.experts, self.parameters.other + self.parameters.embedding * self.tied
        if experts is None:
            return found
        left_out = (self.shape.layers - experts.dense_layers) * (experts.count - experts.chosen)
        return found - left_out * 3 * self.shape.hidden * experts.ffn


@dataclass(frozen=True)
class CostItem:
    """The cost of one part of a job; a job costs the sum of its parts."""

    stage: str
    memory: int = 0  #: bytes at the process's peak
    disk: int = 0  #: bytes
    steps: float = 0.0  #: optimizer steps
    flops: float = 0.0  #: of training; the recipe's limits may end it
    minutes: float = 0.0  #: of everything else


@dataclass(frozen=True)
class PlannedJob:
    """A job, with all that its cost depends on."""

    model: Counted
    result: Counted  #: the compressed model, or the student
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
        """Return the data; a language model's as packed rows."""
        return packed(self.data, self.recipe) if self.is_language else self.data

    @cached_property
    def tokens(self) -> Tokens:
        """Return the tokens of train."""
        return Tokens.of(self.texts, self.recipe)

    @cached_property
    def guide(self) -> Counted:
        """Return the teacher whose features are compared; of named teachers only, the most expensive one."""
        return self.model if self.originals else max(self.named, key=lambda each: each.active, default=self.model)

    @cached_property
    def objectives(self) -> TeacherCosts:
        """Return the trainings that need teacher outputs."""
        shapes = (each.shape for each in (self.model, self.guide, self.result))
        maps = self.guide.network is not None
        return TeacherCosts.of(self.recipe, self.tokens, *shapes, language=self.is_language, maps=maps)

    @property
    def originals(self) -> int:
        """Return how many originals are fine-tuned, the baseline among them; 0 if the job has only named teachers."""
        return self.recipe.distill.teachers.seeds if self.recipe.distill else 1

    @property
    def longest(self) -> int:
        """Return the tokens of the longest row; 1 if rows are no sequences."""
        longest = min(self.recipe.train.max_length, round(self.texts.longest_words * TOKENS_A_WORD) + 2)
        return longest if TASKS[self.data.task].sequences else 1

    def forward(self, *models: Counted) -> float:
        """Return the operations of a pass over train: 2 per parameter and token. Training takes 3 times that."""
        return 2 * sum(each.active for each in models) * self.tokens.train

    def steps(self, rows: int | None = None) -> int:
        """Return the optimizer steps of an epoch. rows: of train, if the number differs."""
        return preparation.steps_an_epoch(self.texts.rows["train"] if rows is None else rows, self.recipe.train)

    @cached_property
    def items(self) -> list[CostItem]:
        """Return the costs of the job's parts, in the order of its stages."""
        return [each for part in PARTS for each in part(self)]


def planned_steps(job: PlannedJob) -> int:
    """Return the optimizer steps that a recipe asks for, before any limit or early stop."""
    return round(sum(item.steps for item in job.items))


def estimate(job: PlannedJob) -> Estimate:
    """Return the sum of the costs of a job's parts."""
    train, planned = job.recipe.train, planned_steps(job)
    flops = sum(item.flops for item in job.items) * min(1.0, (train.max_steps or planned) / max(planned, 1))
    training = min(flops / TRAINING_FLOPS / 60, train.max_minutes or float("inf"))
    card, host = card_memory(job)
    return Estimate(
        memory_bytes=round(sum(item.memory for item in job.items) * KEPT_FREED),
        card_bytes=card,
        host_bytes_with_card=host,
        disk_bytes=sum(item.disk for item in job.items),
        minutes=round(training + sum(item.minutes for item in job.items), 1),
    )


def _process(job: PlannedJob) -> Iterator[CostItem]:
    """Yield the memory that the job needs at once, and the disk of its checkpoints."""
    model, before, after = job.model, job.model.parameters, job.result.parameters
    yield CostItem("process", memory=PROCESS_BYTES)
    yield CostItem("training", memory=largest_part(job), disk=SAVED_BYTES * max(before.total, after.total))
    if model.network is not None:
        kept, written = pixel_bytes(model.network, job.data.rows)
        yield CostItem("pixels", memory=kept, disk=written)
    # Each original beside the baseline has a checkpoint, and is twice in a training checkpoint.
    more = HELD_BYTES * max(job.originals - 1, 0) * before.total
    yield CostItem("teachers", memory=teachers_bytes(job), disk=3 * more + job.objectives.bytes_in("disk"))


# A stage leaves its checkpoint and its artifact on disk. Calibration, sensitivities and the check of ranges are forward
# passes over a few hundred rows: they are left out.


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
        epochs, passes = prune.recovery.epochs, job.objectives.recovery.passes if job.objectives.recovery else 0
        flops = 3 * job.forward(job.result) * epochs + job.forward(job.model) * passes
        yield CostItem(PRUNED, steps=epochs * job.steps(), flops=flops)
    if recipe.recovers_by_teacher and may_hold(recipe):  # the teacher's float weights while they are quantized
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
    # Each teacher runs once; the one whose features are compared may run in each epoch, and all do if rows vary.
    outputs = (teacher * job.originals + job.forward(*job.named)) * (distill.epochs if recipe.train.varies else 1)
    if objectives.task and not recipe.train.varies:
        outputs += job.forward(job.guide) * (objectives.task.passes - 1)
    taught, rows = job.tokens.taught / job.tokens.train, job.texts.rows["train"]
    steps = distill.epochs * job.steps(rows * (1 + (distill.augment.rows if distill.augment else 0)))
    yield CostItem(DISTILLED, steps=steps, flops=taught * (training * distill.epochs + outputs))
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
    # The headline as transformers artifacts, and its temporary float32 weights; also a language model's pruned model.
    floats = 2 * job.model.parameters.total + job.result.parameters.total * job.is_language
    read = job.forward(job.result) * formats.ranging_passes(job.recipe, job.texts.rows["train"])
    yield CostItem("export", disk=HELD_BYTES * floats + ARTIFACT_EXTRAS * len(shipped), flops=read, minutes=minutes)
    if prune is not None and prune.target_latency is not None:
        yield CostItem("export", minutes=PROBES * SHIP_MINUTES)
    if prune is not None and "layers" in prune.axes and job.model.network is not None:  # each kind of block is timed
        yield CostItem("export", minutes=job.model.network.block_kinds * SHIP_MINUTES)


def _installed(job: PlannedJob) -> Iterator[CostItem]:
    """Yield the disk of installed packages' stages; how long they train is unknown."""
    for stage in added_stages(job.recipe):
        parameters = job.result.parameters
        yield CostItem(stage, disk=HELD_BYTES * parameters.total + artifact_bytes(parameters, job.recipe.quantize))


PARTS = (_process, _baseline, _quantized, _pruned, _distilled, _installed, _exported)


def added_stages(recipe: Recipe) -> list[str]:
    """Return a recipe's stages that installed packages add."""
    return [stage for stage in wanted(dict(recipe)) if STAGE_SPECS[stage].settings is not None]


def artifacts(model: Counted, result: Counted, recipe: Recipe, *, language: bool) -> list[Counted]:
    """Return the models of a job's artifacts, at most: one per row, and the headline again in each further format.

    A language model's headline has two forms of its own library; so has the pruned model, if an earlier stage is the headline.
    """
    further = further_formats(recipe.artifacts).values()
    libraries = sum(one in BUILT_IN and one.by_default for one in further)
    own = (libraries > 0) * (2 if language else 1)  # a model came from one library
    smaller = language and (recipe.prune is not None or result.parameters.total < model.parameters.total)
    rows = (recipe.prune is not None) + (recipe.distill is not None) + len(added_stages(recipe))
    others = len(further) - libraries
    return [model] * (1 + (recipe.quantize is not None) + own) + [result] * (rows + smaller * own + (1 + smaller) * others)


def scoring_seconds(model: Counted, data: DataFacts, train: Train, evaluate: JobEvaluate) -> float:
    """Estimate the seconds of scoring one artifact, on validation and on test.

    Each token is read twice: in a row alone and in a batch of 32; in a language model's text, in windows that advance by half.
    """
    if TASKS[data.task].generates:
        characters = [data.characters.get(split, share * data.characters["train"]) for split, share in DEFAULT_SHARES.items()]
        tokens = sum(min(each / CHARACTERS_A_TOKEN, evaluate.tokens) for each in characters)
        return 2 * 2 * model.active * tokens / (TRAINING_FLOPS / 2) / evaluate.threads
    rows = sum(data.rows.get(split, round(share * data.rows["train"])) for split, share in DEFAULT_SHARES.items())
    flops = TRAINING_FLOPS / 2 if model.shape.groups is not None else ENCODER_FLOPS
    return rows * max(2 * 2 * model.active * of_row(data, train) / flops, 1 / SCORED_ROWS_A_SECOND) / evaluate.threads


def artifact_bytes(parameters: Parameters, quantize: Quantize | None) -> int:
    """Return the bytes of an ONNX artifact's weights by scheme. Tables are int8 in all schemes."""
    if quantize is None:
        return HELD_BYTES * parameters.total
    if not SCHEMES[quantize.assumed].grouped:
        return round(INT8_OVERHEAD * parameters.total)
    # Half a byte each, and one float32 scale per group.
    return round(INT8_OVERHEAD * (parameters.embedding + (0.5 + 4 / quantize.group_size) * parameters.other))

"""Rough estimates of a job's memory, disk and minutes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from compression.planning import formats, preparation, sensitivity, table_work
from compression.planning.artifact_work import SHIP_SECONDS, artifacts, scored, split_rows
from compression.planning.augmentation_cost import augment_seconds
from compression.planning.card_memory import card_memory
from compression.planning.counted import Counted
from compression.planning.cpu_memory import largest_part
from compression.planning.memory import HELD_BYTES, KEPT_FREED, PROCESS_BYTES, may_hold, saved_bytes, sent_bytes, teachers_bytes
from compression.planning.network_rules import pixel_bytes
from compression.planning.point_work import point_factors, resized
from compression.planning.rates import REFERENCE
from compression.planning.size_plan import ShortTraining, judgings
from compression.planning.teacher_cost import TeacherCosts
from compression.planning.token_estimates import TOKENS_A_WORD, Tokens, packed
from compression.planning.training_work import training_work
from compression.planning.work import EXPORT, TimeLimits, Work, time_work
from compression.schema.config import Config
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import JobEvaluate, Recipe
from compression.schema.report.measurements import Parameters
from compression.schema.schemes import SCHEMES
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, QUANTIZED, STAGE_SPECS, wanted
from compression.schema.tasks import JUDGED, TASKS
from compression.schema.validation import DataFacts

LARGEST_GRAPH = 2**31
"""Maximum bytes of an ONNX file in one piece (a protobuf message); the float32 baseline must fit."""
INT8_OVERHEAD = 1.05
"""An artifact's bytes divided by those of its integers: scales, biases and the graph are stored beside them."""
ARTIFACT_EXTRAS = 2_000_000
"""Bytes of an artifact's tokenizer, configs and card."""
STEP_BYTES = 28
"""Bytes per parameter that an optimizer step reads and writes: weight, gradient and AdamW's two moments, all but the gradient
twice, in float32."""
PROBES = 6
"""Shapes that are exported and timed for a target latency: each halves some 60 candidates."""


class Estimate(Config):
    """Rough cost of a job. Minutes are those of a machine: two cores, or the best live worker that could take the job."""

    memory_bytes: Annotated[int, Field(description="Resident peak of the training process, if it trains on the CPU.")]
    card_bytes: Annotated[int, Field(description="Peak of the card's memory, if it trains on one; 0 if nothing runs on it.")]
    host_bytes_with_card: Annotated[int, Field(description="Resident peak of the training process beside a card.")]
    disk_bytes: Annotated[int, Field(description="Checkpoints and artifacts at the job's end, and what it writes in passing.")]
    minutes: float
    training_minutes: Annotated[float, Field(description="Of these, all training.")] = 0.0
    machine: Annotated[str | None, Field(description="Name of the worker's card or processor; null: two cores.")] = None
    jobs: Annotated[int, Field(description="Finished jobs of the same kind there that corrected the minutes.")] = 0
    minutes_low: Annotated[float | None, Field(description="The least of what these jobs' spread suggests; null: too few.")] = (
        None
    )
    minutes_high: Annotated[float | None, Field(description="The most.")] = None
    work: Annotated[tuple[Work, ...], Field(exclude=True, repr=False)] = ()
    """By stage, what the minutes follow from on any machine."""


@dataclass(frozen=True)
class CostItem:
    """The cost of one part of a job; a job costs the sum of its parts."""

    stage: str
    memory: int = 0  #: bytes at the process's peak
    disk: int = 0  #: bytes
    work: Work | None = None  #: its time on any machine; the recipe's limits may end its training


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

    @property
    def others(self) -> list[Counted]:
        """Return the teachers beside the guide."""
        every = [*[self.model] * self.originals, *self.named]
        if self.guide in every:
            every.remove(self.guide)
        return every

    @cached_property
    def objectives(self) -> TeacherCosts:
        """Return the trainings that need teacher outputs."""
        shapes = (each.shape for each in (self.model, self.guide, self.result))
        maps = self.guide.network is not None
        beside = sum(each.shape.hidden for each in self.others)
        return TeacherCosts.of(self.recipe, self.tokens, *shapes, language=self.is_language, maps=maps, beside=beside)

    @property
    def originals(self) -> int:
        """Return how many originals are fine-tuned, the baseline among them; 0 if the job has only named teachers."""
        return self.recipe.distill.teachers.seeds if self.recipe.distill else 1

    @property
    def longest(self) -> int:
        """Return the tokens of the longest row; 1 if rows are no sequences."""
        longest = min(self.recipe.train.max_length, round(self.texts.longest_words * TOKENS_A_WORD) + 2)
        return longest if TASKS[self.data.task].sequences else 1

    @property
    def largest(self) -> "PlannedJob":
        """Return the job as if it ships the largest model that it may train: searches and several sizes have mild cuts, too."""
        several = self.recipe.auto is not None or len(self.sizes) > 1
        return replace(self, result=self.model) if several else self

    @property
    def sizes(self) -> dict[str, float]:
        """Return the stages that distill a size each, and how many times as much work it is as the result."""
        return dict(point_factors(self.recipe.prune, self.model.active, self.result.active))

    @property
    def best_bytes(self) -> int:
        """Return the bytes of the best size so far, which a search for a size keeps while it trains another one."""
        return HELD_BYTES * self.result.parameters.total if self.recipe.auto is not None else 0

    def forward(self, *models: Counted) -> float:
        """Return the operations of a pass over train: 2 per parameter and token. Training takes 3 times that."""
        return 2 * sum(each.active for each in models) * self.tokens.train

    def steps(self, rows: int | None = None) -> int:
        """Return the optimizer steps of an epoch. rows: of train, if the number differs."""
        return preparation.steps_an_epoch(self.texts.rows["train"] if rows is None else rows, self.recipe.train)

    def validated(self, model: Counted, times: float) -> float:
        """Return the operations of reading validation so often; of a language model's, as many tokens as choose its epoch."""
        rows: float = split_rows(self.texts, "validation")
        if self.is_language:
            rows = min(rows, JUDGED / self.recipe.train.max_length)
        return self.forward(model) * times * rows / max(self.texts.rows["train"], 1)

    def trained(
        self,
        stage: str,
        model: Counted,
        epochs: float,
        steps: float,
        *,
        rows: float = 1.0,
        asked: float = 0.0,
        read: float = 0.0,
        judged: float | None = None,
    ) -> Work:
        """Return the work of a training. steps: of all epochs; rows: of one, in multiples of train; asked: teachers' FLOPs;
        read: FLOPs of other passes; judged: how often validation is read, by default after each epoch.
        """
        flops, is_network = 3 * self.forward(model) * epochs * rows, self.model.network is not None
        read += self.validated(model, epochs if judged is None else judged)
        found = training_work(stage, self.recipe, flops, asked=asked, read=read, is_network=is_network)
        moved = STEP_BYTES * model.parameters.total * steps
        return found.model_copy(update={"steps": steps, "step_bytes": moved, "devices": self.recipe.train.devices})

    @cached_property
    def items(self) -> list[CostItem]:
        """Return the costs of the job's parts, in the order of its stages."""
        return [each for part in PARTS for each in part(self)]

    @cached_property
    def work(self) -> tuple[Work, ...]:
        """Return the work of all parts, within the recipe's limit of steps."""
        planned, most = planned_steps(self), self.recipe.train.max_steps
        share = min(1.0, most / planned) if most is not None and planned else 1.0
        return tuple(item.work.limited(share) for item in self.items if item.work is not None)


def planned_steps(job: PlannedJob) -> int:
    """Return the optimizer steps that a recipe asks for, before any limit or early stop."""
    return round(sum(item.work.steps for item in job.items if item.work is not None))


def estimate(job: PlannedJob) -> Estimate:
    """Return the sum of the costs of a job's parts, with the minutes of two cores."""
    found, largest = time_work(job.work, REFERENCE, limits=TimeLimits.of_recipe(job.recipe)), job.largest
    card, host = card_memory(largest)
    return Estimate(
        memory_bytes=round(sum(item.memory for item in largest.items) * KEPT_FREED),
        card_bytes=card,
        host_bytes_with_card=host,
        disk_bytes=sum(item.disk for item in largest.items),
        minutes=round(found.total / 60, 1),
        training_minutes=round(found.training / 60, 1),
        work=job.work,
    )


def _process(job: PlannedJob) -> Iterator[CostItem]:
    """Yield the memory that the job needs at once, and the disk of its checkpoints."""
    model, before, after = job.model, job.model.parameters, job.result.parameters
    yield CostItem("process", memory=PROCESS_BYTES)
    saved = saved_bytes(job.recipe.train.optimizer, max(before.total, after.total)) + job.best_bytes
    disk = 2 * saved + sent_bytes(job)  # the old one is removed once the next is written
    yield CostItem("training", memory=largest_part(job), disk=disk)
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
    probe = preparation.read_once(prepare, rows) * job.forward(job.model)
    judged = preparation.judged(prepare, rows, job.recipe.train, job.originals)
    work = job.trained(BASELINE, job.model, passes, passes * job.steps(), read=probe, judged=judged)
    epochs = preparation.expected(prepare, job.steps()) if work.steps else 0
    work = work.model_copy(update={"epochs": epochs})
    yield CostItem(BASELINE, disk=2 * HELD_BYTES * job.model.parameters.total, work=work)


def _quantized(job: PlannedJob) -> Iterator[CostItem]:
    quantize, parameters = job.recipe.quantize, job.model.parameters
    if quantize is not None:
        yield CostItem(QUANTIZED, disk=HELD_BYTES * parameters.total + artifact_bytes(parameters, quantize))
        epochs = quantize.qat.epochs if quantize.qat else 0
        yield CostItem(QUANTIZED, work=job.trained(QUANTIZED, job.model, epochs, epochs * job.steps()))


def _pruned(job: PlannedJob) -> Iterator[CostItem]:
    prune, recipe, parameters = job.recipe.prune, job.recipe, job.result.parameters
    if prune is None:
        return
    yield CostItem(PRUNED, disk=HELD_BYTES * parameters.total + artifact_bytes(parameters, recipe.quantize))
    if prune.recovery:
        epochs, passes = prune.recovery.epochs, job.objectives.recovery.passes if job.objectives.recovery else 0
        asked = job.forward(job.model) * passes
        yield CostItem(PRUNED, work=job.trained(PRUNED, job.result, epochs, epochs * job.steps(), asked=asked))
    if recipe.recovers_by_teacher and may_hold(recipe):  # the teacher's float weights while they are quantized
        yield CostItem(PRUNED, disk=HELD_BYTES * job.model.parameters.total)
    if prune.search is not None:
        rows = job.texts.rows["train"]
        tokens = job.tokens.train / max(rows, 1)
        positions = table_work.calibrated_rows(prune, rows, tokens) * (
            tokens if job.model.network is None else table_work.MOST_POSITIONS
        )
        seen = table_work.calibration_share(prune, rows, tokens, job.model, recipe.auto)
        done = job.forward(job.model) * seen + table_work.table_flops(job.model, positions, recipe.auto)
        searched = table_work.search_seconds(prune) + table_work.solver_seconds(job.model, prune, recipe.auto)
        solved = Work(stage=PRUNED, float32_flops=done, seconds=searched)
        yield CostItem(PRUNED, disk=table_work.filed_bytes(job.model), work=solved)
        share, updated = table_work.update_share(prune, rows, tokens, job.model), table_work.update_flops(job.model, positions)
        for (_, before), (stage, _) in pairwise(job.sizes.items()):  # it is cut from the size before, and scored around the cut
            read = before * (job.forward(job.result) * share + job.validated(job.result, 2))
            yield CostItem(stage, work=Work(stage=stage, float32_flops=read + updated))
    if prune.finalists is not None:
        yield CostItem(PRUNED, work=_short(job, prune.finalists.cuts, prune.finalists.steps))
    if (auto := recipe.auto) is not None:
        fitted = {"fitted": True, "least": 1 / auto.rounds}
        yield CostItem(PRUNED, work=_short(job, auto.rounds, auto.steps).model_copy(update=fitted))
    if prune.sensitivity:
        curves = sensitivity.ROWS * len(sensitivity.RATIOS) * job.model.curves / max(job.texts.rows["train"], 1)
        yield CostItem(PRUNED, work=Work(stage=PRUNED, float32_flops=job.forward(job.model) * curves))


def _short(job: PlannedJob, count: int, steps: int) -> Work:
    """Return the work of so many short distillations, each of about so many steps."""
    rows, train = job.texts.rows["train"], job.recipe.train
    short = ShortTraining.of(steps, rows, train.batch * train.accumulate, all_rows=bool(job.named))
    asked = count * job.forward(job.model) * short.rows / max(rows, 1)
    passes, judged = count * short.steps / job.steps(), count * judgings(short.epochs, 0)
    return job.trained(PRUNED, job.result, passes, count * short.steps, asked=asked, judged=judged)


def _distilled(job: PlannedJob) -> Iterator[CostItem]:
    distill, recipe, parameters = job.recipe.distill, job.recipe, job.result.parameters
    if distill is None:
        return
    teacher, objectives, sizes = job.forward(job.model), job.objectives, job.sizes
    for stage, factor in sizes.items():
        yield CostItem(
            stage, disk=round(factor * (HELD_BYTES * parameters.total + artifact_bytes(parameters, recipe.quantize)))
        )
    if len(sizes) > 1 and may_hold(recipe):  # the guide's float weights while they are quantized, of one size at a time
        yield CostItem(DISTILLED, disk=HELD_BYTES * job.guide.parameters.total)
    # Each teacher runs once; the one whose features are compared may run in each epoch, and all do if rows vary.
    outputs = (teacher * job.originals + job.forward(*job.named)) * (distill.epochs if recipe.train.varies else 1)
    if objectives.task and not recipe.train.varies:
        # A language model's other teachers answer by their states too, which are kept or not as the guide's are.
        again = [job.guide, *(job.others if job.is_language and distill.kept is None else ())]
        outputs += job.forward(*again) * (objectives.task.passes - 1)
    taught, rows = job.tokens.taught / job.tokens.train, job.texts.rows["train"]
    steps = distill.epochs * job.steps(rows * (1 + (distill.augment.rows if distill.augment else 0)))
    for stage, factor in sizes.items():
        work = job.trained(stage, job.result, distill.epochs, steps, rows=taught, asked=taught * outputs)
        yield CostItem(stage, work=_fitted(resized(work, factor), recipe, distill.epochs))
        if distill.augment:
            yield CostItem(stage, work=Work(stage=stage, seconds=augment_seconds(distill.augment, rows)))
    if distill.kept is not None and job.is_language:
        an_id = 2 if job.model.shape.vocabulary <= 1 << 16 else 4
        yield CostItem(DISTILLED, disk=round(job.tokens.taught * (2 * (distill.kept + 1) + an_id * distill.kept)))
    if distill.general and objectives.general:
        plain, epochs = job.tokens.plain / job.tokens.train, distill.general.epochs
        steps, asked = epochs * job.steps(job.texts.rows.get("unlabelled")), plain * teacher * objectives.general.passes
        work = resized(job.trained(DISTILLED, job.result, epochs, steps, rows=plain, asked=asked), sizes[DISTILLED])
        yield CostItem(DISTILLED, work=_fitted(work, recipe, epochs))


def _fitted(work: Work, recipe: Recipe, epochs: int) -> Work:
    """Return the work of a full distillation, of which a search for a size does an epoch at least."""
    return work if recipe.auto is None else work.model_copy(update={"fitted": True, "least": 1 / max(epochs, 1)})


def _exported(job: PlannedJob) -> Iterator[CostItem]:
    shipped, prune = artifacts(job.model, job.result, job.recipe, language=job.is_language), job.recipe.prune
    settings = job.data, job.recipe.train, job.evaluate
    for stage, model, kind in shipped:
        work = scored(stage, model, *settings, seconds=SHIP_SECONDS, kind=kind)
        yield CostItem(stage, work=resized(work, job.sizes.get(DISTILLED if stage == PRUNED else stage, 1.0)))
    # The headline as transformers artifacts, and its temporary float32 weights; also a language model's pruned model.
    floats = 2 * job.model.parameters.total + job.result.parameters.total * job.is_language
    read = job.forward(job.result) * formats.ranging_passes(job.recipe, job.texts.rows["train"])
    disk = HELD_BYTES * floats + ARTIFACT_EXTRAS * len(shipped)
    yield CostItem(EXPORT, disk=disk, work=Work(stage=EXPORT, float32_flops=read))
    if prune is not None and prune.target_latency is not None:
        yield CostItem(PRUNED, work=Work(stage=PRUNED, seconds=PROBES * SHIP_SECONDS))
    timed = prune is not None and "layers" in prune.axes and prune.search is None
    if timed and job.model.network is not None:  # each kind of block is timed
        yield CostItem(PRUNED, work=Work(stage=PRUNED, seconds=job.model.network.block_kinds * SHIP_SECONDS))


def _installed(job: PlannedJob) -> Iterator[CostItem]:
    """Yield the disk of installed packages' stages; how long they train is unknown."""
    for stage in added_stages(job.recipe):
        parameters = job.result.parameters
        yield CostItem(stage, disk=HELD_BYTES * parameters.total + artifact_bytes(parameters, job.recipe.quantize))


PARTS = (_process, _baseline, _quantized, _pruned, _distilled, _installed, _exported)


def added_stages(recipe: Recipe) -> list[str]:
    """Return a recipe's stages that installed packages add."""
    return [stage for stage in wanted(dict(recipe)) if STAGE_SPECS[stage].settings is not None]


def artifact_bytes(parameters: Parameters, quantize: Quantize | None) -> int:
    """Return the bytes of an ONNX artifact's weights by scheme. Tables are int8 in all schemes."""
    return round(exact_bytes(parameters, quantize))


def exact_bytes(parameters: Parameters, quantize: Quantize | None) -> float:
    """Return these bytes as the sum of those of the artifact's parts."""
    if quantize is None:
        return HELD_BYTES * parameters.total
    if not SCHEMES[quantize.assumed].grouped:
        return INT8_OVERHEAD * parameters.total
    # Half a byte each, and one float32 scale per group.
    return INT8_OVERHEAD * (parameters.embedding + (0.5 + 4 / quantize.group_size) * parameters.other)

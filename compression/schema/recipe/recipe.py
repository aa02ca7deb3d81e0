"""The whole recipe with all stages, its targets, and how the result is measured."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue, TypeAdapter, ValidationError, WrapValidator, model_validator
from pydantic.fields import FieldInfo
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from compression.schema.artifact_formats import Kind
from compression.schema.config import Config
from compression.schema.errors import InvalidSpec
from compression.schema.recipe import auto as auto_rules, finalists as finalist_rules, mixed_bits as bits, points as point_rules
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.base import MOST_EPOCHS, MOST_PARTS, OptimizerName, Precision
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.views import Views
from compression.schema.stages import STAGE_SPECS, STAGES

MOST_ACCUMULATED = 1024
MOST_MINUTES = 1e6
MOST_ROWS = 4096
MOST_DEVICES = 64
PREPARE_RATE, PREPARE_PATIENCE = 5e-5, 3


class Prepare(Config):
    """Give a bare encoder a head and fine-tune it on train: the result is the baseline and the teacher.

    All stages are compared with it, so by default it is trained until the validation score stops improving. If both `epochs`
    and `rate` are given, exactly those are used. `epochs: 0` takes a model unchanged if it comes with a head for exactly the
    data's labels.
    """

    epochs: Annotated[int, Field(ge=0, le=MOST_EPOCHS)] | None = None
    """Passes over the train split, the rate falling to 0 at the end. null: until validation stops gaining; the rate falls
    whenever an epoch brings no gain, and a model that comes with a head is only changed if that gains more than one standard
    error."""
    rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate of AdamW. null: if epochs is null, chosen by short probes on validation, those of head and body apart
    where that is better; else 5e-05."""
    patience: Annotated[int, Field(ge=1, le=200)] | None = None
    """Training ends after so many epochs without a gain on validation; if epochs is null and an epoch has fewer than 48 steps,
    after so many times 48 steps. null: if epochs is null, 3; else never."""

    @property
    def is_open(self) -> bool:
        """Return whether training continues until the validation score stops improving."""
        return self.epochs is None

    @property
    def trains(self) -> bool:
        """Return whether the model is fine-tuned at all."""
        return self.epochs != 0

    @property
    def probes(self) -> bool:
        """Return whether probes choose the rate."""
        return self.epochs is None and self.rate is None

    @property
    def most_without_gain(self) -> int | None:
        """Return the epochs without a gain after which training ends; None if there is no such limit."""
        return PREPARE_PATIENCE if self.patience is None and self.epochs is None else self.patience


class Train(Config):
    """The settings and limits that all training in the job shares."""

    batch: Annotated[int, Field(ge=1, le=MOST_ROWS, description="Rows whose mean loss the optimizer follows.")] = 32
    micro_batch: Literal["auto"] | Annotated[int, Field(ge=1, le=MOST_ROWS)] = "auto"
    """The most rows of a batch that go through the model together; their gradients are added up to the batch's. auto: all that
    the device's memory takes, found by a trial step on a GPU. If memory does not suffice later, half as many from there on.
    Several devices share these rows; for them auto is the batch, and too little memory ends the attempt."""
    accumulate: Annotated[int, Field(ge=1, le=MOST_ACCUMULATED)] = 1
    """Batches whose gradients are added up before each step of the optimizer."""
    max_length: Annotated[int, Field(ge=8, le=8192)] = 128
    """Longer texts are cut to this many tokens. For causal-lm: the tokens of a row, which several texts may share."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of all that is random: carved splits, sampled rows, their order, a new head, dropout. A machine repeats itself."""
    warmup: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of a training's steps over which the rate rises to its peak; then it falls to 0."""
    decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """AdamW's weight decay of matrices; recovery adapts it from here if adapt_l2."""
    optimizer: OptimizerName = "adamw"
    """adamw-8bit: AdamW's moments in 8 bits (torchao), 2 bytes of each parameter in place of 8."""
    precision: Precision = "auto"
    """Type of the products of training and of Taylor importance; simulated integers stay exact. auto: bfloat16 if the device
    has it, else float32. bfloat16: refused if the device lacks it."""
    checkpointing: Literal["auto", "on", "off"] = "auto"
    """Gradient checkpointing (Chen et al. 2016): layers keep their inputs alone and are computed again in the backward pass,
    with far less memory if rows are long, for about a third more time. auto: if a training would not fit its device's free
    memory."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of a text model's layers in training. Those that simulate integers, and trainings that compare attention,
    run without. auto: on a GPU with a C compiler beside it, in trainings of 1,000 expected steps and more. If it fails,
    training goes on without and says so."""
    devices: Annotated[int, Field(ge=1, le=MOST_DEVICES)] = 1
    """Cards that train together, each with a shard of the weights and a part of each batch; on a CPU worker, processes."""
    views: Annotated[Views | None, Field(exclude_if=lambda value: value is None)] = None
    """Of images: how training varies them. null: not at all."""
    max_steps: Annotated[int | None, Field(ge=1)] = None
    """Optimizer steps of all training, shared equally by datasets. Training that reaches the limit keeps its best epoch."""
    max_minutes: Annotated[float | None, Field(gt=0, le=MOST_MINUTES)] = None
    """Minutes of all training with its validation, without export and measuring; shared equally by datasets. Work that a dead
    attempt had not saved does not count. Results then depend on the machine's speed."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_key(cls, given: Any) -> Any:
        """Read `recompute`, the earlier key of checkpointing: true is on, and false said nothing."""
        if not isinstance(given, dict) or not isinstance(given.get("recompute"), bool):
            return given
        rest = {key: value for key, value in given.items() if key != "recompute"}
        if not given["recompute"]:
            return rest
        if rest.get("checkpointing", "on") != "on":
            raise ValueError("recompute, the earlier key of checkpointing, is true, and checkpointing is not on: leave one out")
        return rest | {"checkpointing": "on"}

    def rows(self, *, least: bool) -> int:
        """Return the most rows that go through a model together, on each of several devices. least: the fewest that `auto` may
        choose.
        """
        if self.micro_batch == "auto" and self.devices == 1:
            return 1 if least else self.batch
        together = self.batch if self.micro_batch == "auto" else min(self.batch, self.micro_batch)
        return -(-together // self.devices)

    @property
    def varies(self) -> bool:
        """Return whether a row looks different each time that it is shown."""
        return self.views is not None and self.views.vary


_REMOVED = {
    "distill.gate": "Leave it out. To learn whether hidden, attention and embedding help, send one job with them and one "
    "without, and compare their scores on validation.",
    "remedy": "Leave it out. Where the retention target is missed, the job offers remedies: retry it with them applied.",
}
"""Key of earlier versions that jobs no longer use → the alternative."""


def removed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the removed keys that a stored recipe uses, with their values."""
    found = {"distill.gate": (recipe.get("distill") or {}).get("gate"), "remedy": recipe.get("remedy")}
    return {key: value for key, value in found.items() if value not in (None, "report")}


def check_removed(recipe: Mapping[str, Any]) -> None:
    """Refuse a new job with a removed key. Raises InvalidSpec. Stored recipes that have such a key still load."""
    for key in removed(recipe):
        raise InvalidSpec(f"recipe.{key} has been removed", param=f"recipe.{key}", remedy=_REMOVED[key])


class Recipe(Config):
    """The stages in their fixed order."""

    version: Annotated[Literal[1], Field(description="Of what recipes may say; old ones stay readable.")] = 1
    prepare: Prepare = Prepare()
    quantize: Quantize | None = Quantize()
    prune: Prune | None = Prune()
    distill: Distill | None = Distill()
    train: Train = Train()
    auto: Annotated[Auto | None, Field(exclude_if=lambda value: value is None)] = None
    """Find the size that the retention target allows, within minutes. null: the recipe's own ratio or target says the size."""
    artifacts: Annotated[tuple[Kind, ...] | None, Field(max_length=32, exclude_if=lambda value: value is None)] = None
    """Formats in which the result is shipped beside the ONNX files of the stages. None chosen (null): the checkpoint of the
    library that the model came from, and those of installed packages. An empty list, in JSON, ships nothing beside."""
    remedy: Annotated[
        SkipJsonSchema[JsonValue],
        BeforeValidator(lambda value: None if value == "report" else value),
        Field(exclude_if=lambda value: value is None),
    ] = None
    """Removed; only stored recipes may have it. Every job now does what `report` did."""

    @model_validator(mode="after")
    def _sizes_can_be_found(self) -> "Recipe":
        limits = {"max_steps": self.train.max_steps, "max_minutes": self.train.max_minutes}
        installed = [one.recipe_key for one in STAGE_SPECS.values() if one.settings and getattr(self, one.recipe_key, None)]
        found = point_rules.hindrance(self.prune, self.distill, self.auto, limits, installed)
        found = found or (auto_rules.hindrance(self.prune, self.distill, limits) if self.auto is not None else None)
        found = found or finalist_rules.hindrance(self.prune, self.distill, limits) or bits.hindrance(self.quantize, self.prune)
        if found is not None:
            key, why = found
            problem = PydanticCustomError("sizes", "{why}", {"why": why})
            error = InitErrorDetails(type=problem, loc=tuple(key.split(".")), input=None)
            raise ValidationError.from_exception_data("Recipe", [error])  # so the message names the key, and not the recipe
        return self

    @property
    def is_open(self) -> bool:
        """Return whether the device table decides some of the recipe."""
        return (self.quantize is not None and self.quantize.scheme == "auto") or (
            self.prune is not None and self.prune.multiple == "auto"
        )

    def closed(self, scheme: str | None, multiple: int | None) -> "Recipe":
        """Return the recipe with what the table decided in place of `auto`; null: as usual."""
        found: dict[str, Any] = {}
        if self.quantize is not None and self.quantize.scheme == "auto":
            found["quantize"] = self.quantize.model_copy(update={"scheme": scheme or self.quantize.assumed})
        if self.prune is not None and self.prune.multiple == "auto":
            found["prune"] = self.prune.model_copy(update={"multiple": multiple or self.prune.rounding})
        return self.model_copy(update=found)

    @property
    def reads_device_table(self) -> bool:
        """Return whether latencies of layers on the job's machine decide anything."""
        aims = self.prune is not None and self.prune.target_latency is not None
        return self.is_open or aims or (self.auto is not None and self.auto.objective == "latency")

    @property
    def recovers_by_teacher(self) -> bool:
        """Return whether recovery learns the baseline's outputs."""
        return self.prune is not None and self.prune.recovery is not None and self.prune.recovery.by == "teacher"

    @property
    def has_teacher(self) -> bool:
        """Return whether any stage runs the baseline as a teacher; it is then kept beside the model."""
        return self.distill is not None or self.recovers_by_teacher


def _add_stage(key: str, settings: type[Config]) -> None:
    """Add an installed package's stage settings to recipes; null, the default, leaves the stage out. It is not stored, so that
    jobs that do not use the package outlive it.
    """
    kind: Any = Annotated[settings | None, Field(description=settings.__doc__, exclude_if=lambda value: value is None)]
    Recipe.__annotations__[key] = kind
    Recipe.model_fields[key] = FieldInfo.from_annotated_attribute(kind, None)
    Recipe.model_rebuild(force=True)


for _name in STAGES:  # made last: a package's module that imports this one too early is left out, by this name's absence
    if (_settings := STAGE_SPECS[_name].settings) is not None:
        _add_stage(STAGE_SPECS[_name].recipe_key, _settings)


WORKER = "worker"
"""The device of a latency target that stands for the machine that does the job."""


class LatencyTarget(Config):
    """The most milliseconds that one pass may take, and where."""

    value: Annotated[float, Field(gt=0, le=1e6, description="Milliseconds, the median at evaluate's shape.")]
    device: Annotated[str | None, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f]+$")] = None
    """Name of a device. null or worker: the machine that does the job. Others need the device in evaluate.devices: else the
    target is not_measured, neither met nor missed."""

    @property
    def elsewhere(self) -> str | None:
        """Return the device that it is measured on, or None for the machine that does the job."""
        return None if self.device == WORKER else self.device


_ABSENT = Field(exclude_if=lambda value: value is None)


class Targets(Config):
    """The targets of the result; the defaults are the published account's figures for the method. The first four compare with
    the baseline. The others are absolute, and null is none; the quality gate is a test beside them.
    """

    parameter_reduction: Annotated[float, Field(ge=0, lt=1)] = 0.305
    """(before - after) / before of the number of parameters, embeddings included."""
    size_reduction: Annotated[float, Field(ge=0, lt=1)] = 0.729
    """(before - after) / before of the bytes of the weights' files, as downloaded."""
    speed_up: Annotated[float, Field(gt=0, le=1000)] = 1.445
    """before / after of the median latency, both timed in turn in one process."""
    retention: Annotated[float, Field(gt=0, le=1000)] = 0.992
    """after / before of the score on validation; before / after of a perplexity. Retention on test is reported, not judged."""
    parameters: Annotated[float | None, Field(gt=0, le=1e15), _ABSENT] = None
    """The most parameters, embeddings included."""
    latency_ms: Annotated[LatencyTarget | None, _ABSENT] = None
    score: Annotated[float | None, Field(gt=0, le=1e9), _ABSENT] = None
    """The least score on validation, in the unit of the table: 74.3 is an accuracy of 74.3 %; the most of a perplexity."""
    quality_gate: Annotated[QualityGate | None, _ABSENT] = None
    """Judges each artifact, accept, regression or undecided, and chooses none. null is none."""


def gated(recipe: Recipe, targets: Targets) -> Targets:
    """Return a job's targets: with `auto`, a quality gate that says whether the retention target is surely kept, unless they
    have one.
    """
    if recipe.auto is None or targets.quality_gate is not None:
        return targets
    gate = QualityGate(max_drop=None, retention=min(targets.retention, 1.0), confidence=recipe.auto.confidence)
    return targets.model_copy(update={"quality_gate": gate})


Metric = Literal["auto", "accuracy", "f1", "accuracy_f1", "matthews", "balanced_accuracy"]
Positive = str | None


def _by_kind(one: Any) -> WrapValidator:
    """Return a validator for one value, or for a list with one value per dataset of the job."""
    # Not pydantic's union: its errors name both types instead of `metric` and `metric.1`.
    alone: TypeAdapter[Any] = TypeAdapter(one)
    each: TypeAdapter[Any] = TypeAdapter(Annotated[tuple[one, ...], Field(min_length=1, max_length=MOST_PARTS)])

    return WrapValidator(lambda value, _: (each if isinstance(value, list | tuple) else alone).validate_python(value))


class LmEval(Config):
    """Tasks of EleutherAI's lm-eval, run on a language model after every stage.

    They run in PyTorch with simulated integers. Their data come from the worker (LATHE_LM_EVAL_DATA): engines have no network.
    """

    tasks: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,99}$")], ...],
        Field(min_length=1, max_length=20, json_schema_extra={"uniqueItems": True}),
    ]
    """Names of lm-eval's own tasks and groups, for example arc_easy."""
    few_shot: Annotated[int | None, Field(ge=0, le=64)] = None
    """Examples before each document. null: as many as the task says."""
    limit: Annotated[int | None, Field(ge=1)] = None
    """Most documents of each task, the first ones: such results cannot be published. null: all."""
    batch: Annotated[int, Field(ge=1, le=256, description="Requests that go through the model together at most.")] = 8

    @model_validator(mode="after")
    def _each_once(self) -> "LmEval":
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks names the same task twice")
        return self


DEVICE_SECONDS = 900.0


class JobEvaluate(Config):
    """The metric, and the shape at which latency is measured. Baseline and candidate are interleaved in one process."""

    metric: Annotated[Metric | tuple[Metric, ...], _by_kind(Metric)] = "auto"
    """The headline metric of classification, which also selects epochs; auto is accuracy, accuracy_f1 the mean of accuracy and
    F1; of images there are accuracy and balanced_accuracy, the mean over the labels of the share of their rows that is right.
    Other tasks have only auto: the mean of Pearson's and Spearman's correlation, F1 of entities, F1 of SQuAD, perplexity. A
    list has one name for each of the job's datasets, in their order; a single name is for all."""
    positive: Annotated[Positive | tuple[Positive, ...], _by_kind(Positive)] = None
    """The label whose F1 counts; null: the last of two labels, of more the mean over all (macro). A list has one label or null
    for each of the job's datasets, in their order; a single label is for all."""
    batch: Annotated[int, Field(ge=1, le=256, description="Rows that go through a model together while it is timed.")] = 1
    length: Annotated[int, Field(ge=8, le=8192, description="Tokens in each row.")] = 128
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Threads that the runtime has while artifacts are timed; scores have all of the engine's."""
    window: Annotated[int | None, Field(ge=8, le=131072)] = None
    """For causal-lm: tokens of a perplexity window; each begins at the middle of the one before. null: train.max_length."""
    tokens: Annotated[int, Field(ge=256, le=10**9)] = 65536
    """For causal-lm: about the most tokens of validation, and of test, that are scored: whole texts sampled with train.seed."""
    lm_eval: LmEval | None = None
    """For causal-lm: lm-eval tasks to run on each stage, beside perplexity."""
    raw_inputs: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Of images: the job's ONNX files read them decoded and resized, as uint8 (batch, height, width, 3), and rescale, normalize
    and transpose them; latency includes that. false: float32 (batch, 3, height, width), normalized."""
    devices: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=100)], ...],
        Field(max_length=16, json_schema_extra={"uniqueItems": True}, exclude_if=lambda value: not value),
    ] = ()
    """Names of the team's devices that profile the shipped artifact, at this batch, length and threads, before the job ends."""
    device_seconds: Annotated[float, Field(ge=1, le=86400, exclude_if=lambda value: value == DEVICE_SECONDS)] = DEVICE_SECONDS
    """Most seconds that the job waits for them. What is not there by then is not_measured in the report."""

    @model_validator(mode="after")
    def _each_device_once(self) -> "JobEvaluate":
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("devices names the same device twice")
        return self

    @property
    def without_devices(self) -> "JobEvaluate":
        """Return the part that the engine evaluates."""
        return self.model_copy(update={"devices": (), "device_seconds": DEVICE_SECONDS})

    def each(self, datasets: int) -> tuple["Evaluate", ...]:
        """Return the settings of each dataset of a job. Raises InvalidSpec if a list is longer or shorter than the datasets."""
        keys = {key: getattr(self, key) for key in OF_EACH}
        for key, value in keys.items():
            if isinstance(value, tuple) and len(value) != datasets:
                cause = f"{key} is a list of {len(value)}, and there are {datasets} datasets"
                remedy = "Name one for each dataset, in their order, or one for all without a list."
                raise InvalidSpec(cause, param=f"evaluate.{key}", remedy=remedy)
        shared = self.model_dump(exclude=set(OF_EACH))
        own = [{key: value[at] if isinstance(value, tuple) else value for key, value in keys.items()} for at in range(datasets)]
        return tuple(Evaluate(**shared, **one) for one in own)


OF_EACH = ("metric", "positive")
"""Keys that each dataset may have its own value of."""


class Evaluate(JobEvaluate):
    """The settings for one dataset: none of them is a list."""

    metric: Metric = "auto"
    positive: Positive = None

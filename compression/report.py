"""What came out: the figures, their definitions, and the events that tell of them on the way. Torch-free.

Every figure is measured on the artifact that is downloaded, after it was exported and reopened in its own runtime. A
figure that does not fit the machine is `NotMeasured`, with the reason.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, TypeAdapter

from compression.recipe import Config, Recipe, Targets, Task

Stage = Literal["baseline", "quantized", "pruned", "distilled"]
STAGES: tuple[Stage, ...] = ("baseline", "quantized", "pruned", "distilled")
"""Names of the rows, in the fixed order of the method."""


class NotMeasured(Config):
    """In place of a figure that could not be had, with the reason."""

    not_measured: str


class Shape(Config):
    """The widths of an encoder, as its stock config says them."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    vocabulary: int
    embedding: Annotated[int | None, Field(description="Width of the token tables, where it is not `hidden`.")] = None


class Parameters(Config):
    """Elements of unique parameters; tied ones count once."""

    total: int
    embedding: Annotated[int, Field(description="Token, position and type tables.")]
    other: int


class Size(Config):
    """Bytes on disk of the artifact's weights, as downloaded."""

    bytes: int
    dtype: Annotated[str, Field(description="What the weights are stored in, for example float32 or int8.")]
    bytes_at_16_bit: Annotated[int, Field(description="Two bytes a parameter: the other baseline that people mean.")]


class Latency(Config):
    """Baseline and candidate interleaved in one fresh process, same device, runtime and threads. Milliseconds."""

    median_ms: float
    p95_ms: float
    spread_ms: Annotated[float, Field(description="Distance between the quartiles.")]
    baseline_median_ms: float
    baseline_p95_ms: float
    runs: int
    batch: int
    length: int
    threads: int
    runtime: Annotated[str, Field(description="For example 'onnxruntime 1.32.0 CPUExecutionProvider'.")]


class Score(Config):
    """The task's metric on the test split, at batch 1 and, padded, at batch 32."""

    metric: str
    value: Annotated[float, Field(description="At batch 1; 1 is perfect. Correlations may be negative.")]
    standard_error: float
    error_from: Annotated[
        Literal["analytic", "bootstrap"],
        Field(description="analytic: of a share or a mean over rows. bootstrap: 1,000 samples of the rows, seeded."),
    ] = "analytic"
    metrics: Annotated[
        dict[str, float], Field(default_factory=dict, description="The headline and the task's other metrics, at batch 1.")
    ]
    value_at_batch_32: float
    rows: int
    rows_changed_by_batching: Annotated[int, Field(description="Rows whose answer depends on who shares the batch.")]
    chance: Annotated[
        float,
        Field(
            description="The metric of who knows no text: always the most frequent label, no entity, no answer; 0 for "
            "correlations."
        ),
    ]


class Ratios(Config):
    """A row against the baseline. `null` where the ratio has no meaning."""

    parameter_reduction: float
    size_reduction: float
    speed_up: float | None
    latency_reduction: float | None
    retention: float | None
    retention_above_chance: float | None


class Remedy(Config):
    """A change of the recipe that the figures speak for. Sending the job again with it is a try, not a promise."""

    key: Annotated[str, Field(description="Path in the recipe, for example recipe.distill.epochs.")]
    now: Annotated[JsonValue, Field(description="What the job ran with.")]
    proposed: JsonValue
    why: Annotated[str, Field(description="The figures that it was reckoned from.")]
    applied: Annotated[bool, Field(description="Whether the job did it itself already (recipe.remedy: apply).")] = False


class StageVerdict(Config):
    """A row held against the targets and against the best row before it."""

    met: Annotated[tuple[str, ...], Field(description="Names of the targets that its artifact meets.")]
    missed: tuple[str, ...]
    best_before: Annotated[Stage | None, Field(description="The row that would be shipped without this one.")]
    worse_than: Annotated[
        Stage | None,
        Field(
            description="An earlier row that scores higher, by more than this one's standard error, and is as small and fast."
        ),
    ]
    remedies: Annotated[tuple[Remedy, ...], Field(description="For what no later stage of the recipe is there to mend.")] = ()


class Row(Config):
    """One stage's row: bytes, latency and score come from one and the same artifact."""

    stage: Stage
    artifact: Annotated[str, Field(description="Name of the artifact that these figures were measured on.")]
    shape: Shape
    parameters: Parameters
    size: Size
    latency: Latency | NotMeasured
    score: Score | NotMeasured
    flops: Annotated[int | NotMeasured, Field(description="Of one forward pass at the latency's shape (torch's counter).")]
    peak_memory_bytes: Annotated[int | NotMeasured, Field(description="Resident peak of the process that only serves it.")]
    ratios: Ratios
    seconds: Annotated[float, Field(description="What the stage took, export and measuring included.")]
    notes: tuple[str, ...] = ()
    verdict: Annotated[StageVerdict | None, Field(description="null in reports of before there were verdicts.")] = None


class File(Config):
    """One file of an artifact or a checkpoint."""

    path: Annotated[
        str,
        Field(max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$", description="Relative."),
    ]
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Artifact(Config):
    """Something to download: a folder under artifacts/, named by `name`, that stock tools open."""

    name: Annotated[str, Field(max_length=100, pattern=r"^[a-z0-9][a-z0-9-]*$")]
    kind: Literal["onnx", "transformers"]
    stage: Stage
    precision: Literal["float32", "int8"]
    files: tuple[File, ...]
    score: Annotated[Score | NotMeasured, Field(description="Measured on this artifact in its own runtime.")]
    opens_with: Annotated[str, Field(description="The stock tool and call that open it.")]


class Values(Config):
    """What the numbers of a regression split are."""

    least: float
    most: float
    mean: float


class SplitFacts(Config):
    """What a split held when the job ran."""

    rows: int
    carved_from_train: bool
    labels: Annotated[dict[str, int], Field(description="Rows of each; tags of tokens; answerable and unanswerable questions.")]
    values: Annotated[Values | None, Field(description="Of a regression split, which has no labels.")] = None


class Verdict(Config):
    """One target, and whether the headline artifact meets it. `value` is null where it was not measured."""

    target: float
    value: float | None
    met: bool


class Report(Config):
    """The whole result of a job."""

    version: Literal[1] = 1
    task: Task
    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    headline: Annotated[str, Field(description="Name of the artifact to take; `ratios` and `verdicts` are its row's.")]
    choice: Annotated[str, Field(description="Why that one: the rule and the figures.")] = ""
    ratios: Ratios
    targets: Targets
    verdicts: dict[str, Verdict]
    artifacts: tuple[Artifact, ...]
    recipe: Recipe
    splits: dict[str, SplitFacts]
    pruning: Annotated[dict[str, Any] | None, Field(description="Per axis: units before and after, ratio asked and taken.")]
    environment: Annotated[dict[str, str], Field(description="Versions, processor, device, threads.")]
    notes: tuple[str, ...] = ()


def reduction(before: float, after: float) -> float:
    """(before − after) / before."""
    return (before - after) / before


def speed_up(before_ms: float, after_ms: float) -> float:
    """Latency before / latency after."""
    return before_ms / after_ms


def retention(before: float, after: float, *, lower_is_better: bool = False) -> float | None:
    """Score after / before (inverted for lower-is-better metrics); None where before ≤ 0 makes it meaningless."""
    if before <= 0 or (lower_is_better and after <= 0):
        return None
    return before / after if lower_is_better else after / before


def ratios(
    before: tuple[Parameters, Size, Score | NotMeasured],
    after: tuple[Parameters, Size, Score | NotMeasured],
    latency: Latency | NotMeasured,
) -> Ratios:
    """Hold a stage's figures against the baseline's. `latency` carries both sides, measured in one process."""
    faster = less_latency = kept = kept_above_chance = None
    if isinstance(latency, Latency):
        faster = speed_up(latency.baseline_median_ms, latency.median_ms)
        less_latency = reduction(latency.baseline_median_ms, latency.median_ms)
    first, last = before[2], after[2]
    if isinstance(first, Score) and isinstance(last, Score):
        kept = retention(first.value, last.value)
        kept_above_chance = retention(first.value - first.chance, last.value - last.chance)
    return Ratios(
        parameter_reduction=reduction(before[0].total, after[0].total),
        size_reduction=reduction(before[1].bytes, after[1].bytes),
        speed_up=faster,
        latency_reduction=less_latency,
        retention=kept,
        retention_above_chance=kept_above_chance,
    )


def verdicts(found: Ratios, targets: Targets) -> dict[str, Verdict]:
    """Hold the headline artifact's ratios against the targets, one verdict a target."""
    out = {}
    for name in Targets.model_fields:
        wanted, value = getattr(targets, name), getattr(found, name)
        out[name] = Verdict(target=wanted, value=value, met=value is not None and value >= wanted)
    return out


# Events: one JSON object a line on the engine's event pipe. `type` says which.


class Started(Config):
    """The engine runs; versions and device are known."""

    type: Literal["started"] = "started"
    environment: dict[str, str]
    stages: Annotated[tuple[Stage, ...], Field(description="Rows that this job will have.")]


class StageStarted(Config):
    """Work on a row began."""

    type: Literal["stage_started"] = "stage_started"
    stage: Stage
    resumed: Annotated[bool, Field(description="Its checkpoint was there already; nothing is trained again.")] = False


class Progress(Config):
    """Where a stage is. At most a few a second."""

    type: Literal["progress"] = "progress"
    stage: Stage
    phase: Annotated[str, Field(max_length=60, description="For example 'tune', 'calibrate', 'distill', 'export', 'measure'.")]
    step: int
    total: int
    fraction: Annotated[float, Field(ge=0, le=1, description="Of the whole job.")]
    eta_seconds: float | None = None
    loss: float | None = None
    rate: float | None = None
    score: Annotated[float | None, Field(description="On validation, after an epoch.")] = None


class Log(Config):
    """One line for people."""

    type: Literal["log"] = "log"
    level: Literal["info", "warning", "error"] = "info"
    message: Annotated[str, Field(max_length=4000)]


class ArtifactReady(Config):
    """An artifact was exported, reopened, verified and measured; its files lie under artifacts/<name>/."""

    type: Literal["artifact"] = "artifact"
    artifact: Artifact


class StageFinished(Config):
    """A row of the table is complete."""

    type: Literal["stage_finished"] = "stage_finished"
    row: Row
    checkpoint: Annotated[
        tuple[File, ...], Field(description="Files under checkpoints/<stage>/ that a new attempt goes on from.")
    ]


class TrainingSaved(Config):
    """Training in progress was saved: a new attempt goes on from this step.

    Its files lie under checkpoints/<folder>/. Whoever listens removes that folder once it has taken them; until then nothing
    more is saved, so that no file changes while it is read.
    """

    type: Literal["training_saved"] = "training_saved"
    stage: Stage
    phase: Annotated[str, Field(max_length=60)]
    step: int
    total: int
    folder: Annotated[str, Field(pattern=r"^training-[0-9]{1,9}$")]
    files: tuple[File, ...]


class Paused(Config):
    """Stopped because it was asked to; what was saved is all there is. The last event."""

    type: Literal["paused"] = "paused"


class Finished(Config):
    """All is done; report.json is written."""

    type: Literal["finished"] = "finished"
    report: Report


class Failed(Config):
    """The job cannot be done as asked. The last event."""

    type: Literal["failed"] = "failed"
    code: str
    cause: Annotated[str, Field(max_length=4000)]
    remedy: Annotated[str, Field(max_length=4000)]
    param: str | None = None


Event = Annotated[
    Started | StageStarted | Progress | Log | ArtifactReady | StageFinished | TrainingSaved | Paused | Finished | Failed,
    Field(discriminator="type"),
]
parse_event: TypeAdapter[Event] = TypeAdapter(Event)
"""Checks a line of the pipe: `parse_event.validate_json(line)`."""


# What `python -m compression validate` answers: one JSON object.


class ModelFacts(Config):
    """What is known of a model once its files were read; preflight and jobs rely on it."""

    kind: Literal["model"] = "model"
    family: str
    architecture: str
    shape: Shape
    max_positions: int
    parameters: Parameters
    labels: Annotated[tuple[str, ...] | None, Field(description="Of its classification head; null for a bare encoder.")]
    dtype: str
    bytes: int


class DataFacts(Config):
    """What is known of a dataset once its files were read."""

    kind: Literal["dataset"] = "dataset"
    task: Task = "text-classification"
    labels: Annotated[tuple[str, ...], Field(description="Classes or tags; none where the task has none.")]
    rows: dict[str, int]
    label_counts: dict[str, dict[str, int]]
    values: Annotated[
        dict[str, Values], Field(default_factory=dict, description="Of each split of a regression, which has no labels.")
    ]
    mean_words: Annotated[float, Field(description="Of train; a first guess at tokens.")]
    longest_words: int


class Rejected(Config):
    """Why an upload is of no use: one or more reasons, each with code, cause, remedy and field."""

    kind: Literal["rejected"] = "rejected"
    reasons: Annotated[tuple[dict[str, str | None], ...], Field(min_length=1)]


Finding = Annotated[ModelFacts | DataFacts | Rejected, Field(discriminator="kind")]
parse_finding: TypeAdapter[Finding] = TypeAdapter(Finding)

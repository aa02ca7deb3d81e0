"""The result of a job: its rows, its artifacts, and the report built from them."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from compression.schema.artifact_formats import ArtifactPrecision, Kind
from compression.schema.config import Config
from compression.schema.file_names import portable
from compression.schema.recipe.base import JobTask, Task
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.report.card_rows import CardReport
from compression.schema.report.device_rows import DeviceRow
from compression.schema.report.draws import Interval
from compression.schema.report.gate import GateVerdict
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared
from compression.schema.report.measurements import Latency, NotMeasured, Ratios, Row, Score, Uploaded
from compression.schema.report.operators import Operators
from compression.schema.report.points import Front, PointCut
from compression.schema.report.samples import MOST_SAMPLES, Sample, SampleAnswer
from compression.schema.report.sensitivity import Sensitivity
from compression.schema.report.size_search import SizeSearch
from compression.schema.report.targets import Target, asked, reaches, target_text
from compression.schema.stages import Stage


class File(Config):
    """One file of an artifact or a checkpoint."""

    path: Annotated[
        str,
        Field(max_length=200, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"),
        AfterValidator(portable),
    ]
    """Relative."""
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Artifact(Config):
    """A download: a folder under artifacts/, named by `name`, that stock tools open."""

    name: Annotated[str, Field(max_length=100, pattern=r"^[a-z0-9][a-z0-9-]*$")]
    kind: Kind
    stage: Stage
    precision: ArtifactPrecision
    """mixed: tables and the head are integers, the other matrices are not; its card says how many."""
    files: tuple[File, ...]
    score: Annotated[Score | NotMeasured, Field(description="Measured on this artifact in its own runtime, on test.")]
    validation: Score | NotMeasured | None = None
    """The same on validation; null in older reports."""
    opens_with: Annotated[str, Field(description="The stock tool and call that open it.")]
    part: Annotated[str | None, Field(description="Of several datasets, the name of the one that it is for.")] = None
    compared_on: ComparedAnswers | NotCompared | None = None
    """Comparison of an ONNX file with 8-bit products on processors without VNNI; null for others, and in older reports."""
    latency: Latency | NotMeasured | None = None
    """In its own runtime, in turns with the original's ONNX file in ONNX Runtime; null in older reports."""
    trained_as_shipped: bool | None = None
    """Whether training computed with its very numbers; false: they were made of the trained weights afterwards. null where a
    model goes from file to file, which trains nothing, and in older reports."""
    answers: Annotated[tuple[SampleAnswer, ...], Field(max_length=MOST_SAMPLES)] = ()
    """To the report's `samples` of its dataset, in their order; none in older reports."""
    gate: Annotated[GateVerdict | None, Field(exclude_if=lambda value: value is None)] = None
    """Of the job's quality gate; null without one, and of the original that it compares with."""
    operators: Operators | None = None
    """Of its graph, in the file and as executed; null if its runtime does not tell, and in older reports."""


class Values(Config):
    """The range and mean of the numbers in a regression split."""

    least: float
    most: float
    mean: float


class SplitFacts(Config):
    """The contents of a split when the job ran."""

    rows: int
    carved_from_train: bool
    labels: Annotated[dict[str, int], Field(description="Rows of each; tags of tokens; answerable and unanswerable questions.")]
    values: Annotated[Values | None, Field(description="Of a regression split, which has no labels.")] = None
    tokens: int | None = None
    """Of causal-lm: next tokens of the split's texts, as the model cuts them."""
    bytes: Annotated[int | None, Field(description="Of causal-lm: of UTF-8, of the texts that have such a token.")] = None


Status = Literal["met", "missed", "unproven"]
Code = Literal["baseline_not_converged", "not_measured"]


MOST_DIGITS = 6
"""Further digits at most that tell a figure from a target."""


class Verdict(Config):
    """One target, and whether the headline artifact meets it. Values are in the unit of their target."""

    target: float
    value: Annotated[float | None, Field(description="null where it was not measured.")]
    met: Annotated[bool, Field(description="Whether `status` is met.")]
    status: Status = "missed"
    """unproven: not measured or, for retention, the baseline has not converged and the interval reaches the target. Else the
    interval does not change it."""
    code: Annotated[Code | None, Field(description="Why it is unproven.")] = None
    reason: Annotated[str | None, Field(description="The same for people.")] = None
    split: Literal["validation", "test"] | None = None
    """For retention and score: the split of `value`; test only in older reports."""
    interval: Annotated[Interval | None, Field(description="Of retention and speed-up: their 95 % interval.")] = None
    at_most: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    """Whether the value may be at most the target, as parameters, milliseconds and perplexities; else at least."""
    metric: Annotated[str | None, Field(description="Of a score.", exclude_if=lambda value: value is None)] = None
    device: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None
    """Of a latency on another machine than the worker: the device's name."""

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, given: Any) -> Any:
        """Set the status of a verdict from before the field existed; it follows from the other fields."""
        if not isinstance(given, dict) or "status" in given:
            return given
        if given.get("met"):
            return {**given, "status": "met"}
        return {**given, **(_NOT_MEASURED if given.get("value") is None else {"status": "missed"})}

    def measured(self, value: float) -> "Verdict":
        """Return the verdict on a value that was measured later."""
        met = reaches(value, self.target, at_most=self.at_most)
        changes = {"value": value, "met": met, "status": "met" if met else "missed", "code": None, "reason": None}
        return self.model_copy(update=changes)

    def figure_text(self, name: str) -> str:
        """Return its figure as it is shown, with further digits where it misses a target that would read the same. name: of the
        target.
        """
        if self.value is None:
            return "not measured"
        texts = [target_text(name, self.value, self.metric, more=more) for more in range(MOST_DIGITS)]
        bound = target_text(name, self.target, self.metric)
        return texts[0] if self.met else next((text for text in texts if text != bound), texts[-1])


_NOT_MEASURED = {
    "status": "unproven",
    "code": "not_measured",
    "reason": "It was not measured, or the baseline's figure is not above 0.",
}
_NOT_CONVERGED = {
    "status": "unproven",
    "code": "baseline_not_converged",
    "reason": "The baseline has not converged: a share of its score says nothing of what compression costs.",
}


class Recommended(Config):
    """The headline's model in another format, because there it is faster and reaches every target that the headline reaches.

    It is chosen by validation and by its speed in its own runtime; training need not have computed with its numbers.
    """

    artifact: Annotated[str, Field(description="Its name; of several datasets the first one's.")]
    artifacts: Annotated[dict[str, str], Field(default_factory=dict, description="Of several datasets, each one's artifact.")]
    runtime: str
    ratios: Annotated[Ratios, Field(description="Against the baseline, as a row's, without intervals.")]
    verdicts: dict[str, Verdict]
    why: Annotated[str, Field(description="The rule and the figures.")]


class PartReport(Config):
    """The part of a report of several datasets that belongs to one dataset."""

    name: Annotated[str, Field(description="Key of its figures in the `parts` of each row.")]
    task: Task
    labels: tuple[str, ...]
    splits: dict[str, SplitFacts]
    pruning: Annotated[dict[str, Any] | None, Field(description="As the report's own.")]
    sensitivity: Annotated[dict[str, tuple[Sensitivity, ...]], Field(default_factory=dict, description="As the report's own.")]
    sizes: Annotated[SizeSearch | None, Field(exclude_if=lambda value: value is None, description="As the report's own.")] = (
        None
    )
    points: Annotated[tuple[PointCut, ...], Field(exclude_if=lambda value: not value, description="As the report's own.")] = ()
    notes: tuple[str, ...] = ()
    samples: Annotated[tuple[Sample, ...], Field(max_length=MOST_SAMPLES, description="As the report's own.")] = ()


class Report(Config):
    """The whole result of a job."""

    version: Literal[1] = 1
    task: JobTask
    labels: tuple[str, ...]
    rows: tuple[Row, ...]
    uploaded: Annotated[Uploaded | None, Field(description="The uploaded model; null in older reports.")] = None
    headline: str
    """Name of the artifact whose row has `ratios` and `verdicts`; of several datasets the first one's."""
    headlines: Annotated[dict[str, str], Field(default_factory=dict, description="Of several datasets, each one's artifact.")]
    parts: tuple[PartReport, ...] = ()
    """Of several datasets; `labels`, `splits`, `pruning`, `sensitivity`, `sizes` and `points` are then each one's own."""
    choice: Annotated[str, Field(description="Why that one: the rule and the figures.")] = ""
    recommended: Recommended | None = None
    """Another form of the headline's model to run in its place; null if there is no better one, and in older reports."""
    ratios: Ratios
    targets: Targets
    verdicts: dict[str, Verdict]
    gate: Annotated[GateVerdict | None, Field(exclude_if=lambda value: value is None)] = None
    """The headline row's, if the job has a quality gate and the headline is not the original."""
    artifacts: tuple[Artifact, ...]
    recipe: Recipe
    splits: dict[str, SplitFacts]
    pruning: Annotated[dict[str, Any] | None, Field(description="Per axis: units before and after, ratio asked and taken.")]
    sensitivity: Annotated[dict[str, tuple[Sensitivity, ...]], Field(default_factory=dict)]
    """By axis: hidden with its heads, ffn, layers; empty unless requested."""
    sizes: Annotated[SizeSearch | None, Field(exclude_if=lambda value: value is None)] = None
    """The sizes that a recipe with `auto` tried, and which it took."""
    points: Annotated[tuple[PointCut, ...], Field(exclude_if=lambda value: not value)] = ()
    """The sizes that a recipe with `prune.points` asks for, the largest first; none if it asks for one."""
    front: Annotated[Front | None, Field(exclude_if=lambda value: value is None)] = None
    """Which of these sizes is the best; null if there is one. The headline is it, or an earlier stage that is nearer to all of
    the targets."""
    environment: Annotated[dict[str, str], Field(description="Versions, processor, device, threads.")]
    notes: tuple[str, ...] = ()
    devices: Annotated[tuple[DeviceRow, ...], Field(exclude_if=lambda value: not value)] = ()
    """What evaluate.devices measured of the shipped artifacts."""
    card: Annotated[CardReport | None, Field(exclude_if=lambda value: value is None)] = None
    """What the original and the headline's model cost on the GPU that the job trained on, by runtime."""
    samples: Annotated[tuple[Sample, ...], Field(max_length=MOST_SAMPLES)] = ()
    """Some rows of test, drawn at random; `answers` of each artifact are to them. None in older reports."""

    @property
    def size_searches(self) -> dict[str, SizeSearch]:
        """Return the searches for a size by dataset; the name is empty if there is one."""
        each = {"": self.sizes, **{part.name: part.sizes for part in self.parts}}
        return {name: found for name, found in each.items() if found is not None}

    @property
    def front_rows(self) -> tuple[Row, ...]:
        """Return the rows of all sizes of the front, the largest first."""
        stages = self.front.stages if self.front is not None else ()
        return tuple(row for row in self.rows if row.stage in stages)

    @property
    def to_run(self) -> tuple[str, ...]:
        """Return the names of the artifacts to run, one for each dataset: the recommended ones, or else the headline's."""
        best = self.recommended
        name, several = (self.headline, self.headlines) if best is None else (best.artifact, best.artifacts)
        return tuple(several.values()) or (name,)

    @property
    def shipped(self) -> tuple[str, ...]:
        """Return the names of the headline's artifacts, one for each dataset."""
        return tuple(self.headlines.values()) or (self.headline,)

    def with_devices(self, rows: tuple[DeviceRow, ...]) -> "Report":
        """Return the report with what devices measured, and with its target of latency judged by its device.

        Of several datasets, the mean over their artifacts counts, as in the rows; it needs all of them. The recommended form is
        judged by rows of its own artifacts alone.
        """
        changes: dict[str, Any] = {"devices": rows, "verdicts": _by_devices(self.verdicts, rows)}
        if (best := self.recommended) is not None:
            own = [row for row in rows if row.artifact in self.to_run]
            judged = {
                name: verdict.model_copy(update={"reason": _OTHER_FORM}) if verdict.device is not None else verdict
                for name, verdict in best.verdicts.items()
            }
            changes["recommended"] = best.model_copy(update={"verdicts": _by_devices(judged, own)})
        return self.model_copy(update=changes)


_OTHER_FORM = "The recommended form was not profiled on it."


def _by_devices(verdicts: Mapping[str, Verdict], rows: Sequence[DeviceRow]) -> dict[str, Verdict]:
    """Return the verdicts, those on other machines judged by the rows of their device, if there are any."""
    judged = dict(verdicts)
    for name, verdict in verdicts.items():
        own = [row for row in rows if row.device == verdict.device]
        found = [row.latency_ms for row in own if row.latency_ms is not None]
        if found and len(found) == len(own):
            judged[name] = verdict.measured(mean(found))
        elif own:
            lacking = next(row for row in own if row.latency_ms is None)
            judged[name] = verdict.model_copy(update={"reason": lacking.text})
    return judged


def verdicts(row: Row, targets: Targets) -> dict[str, Verdict]:
    """Compare a row with the targets; return one verdict for each that the job has."""
    return {kind.name: _verdict(kind, row, targets) for kind in asked(targets)}


def _verdict(kind: Target, row: Row, targets: Targets) -> Verdict:
    facts = {"target": kind.bound(targets), "value": kind.value(row), "at_most": kind.at_most(row), **kind.facts(row)}
    if (device := kind.device(targets)) is not None:
        facts |= {"value": None, "device": device}
        reason = f"No profile of the shipped artifact on {device} is in this report: name it in evaluate.devices."
        return Verdict(**facts, met=False, **{**_NOT_MEASURED, "reason": reason})
    if facts["value"] is None:
        return Verdict(**facts, met=False, **_NOT_MEASURED)
    if kind.by_baseline and row.ratios.is_unproven(kind.bound(targets)):
        return Verdict(**facts, met=False, **_NOT_CONVERGED)
    met = kind.is_reached(row, targets)
    return Verdict(**facts, met=met, status="met" if met else "missed")

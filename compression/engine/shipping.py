"""Ships a model: exports it, reopens and verifies the files, and measures the downloadable artifact."""

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from compression.engine.paired_test import Original, judge_artifact
from compression.engine.scoring_limits import UNLIMITED, ScoringLimits
from compression.evaluation.measure import FIGURE_OF, SECONDS, Measured, MeasureSpec, Saving, parse_line
from compression.evaluation.runtimes.runner import lacking_on_card
from compression.export.exporter import exporter_of
from compression.export.manifest import as_json, write_config, write_manifest, write_origin
from compression.export.model_card import ModelCard
from compression.export.onnx.exporter import plain_model
from compression.export.onnx.trace import inputs_of
from compression.export.parity_check import asked_of, verify
from compression.export.provenance import Origin
from compression.modalities.modality import RawInput
from compression.modalities.registry import modality_of, scorer_of
from compression.modalities.scoring.base import Row
from compression.models.adapters.registry import adapter_of
from compression.quantization.calibration import Calibrate, no_rows
from compression.quantization.fake_quantize import DYNAMIC, Simulation, simulation_of
from compression.schema.artifact_formats import ARTIFACT_FORMATS, INTEGERS, ArtifactPrecision, Kind
from compression.schema.errors import OutOfMemory
from compression.schema.manifest import Interface
from compression.schema.recipe.base import Split, Task
from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.recipe.recipe import Evaluate
from compression.schema.report.before import Before, Figures
from compression.schema.report.draws import NO_DRAWS, SplitDraws
from compression.schema.report.instruction_sets import ComparedAnswers, NotCompared
from compression.schema.report.measurements import Latency, NotMeasured, Row as Figured, Score, Size
from compression.schema.report.report import Artifact
from compression.schema.stages import Stage
from compression.schema.tasks import TASKS
from compression.system import durable_files
from compression.system.child_process import ChildFailed, ChildOutOfMemory, child_lines
from compression.system.device import training_device
from compression.system.progress import Step, run_silently

WHOLE = ("float32", "float64")
HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
TIMED_SECONDS = 3.0  #: timing of a candidate shape and its baseline together: enough to tell neighbouring shapes' medians apart


@dataclass(frozen=True)
class ShippedArtifact:
    """An artifact on disk with its measured figures. Its files are listed after the folder is complete."""

    artifact: Artifact
    size: Size
    latency: Latency | NotMeasured
    score: Score | NotMeasured
    flops: int | NotMeasured
    peak_memory_bytes: int | NotMeasured
    validation: Score | NotMeasured | None = None
    draws: SplitDraws = NO_DRAWS

    @property
    def figures(self) -> Figures:
        """Return the figures for model cards and before.json."""
        return Figures.model_validate({name: getattr(self, name) for name in Figures.model_fields})


Rows = Callable[[ShippedArtifact], Sequence[Figured]]
"""Returns the job's rows from the baseline to a measured artifact's stage, whose figures may complete the last one."""


@dataclass(frozen=True, kw_only=True)
class ArtifactRequest:
    """One artifact: which model, how it is written, and what its latency is compared with."""

    kind: Kind
    stage: Stage
    precision: ArtifactPrecision
    preprocessor: Path  #: the folder with the files of what reads the inputs
    max_length: int
    baseline: Path | None = None  #: folder of the FP32 artifact of the primary format
    calibrate: Calibrate = no_rows  #: for formats with ranges that the model lacks
    scoring: ScoringLimits = UNLIMITED
    original: Original | None = None  #: what a quality gate compares it with; None if it is the original


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the artifacts of a dataset's run share: the task, how they are verified and measured, and their origin."""

    task: Task
    labels: tuple[str, ...]
    evaluate: Evaluate
    output: Path  #: the job's; artifacts go to output/artifacts/NAME
    rows: Mapping[Split, Path]  #: by split, JSONL of the rows that are scored, in the format of `scoring`
    sample: Sequence[Row]  #: a few rows on which a reopened artifact is verified
    samples: Sequence[int] = ()  #: numbers of the test rows in `rows` whose answers the report shows
    origin: Origin | None = None  #: for model cards and before.json; None if no job made it
    part: str | None = None  #: the dataset's name, if there are several
    seed: int = 0  #: of the rows' resamples
    quality_gate: QualityGate | None = None  #: of the job
    last_try: bool = False  #: whether figures for which memory is too small are reported as not measured
    emulate_seconds: float | None = None  #: time for running an int8 ONNX file under another instruction set

    def name_of(self, request: ArtifactRequest) -> str:
        """Return the name of an artifact, which is also that of its folder. A form (onnx-f16) is in its format's name."""
        precision = None if "-" in request.kind else request.precision
        return "-".join(filter(None, (request.stage, request.kind, precision, self.part)))

    def place_of(self, request: ArtifactRequest) -> Path:
        """Return the final path of an artifact's folder."""
        return self.output / "artifacts" / self.name_of(request)

    def describe(self, model: PreTrainedModel, folder: Path, request: ArtifactRequest) -> int:
        """Write preprocessor and config beside the weights; return the id of the padding token."""
        self._write_preprocessor(model, folder, request)
        return write_config(model, folder, self.labels, request.max_length, request.kind)

    def _write_preprocessor(self, model: PreTrainedModel, folder: Path, request: ArtifactRequest) -> None:
        modality_of(self.task).write_preprocessor(request.preprocessor, folder, request.max_length, self.task, model)

    def write(self, model: PreTrainedModel, folder: Path, request: ArtifactRequest) -> tuple[int, RawInput | None]:
        """Write an artifact's files but card and manifest; return the id of the padding token, and the file's `RawInput`."""
        exporter = exporter_of(request.kind)
        self._write_preprocessor(model, folder, request)  # before the weights: some formats have the vocabulary in their file
        exporter.write(model, folder, request.precision)
        for path in weights_of(folder, request.kind):
            path.chmod(0o644)  # safetensors writes files that only the owner can read
        pad_id = write_config(model, folder, self.labels, request.max_length, request.kind)
        raw = modality_of(self.task).raw_input(folder) if self.evaluate.raw_inputs else None
        return pad_id, raw if raw is not None and exporter.take_raw_input(folder, raw) else None

    def measure_spec(self, folder: Path, request: ArtifactRequest, *, seconds: float = SECONDS) -> MeasureSpec:
        """Return the input of the process that measures an artifact."""
        rows = {split: str(path.resolve()) for split, path in self.rows.items()}
        has_card = bool(rows) and training_device().type == "cuda"
        lacking = lacking_on_card(request.kind) if has_card else None
        return MeasureSpec(
            kind=request.kind,
            folder=str(folder.resolve()),
            baseline=str(request.baseline.resolve()) if request.baseline else None,
            task=self.task,
            labels=self.labels,
            test_rows=rows.get("test"),
            validation_rows=rows.get("validation"),
            samples=tuple(self.samples),
            seed=self.seed,
            evaluate=self.evaluate,
            score_threads=torch.get_num_threads(),
            device="cuda" if has_card and lacking is None else "cpu",
            not_on_card=lacking,
            rounds=request.precision not in WHOLE,
            score_rows=dict(request.scoring.rows),
            score_seconds=request.scoring.seconds,
            by_row=self.quality_gate is not None,
            seconds=seconds,
        )


@dataclass(frozen=True, kw_only=True)
class WrittenArtifact:
    """A request's verified files, in a folder that lacks card and manifest. model: in memory or without weights."""

    request: ArtifactRequest
    model: PreTrainedModel
    folder: Path
    stored: str  #: how its weights are stored, for its size
    simulation: Simulation | None  #: its integers; None is floating point
    flops: int | NotMeasured
    compared: ComparedAnswers | NotCompared | None = None
    unmeasured: str | None = None  #: why it cannot be measured
    raw: RawInput | None = None  #: the input that its file has in place of the model's
    trained_as_shipped: bool | None = None  #: whether training computed with its numbers; None where nothing trains
    interface: Interface | None = None  #: what it reads and answers; None if it was not opened
    zeros: int = 0  #: parameters that fill narrower layers of a form which states one width


@dataclass(frozen=True)
class MeasuredArtifact:
    """An artifact with its figures, in a folder that still lacks what contains its stage's row. card: without the rows."""

    shipped: ShippedArtifact
    folder: Path
    card: ModelCard
    interface: Interface | None = None  #: what it reads and answers; None if it was not opened

    def complete(self, rows: Sequence[Figured]) -> ShippedArtifact:
        """Add card, before.json, recipe, licence and manifest; return the artifact with its list of files. rows: those from the
        baseline to the artifact's stage; of an artifact that no job made, none.
        """
        origin, artifact = self.card.origin, self.shipped.artifact
        if origin is not None:
            write_origin(origin, self.folder)
            kept = tuple(row.model_copy(update={"ranges": ()}) for row in rows)
            before = Before(
                job=origin.job,
                artifact=artifact.name,
                stage=artifact.stage,
                task=self.card.task,
                part=artifact.part,
                pairs=self.card.pairs,
                figures=self.shipped.figures,
                baseline=kept[0],
                rows=kept,
                environment=origin.versions,
            )
            (self.folder / "before.json").write_text(as_json(before.model_dump(mode="json")), "utf-8")
        (self.folder / "README.md").write_text(replace(self.card, rows=rows).render(), "utf-8")
        files = write_manifest(self.folder, artifact.kind, self.interface)
        return replace(self.shipped, artifact=artifact.model_copy(update={"files": files}))


def ship(
    model: PreTrainedModel, request: ArtifactRequest, run: RunSettings, rows: Rows = lambda _: ()
) -> Generator[Step, None, ShippedArtifact]:
    """Write an artifact's folder atomically, replacing what was there; yield the score's progress steps and return its figures.
    model: a stock model for the run's task, with simulated quantization if the precision is an integer one. Raises
    ExportMismatch if the reopened artifact's outputs differ from the model's, and OutOfMemory.
    """
    exporter, precision = exporter_of(request.kind), request.precision
    own, trained = _count(model), exporter.stated(model)
    model = exporter.prepared(trained, request.calibrate)
    # If nothing is simulated, weights are quantized as dynamic-int8.
    simulation = (simulation_of(model) or DYNAMIC) if precision in INTEGERS else None
    with durable_files.folder(run.place_of(request)) as folder:
        pad_id, raw = run.write(model, folder, request)
        scorer, sample = scorer_of(run.task, run.evaluate, run.labels), list(run.sample)
        int8, half = simulation is not None, HALVES.get(precision)
        agreement = verify(model, folder, kind=request.kind, int8=int8, half=half, sample=sample, scorer=scorer, pad_id=pad_id)
        compared = None
        if simulation is not None:
            asked = asked_of(scorer, folder, sample, model, pad_id)
            compared = exporter.compare_processors(folder, asked, simulation, run.emulate_seconds)
        written = WrittenArtifact(
            request=request,
            model=model,
            folder=folder,
            stored=exporter.stored_as(model, precision),
            simulation=simulation,
            flops=count_flops(model, run.evaluate, run.task),
            compared=compared,
            raw=raw,
            trained_as_shipped=model is trained and exporter.trained_as_shipped(precision, simulation_of(model)),
            interface=agreement.interface,
            zeros=_count(trained) - own,
        )
        measured = yield from measure_written(written, run)
        return measured.complete(rows(measured.shipped))


def measure_written(written: WrittenArtifact, run: RunSettings) -> Generator[Step, None, MeasuredArtifact]:
    """Measure an artifact and assemble its figures and its card. Yields the score's progress steps."""
    request, model, folder = written.request, written.model, written.folder
    exporter, weights = exporter_of(request.kind), weights_of(folder, request.kind)
    if written.unmeasured is not None:
        found = unmeasured(written.unmeasured)
    else:
        found = yield from measure_artifact(run.measure_spec(folder, request), last_try=run.last_try)
    gate, original = run.quality_gate, request.original
    artifact = Artifact(
        name=run.name_of(request),
        kind=request.kind,
        stage=request.stage,
        precision=request.precision,
        files=(),
        score=found.score,
        validation=found.validation,
        opens_with=exporter.opens_with(request.precision, run.task, split=len(weights) > 1),
        part=run.part,
        compared_on=written.compared,
        latency=found.latency,
        trained_as_shipped=written.trained_as_shipped,
        answers=found.answers,
        gate=None
        if gate is None or original is None
        else judge_artifact(gate, scorer_of(run.task, run.evaluate, run.labels), original, found.draws),
        operators=found.operators,
    )
    size = Size(bytes=sum(path.stat().st_size for path in weights), dtype=written.stored, bytes_at_16_bit=2 * _count(model))
    figures = {name: value for name, value in found if name not in ("answers", "operators", "saved")}
    shipped = ShippedArtifact(artifact=artifact, size=size, flops=written.flops, **figures)
    card = ModelCard(
        artifact=artifact,
        figures=shipped.figures,
        scheme=None if written.simulation is None else written.simulation.scheme,
        portable=written.simulation is not None and written.simulation.portable,
        task=run.task,
        labels=run.labels,
        max_length=request.max_length,
        inputs=inputs_of(model) if written.raw is None else (written.raw.name,),
        raw=written.raw is not None,
        symmetric=written.simulation is not None and written.simulation.symmetric,
        pairs=any("pair" in row for row in run.sample),
        positions=adapter_of(model).max_positions(model.config) if TASKS[run.task].generates else None,
        as_filed=exporter.reads_as_filed(folder),
        origin=run.origin,
        lacks_form=adapter_of(model).lacks_form(model.config),
        zeros=written.zeros,
    )
    return MeasuredArtifact(shipped, folder, card, written.interface)


def _count(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def weights_of(folder: Path, kind: Kind) -> list[Path]:
    """Return the files that hold an artifact's weights."""
    return [path for pattern in ARTIFACT_FORMATS[kind].weights for path in folder.glob(pattern)]


SILENT_SECONDS = 3000.0
"""Seconds after which a measuring process that says nothing is given up: less than a worker waits for a sign of the engine."""


def measure_artifact(spec: MeasureSpec, *, last_try: bool = False) -> Generator[Step, None, Measured]:
    """Measure in a fresh process, in which no training ever ran; yield the score's progress steps. If the child process does
    not end well, only the figures that it has not reported are lost, not the job. If it was to score on a GPU and has not, the
    GPU may be why: it is measured again without. If it ran out of memory and an attempt is left, another machine or time may
    suffice: raises OutOfMemory unless `last_try`.
    """
    found: Measured | None = None
    try:
        for line in child_lines("measure", spec, silence=SILENT_SECONDS):
            answer = parse_line.validate_json(line)
            if isinstance(answer, Measured):
                found = answer
            else:
                yield Step(answer.done, answer.total)
    except ChildFailed as problem:
        lacking = [name for name in FIGURE_OF.values() if found is None or isinstance(getattr(found, name), NotMeasured)]
        if spec.device == "cuda" and lacking:
            again = spec.model_copy(update={"device": "cpu", "not_on_card": str(problem)[:500]})
            return (yield from measure_artifact(again, last_try=last_try))
        if isinstance(problem, ChildOutOfMemory) and not last_try:
            raise OutOfMemory(f"the artifact could not be measured: {problem}", param="evaluate") from problem
        if found is None:
            return unmeasured(str(problem))
        reason = NotMeasured(not_measured=str(problem))
        return found.model_copy(update=dict.fromkeys(lacking, reason))
    assert found is not None, "a child that ends well has answered"  # noqa: S101
    return found


def unmeasured(cause: str) -> Measured:
    """Return the result of a measurement that did not take place."""
    reason = NotMeasured(not_measured=cause)
    return Measured(latency=reason, score=reason, peak_memory_bytes=reason, validation=reason)


def measure_latency(model: PreTrainedModel, request: ArtifactRequest, run: RunSettings) -> Latency | NotMeasured:
    """Export a model, measure its latency against the baseline's, and remove the files. Raises OutOfMemory."""
    return _timed(model, request, run).latency


def _timed(model: PreTrainedModel, request: ArtifactRequest, run: RunSettings) -> Measured:
    with tempfile.TemporaryDirectory(dir=run.rows["test"].parent, prefix="timed-") as name:
        folder = Path(name)
        run.write(model, folder, request)
        spec = replace(run, rows={}).measure_spec(folder, request, seconds=TIMED_SECONDS)
        return run_silently(measure_artifact(spec, last_try=run.last_try))


def measure_beside(
    model: PreTrainedModel, others: Iterable[PreTrainedModel], request: ArtifactRequest, run: RunSettings
) -> Iterator[Saving | NotMeasured]:
    """Export a model, and measure what each of others saves of its time. The files are removed. Raises OutOfMemory."""
    with tempfile.TemporaryDirectory(dir=run.rows["test"].parent, prefix="timed-") as name:
        run.write(model, Path(name), request)
        for other in others:
            found = _timed(other, replace(request, baseline=Path(name)), run)
            timed = found.latency
            yield Saving(found.saved, timed.baseline_median_ms) if isinstance(timed, Latency) else timed


@torch.inference_mode()
def count_flops(model: nn.Module, evaluate: Evaluate, task: Task) -> int:
    """Count the floating-point operations of one forward pass at evaluate's shape, 2 per multiply-add. Quantized operations
    count like floating-point ones: the figure describes the shape, not the precision.
    """
    inputs = modality_of(task).example_inputs(model, evaluate.batch, evaluate.length)
    with FlopCounterMode(display=False) as counter:
        plain_model(model)(**inputs)
    return int(counter.get_total_flops())

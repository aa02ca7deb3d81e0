"""Runs a job on one dataset: holds its rows and model, ships the model, resumes from checkpoints."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from transformers import PreTrainedModel

from compression.engine import checkpoints
from compression.engine.checkpoints import Fingerprints, StageCheckpoint
from compression.engine.context import StageContext
from compression.engine.job_models import STUDENT, ModelSource, resolve_models
from compression.engine.phases import SHIP
from compression.engine.reporting.stage_rows import SCORED, stage_row, write_scored_rows
from compression.engine.shipping import ArtifactRequest, Rows, RunSettings, ShippedArtifact, measure_latency, ship
from compression.engine.stages.prune import aimed
from compression.engine.stages.registry import follows_cut, planned, runner_of
from compression.engine.stages.vocabulary import reduce_vocabulary
from compression.evaluation.lm_eval import harness_job
from compression.export.exporter import exporter_of, further_exporters
from compression.export.instruction_sets import told
from compression.export.provenance import Origin
from compression.modalities.modality import Dataset, InputPruner, Modality, Preprocessor
from compression.modalities.registry import modality_of
from compression.models import loading, sanitized_folder
from compression.models.adapters.registry import adapter_of
from compression.models.architectures import heads
from compression.models.files.uploaded import uploaded
from compression.planning.preflight import check_kept, check_task, evaluation_settings
from compression.planning.verdicts import judged
from compression.quantization.fake_quantize import simulation_of
from compression.schema.artifact_formats import ARTIFACT_FORMATS, Kind
from compression.schema.errors import InvalidSpec
from compression.schema.events import Event, Log
from compression.schema.job_spec import DatasetSpec as Asked, Spec
from compression.schema.recipe.base import Split, Task
from compression.schema.recipe.recipe import Evaluate, Recipe
from compression.schema.report.draws import SplitDraws
from compression.schema.report.measurements import Latency, NotMeasured, Row, TaskFigure
from compression.schema.report.report import Artifact
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, STAGES, Stage
from compression.schema.tasks import TASKS
from compression.system import process
from compression.system.progress import ProgressTracker, Step
from compression.system.sealed_folder import UnusableCheckpoint
from compression.training.budget import Budget
from compression.training.config import check_precision
from compression.training.save import TrainingCheckpointer

UNPACKED = Path("scratch", "unpacked")
"""Folder in the job's output of models that stock code opens, if it cannot open the uploaded ones."""
SAMPLE = 64
"""Rows of validation on which an artifact's outputs must match the engine's."""


@dataclass
class DatasetRun:
    """A dataset, the state of its model between stages, and its own rows so far.

    evaluate: the job's evaluation settings for this dataset, with an open window filled in. kind: the kind of artifact that
    ships and is measured after each stage. scored: by split, the rows that are scored, if not all of them are. draws: by stage,
    the artifact's scores on resamples of the rows.
    """

    spec: Spec
    asked: Asked
    base: Path
    output: Path
    modality: Modality
    dataset: Dataset
    reading: Preprocessor
    state: StageContext
    evaluate: Evaluate
    kind: Kind
    scored: Mapping[Split, list[int]] = field(default_factory=dict)
    fingerprints: Fingerprints = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    draws: dict[Stage, SplitDraws] = field(default_factory=dict)

    @classmethod
    def open(cls, spec: Spec, base: Path, asked: Asked) -> "DatasetRun":
        """Read model and data, and refuse an impossible job before any training."""
        recipe, output, modality = spec.recipe, base / spec.output, modality_of(asked.task)
        sent = sanitized_folder.sanitized_folder(base / spec.model, output / UNPACKED / "model")
        dataset = modality.read(asked.data, base, asked.task, recipe.train.seed)
        evaluate = _evaluation(spec, asked, dataset)
        notes = list(sanitized_folder.notes(spec, base))
        folder, note = modality.adapted(sent, dataset, asked.task, output / "scratch" / "apart-models.base", "models.base")
        notes += [] if note is None else [note]
        model = loading.load_model(folder, dataset.labels, asked.task, seed=recipe.train.seed)
        if dataset.labels:
            dataset = dataset.in_order(loading.head_labels(model.config))
        reading = modality.preprocessor(folder, model.config, recipe.train.max_length)
        notes += modality.preprocessor_notes(folder)
        shape, positions = adapter_of(model).shape_of(model.config), adapter_of(model).max_positions(model.config)
        evaluate = modality.evaluation(evaluate, asked.task, recipe.train.max_length, positions)
        pruner: InputPruner | None = None
        if recipe.prune is not None and (ratio := recipe.prune.vocabulary_ratio):
            place = output / "scratch" / f"preprocessor-{asked.name}".rstrip("-")
            pruner = modality.input_pruner(folder, model.config, dataset, reading, place, ratio)
        planned = aimed(model, recipe.prune, pruner) if recipe.prune is not None else shape
        task = modality.task(asked.task, evaluate, dataset.labels)
        if task.packed is not None:
            harness_job.check(spec, base, positions)
            check_kept(recipe, model.config.vocab_size)
        kind = _kind(model, recipe, notes)
        scored = modality.scored(dataset, reading, evaluate, asked.task, recipe.train.seed)
        rows = modality.encode(dataset, reading, task)
        own = ModelSource("models.base", folder, reading, shape, positions, model.config)
        cast = resolve_models(own, *_named(spec, base, modality, dataset, notes, own), dataset, task, recipe, planned)
        if cast.student is not None and 0 < cast.student.positions < evaluate.length:
            raise InvalidSpec(f"the student takes at most {cast.student.positions} tokens", param="evaluate.length")
        augmenter = modality.augmenter(spec, base, folder, dataset, reading, task)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        check_precision(recipe.train.precision, device)
        state = StageContext(
            recipe,
            rows,
            model.to(device),
            ProgressTracker([]),
            parts=spec.split_batches,
            budget=Budget(recipe.train.max_steps, recipe.train.max_minutes, len(spec.asked)),
            targets=spec.targets,
            augmenter=augmenter,
            unlabelled=reading.unlabelled(dataset.unlabelled, task) if dataset.unlabelled else None,
            cast=cast,
            scratch=output / "scratch",
            input_pruner=pruner,
            memory=spec.memory_bytes,
            notes=notes,
            new_head=not loading.has_head(loading.read_config(folder), heads.of_task(asked.task)),
        )
        part = cls(spec, asked, base, output, modality, dataset, reading, state, evaluate, kind, scored)
        state.timed = part.timed
        write_scored_rows(part.scored_rows, dataset, scored)
        return part

    def begin(self, checkpointer: TrainingCheckpointer, tracker: ProgressTracker, fingerprints: Fingerprints) -> None:
        """Set the checkpointer for training in progress, the job's tracker and its stages' fingerprints."""
        self.state.checkpointer, self.state.tracker, self.fingerprints = checkpointer, tracker, fingerprints

    @property
    def name(self) -> str:
        """The dataset's name; empty if it is the job's only one."""
        return self.asked.name

    @property
    def seed(self) -> int:
        """Seed of the resamples of its rows. Each dataset has its own, so that their draws are independent."""
        return [one.name for one in self.spec.asked].index(self.name)

    @property
    def task(self) -> Task:
        """The dataset's task."""
        return self.asked.task

    @property
    def scored_rows(self) -> dict[Split, Path]:
        """Files from which the measuring process reads the splits that it scores."""
        return {split: self.output / "scratch" / f"{split}{self._suffix}.jsonl" for split in SCORED}

    @property
    def _suffix(self) -> str:
        return f"-{self.name}" if self.name else ""

    def take_up(self, folder: Path, done: StageCheckpoint, beginning: Path) -> None:
        """Resume from a finished stage: restore its rows, its model and its teacher.

        folder: the folder of its checkpoint. beginning: the folder of the baseline's checkpoint, which an earlier attempt may
        have written. Raises UnusableCheckpoint, before anything is changed.
        """
        model = checkpoints.open_model(folder, done)
        first = checkpoints.read(beginning, BASELINE, self.fingerprints, self.name)
        is_asked = self.state.recipe.has_teacher or not self._has_artifact(done.rows[0])
        teacher = checkpoints.open_model(beginning, first) if is_asked else None
        originals = checkpoints.open_teachers(beginning, first) if self._asks_originals_after(done.stage) else []
        device = self.state.device
        self.state.model = model.to(device)
        self.state.teacher = teacher.to(device).requires_grad_(False) if teacher is not None else None
        self.state.originals = [original.requires_grad_(False) for original in originals]
        self.state.pruning, self.state.budget.spent = done.pruning, done.spent
        self.state.sensitivity = done.sensitivity
        self.state.smoothed = checkpoints.open_smoothed(folder, done)
        self.state.notes.clear()  # notes of opening the job: the baseline's row has them
        self.rows, self.draws = list(done.rows), dict(done.draws)

    def _asks_originals_after(self, stage: Stage) -> bool:
        """Return whether a later stage of the job needs the further originals."""
        later = STAGES[STAGES.index(stage) + 1 :]
        return any(runner_of(one).asks_teachers for one in planned(self.state.recipe) if one in later)

    def restore_baseline(self) -> Iterator[Event]:
        """Rewrite a missing baseline artifact from the teacher; drop the teacher if the recipe has none."""
        if not self._has_artifact(self.rows[0]):
            assert self.state.teacher is not None, "the pipeline takes up a checkpoint first"  # noqa: S101
            yield Log(message="The baseline's artifact is written again: latency is held against it.")
            again = self.ship(self.state.teacher, BASELINE, self.kind, rows=lambda _: self.rows[:1])
            self.state.begin(BASELINE)
            yield from self.state.tracker.relay(SHIP, again)
        if not self.state.recipe.has_teacher:
            self.state.teacher = None

    def _has_artifact(self, baseline: Row) -> bool:
        return (self.artifact_folder(baseline.artifact) / "config.json").is_file()

    def follow_cut(self) -> None:
        """Change to the new token ids if an earlier stage cut the vocabulary: its model knows no others."""
        if follows_cut(self.rows[-1].stage):
            reduce_vocabulary(self.state, model=False)

    def new_preprocessor(self, stage: Stage) -> Path | None:
        """Return the folder of the preprocessor that a stage's model needs instead of the job's own, or None."""
        return self.state.input_pruner.folder if self.state.input_pruner is not None and follows_cut(stage) else None

    def reader(self, stage: Stage) -> ModelSource:
        """Return the source whose preprocessor fits a stage's model.

        It is the base, or the student that replaced it.
        """
        cast = self.state.cast
        assert cast is not None, "a job has a cast"  # noqa: S101
        return cast.student if stage == DISTILLED and cast.student is not None else cast.base

    def artifact_folder(self, name: str) -> Path:
        """Return the folder of an artifact's files."""
        return self.output / "artifacts" / name

    def ship(
        self, model: PreTrainedModel, stage: Stage, kind: Kind, *, half: bool = False, rows: Rows | None = None
    ) -> Generator[Step, None, ShippedArtifact]:
        """Export, reopen, verify and measure a model as one artifact.

        Latency is compared with the baseline's. Yields the score's progress steps.

        half: ship in 16 bits, whatever quantization the model simulates. rows: returns the rows for before.json from the
        artifact's figures; if None, the existing rows are used.
        """
        request = self.request(model, stage, kind, self.reader(stage).reading.length, half=half)
        device = next(model.parameters()).device
        model.cpu()  # artifacts are for the CPU, and are compared with the CPU's outputs
        process.release_memory()
        shipped = yield from ship(model, request, self.settings, rows or (lambda _: self.rows))
        if (differs := told(shipped.artifact.compared_on)) is not None:
            self.state.notes.append(differs)
        model.to(device)
        return shipped

    @cached_property
    def settings(self) -> RunSettings:
        """What all of its artifacts share."""
        return RunSettings(
            task=self.task,
            labels=self.dataset.labels,
            evaluate=self.evaluate,
            output=self.output,
            rows=self.scored_rows,
            sample=self.dataset.judged("validation")[:SAMPLE],
            origin=Origin.of(self.spec, self.base),
            part=self.name or None,
            seed=self.seed,
            last_try=self.spec.split_batches > 1,
            emulate_seconds=self.spec.emulate_seconds,
        )

    def request(
        self, model: PreTrainedModel, stage: Stage, kind: Kind, max_length: int, *, half: bool = False
    ) -> ArtifactRequest:
        """Return the request for an artifact of a stage's model. half: in 16 bits, whatever it simulates."""
        simulation = simulation_of(model)
        is_baseline = stage == BASELINE and kind == self.kind
        return ArtifactRequest(
            kind=kind,
            stage=stage,
            precision="bfloat16" if half else exporter_of(kind).precision_of(simulation.scheme if simulation else None, model),
            tokenizer=self.new_preprocessor(stage) or self.reader(stage).folder,
            max_length=max_length,
            baseline=None if is_baseline else self.artifact_folder(self.rows[0].artifact),
        )

    def further_forms(self) -> list[tuple[Kind, bool]]:
        """Return the (format, whether in 16 bits) in which a model ships at the job's end, beside that of the stages."""
        exporters, generates = further_exporters(self.state.model), TASKS[self.task].generates
        whole = [(kind, False) for kind in exporters if kind != self.kind]
        return whole + [(kind, True) for kind, exporter in exporters.items() if generates and exporter.writes_half]

    def timed(self, model: PreTrainedModel) -> Latency | NotMeasured:
        """Export a model in the form of the pruned artifact and measure only its latency, against the baseline's."""
        process.release_memory()
        return measure_latency(model, self.request(model, PRUNED, self.kind, self.evaluate.length), self.settings)

    def finish(self, stage: Stage, shipped: ShippedArtifact, seconds: float, figures: tuple[TaskFigure, ...]) -> Row:
        """Complete a stage's row and clear its notes.

        Remedies are offered once for the job, so in a job with several datasets the row of each offers none.
        """
        row = self.row(stage, shipped, seconds).model_copy(update={"lm_eval": figures})
        if self.name and row.verdict is not None:
            row = row.model_copy(update={"verdict": row.verdict.model_copy(update={"remedies": ()})})
        self.rows.append(row)
        self.state.notes.clear()
        return row

    def model_after(self, stage: Stage, folder: Path) -> Generator[Event, None, tuple[Stage, PreTrainedModel]]:
        """Return the model after a stage: the current one, or that of the stage's checkpoint in `folder`.

        A checkpoint that was damaged since must not fail the job: then the last stage's model is returned, and the log says so.
        """
        last = self.rows[-1].stage
        if stage == last:
            return last, self.state.model
        yield Log(message=f"The headline is not the last stage: the model is taken from the checkpoint of {stage}.")
        try:
            return stage, checkpoints.open_model(folder, checkpoints.read(folder, stage, self.fingerprints, self.name))
        except UnusableCheckpoint as problem:
            yield Log(level="warning", message=f"The model of {last} is taken after all: {problem}."[:4000])
            return last, self.state.model

    def row(self, stage: Stage, shipped: ShippedArtifact, seconds: float) -> Row:
        """Build a stage's row with its verdict."""
        self.draws[stage] = shipped.draws
        row = stage_row(
            stage,
            shipped,
            self.state.model,
            self.rows,
            self.draws,
            sent=uploaded(self.base / self.spec.model),
            seconds=seconds,
            notes=self.state.notes,
            ranges=self.state.ranges,
            preparation=self.state.preparation if stage == BASELINE else None,
        )
        state, spec = self.state, self.spec
        limit, task, draws = state.budget.reached(), self.task, self.draws
        return judged(row, self.rows, spec.recipe, spec.targets, limit=limit, task=task, draws=draws)

    def checkpoint(self, stage: Stage, artifacts: Sequence[Artifact]) -> StageCheckpoint:
        """Return the facts that a job needs to resume after `stage`."""
        return StageCheckpoint(
            fingerprint=self.fingerprints[stage],
            stage=stage,
            part=self.name,
            task=self.task,
            labels=self.dataset.labels,
            simulation=simulation_of(self.state.model),
            rows=tuple(self.rows),
            artifacts=tuple(artifacts),
            pruning=self.state.pruning,
            sensitivity=self.state.sensitivity,
            spent=self.state.budget.spent,
            draws=self.draws,
            files=(),
        )


def _evaluation(spec: Spec, asked: Asked, dataset: Dataset) -> Evaluate:
    """Return the evaluation settings for a dataset.

    Raises InvalidSpec, also if the recipe does not fit the dataset's task.
    """
    names = [one.name for one in spec.asked]
    evaluate = evaluation_settings(spec.evaluate, names.index(asked.name), len(names), asked.task, dataset.labels)
    check_task(asked.task, spec.recipe, evaluate)
    return evaluate


def _kind(model: PreTrainedModel, recipe: Recipe, notes: list[str]) -> Kind:
    """Return the kind of a model's artifacts; if it is not the primary format, note why.

    Raises InvalidSpec if a target latency needs a file of that format.
    """
    primary, other, *_ = ARTIFACT_FORMATS
    if (unknown := exporter_of(primary).hinders(model)) is None:
        return primary
    notes.append(f"There is no ONNX file, and speeds are not measured: {unknown}.")
    if recipe.prune is not None and recipe.prune.target_latency is not None:
        cause = f"nothing but an ONNX file is timed, and none can be written: {unknown}"
        raise InvalidSpec(cause, param="recipe.prune.target_latency", remedy="Aim at parameters: target_params.")
    return other


def _named(
    spec: Spec, base: Path, modality: Modality, dataset: Dataset, notes: list[str], own: ModelSource
) -> tuple[Path | None, list[Path]]:
    """Return the folders of the job's student and teachers, in a form that stock code can open."""
    unpacked, student = base / spec.output / UNPACKED, None
    if spec.student is not None:
        sent = sanitized_folder.sanitized_folder(base / spec.student, unpacked / "student")
        target = base / spec.output / "scratch" / f"apart-{STUDENT}"
        student, note = modality.adapted(sent, dataset, dataset.task, target, STUDENT, like=own.folder)
        notes += [] if note is None else [note]
    teachers = enumerate(spec.teachers)
    return student, [sanitized_folder.sanitized_folder(base / one, unpacked / f"teacher-{n}") for n, one in teachers]

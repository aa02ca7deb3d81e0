"""Runs a job on one dataset with its model in memory: the stages, shipping, and resuming from checkpoints."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedModel

from compression.engine import checkpoints
from compression.engine.artifact_kind import artifact_kind, input_pruner_of
from compression.engine.backend import Finish
from compression.engine.checkpoints import Fingerprints, StageCheckpoint
from compression.engine.context import StageContext
from compression.engine.device_table import shape_times
from compression.engine.job_data import UNPACKED, JobData, read_dataset
from compression.engine.job_models import ModelSource, adapted_folder, open_job_models, with_views
from compression.engine.paired_test import original_of
from compression.engine.reporting.dataset_facts import DatasetSummary
from compression.engine.scoring_limits import scoring_limits
from compression.engine.shipping import (
    ArtifactRequest,
    Rows,
    RunSettings,
    ShippedArtifact,
    measure_beside,
    measure_latency,
    ship,
)
from compression.engine.stage_clock import StageClock
from compression.engine.stage_result import StageResult
from compression.engine.stages.insert_quantization import calibration_rows, settle_ranges
from compression.engine.stages.prune import aimed
from compression.engine.stages.registry import LAST, SHIP, follows_cut, job_progress, planned, run_stage, runner_of
from compression.engine.stages.search_refusals import check_search_targets
from compression.engine.stages.vocabulary import reduce_vocabulary
from compression.evaluation.lm_eval import harness, harness_job
from compression.evaluation.measure import Saving
from compression.export.exporter import exporter_of, further_exporters
from compression.export.instruction_sets import difference_note
from compression.modalities.base import Examples
from compression.models import loading, sanitized_folder
from compression.models.adapters.registry import adapter_of
from compression.models.architectures import heads
from compression.models.architectures.families import ARCHITECTURE_SPECS
from compression.planning.network_rules import check_network, check_recomputing, check_without_network, fitted
from compression.planning.preflight import check_kept
from compression.quantization.calibration import calibrate
from compression.quantization.fake_quantize import Simulation, simulation_of
from compression.schema.artifact_formats import ARTIFACT_FORMATS, BUILT_IN, Kind
from compression.schema.errors import OutOfMemory
from compression.schema.events import ArtifactReady, Event, Log
from compression.schema.job_spec import DatasetSpec as Asked, Spec
from compression.schema.report.draws import SplitDraws
from compression.schema.report.measurements import Latency, NotMeasured, Row
from compression.schema.report.report import Artifact, File
from compression.schema.searches import check_installed
from compression.schema.stages import BASELINE, DISTILLED, PRUNED, STAGES, Stage
from compression.schema.tasks import TASKS
from compression.system.device import on_cpu, training_device
from compression.system.interrupts import Pause
from compression.system.progress import ProgressTracker, Step, portion_of
from compression.system.sealed_folder import STATE, UnusableCheckpoint
from compression.training.budget import Budget
from compression.training.config import check_precision
from compression.training.save import TrainingCheckpointer
from compression.training.work import Processes

SAMPLE = 64  #: rows of validation on which an artifact's outputs must match the engine's; of long texts fewer


@dataclass
class DatasetRun:
    """A dataset, the state of its model between stages, and its own rows so far."""

    data: JobData
    state: StageContext
    kind: Kind  #: of the artifact that ships and is measured after each stage
    fingerprints: Fingerprints = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    draws: dict[Stage, SplitDraws] = field(default_factory=dict)  #: by stage, the artifact's scores on resamples of the rows
    suffix: ClassVar[str] = ""
    on_disk: ClassVar[bool] = False

    @classmethod
    def open(cls, spec: Spec, base: Path, asked: Asked) -> "DatasetRun":
        """Read model and data, and refuse an impossible job before any training."""
        recipe, output, read = spec.recipe, base / spec.output, read_dataset(spec, base, asked)
        notes = [*sanitized_folder.notes(spec, base), *(spec.resolved.reasons if spec.resolved is not None else ())]
        source = sanitized_folder.sanitized_folder(base / spec.model, output / UNPACKED / "model", read[0].labels)
        folder = adapted_folder(source, read[0], output, "models.base", notes)
        some = TASKS[asked.task].some_labels
        model = loading.load_model(folder, read[0].labels, asked.task, seed=recipe.train.seed, some=some)
        labels = loading.head_labels(model.config) if read[0].labels else ()
        data = JobData.of(spec, base, asked, read, folder, model.config, labels)
        notes += [*data.modality.preprocessor_notes(folder), *adapter_of(model).notes(model.config)]
        own = ModelSource.of("models.base", folder, data.reading, model)
        recipe = fitted(recipe, ARCHITECTURE_SPECS[model.config.model_type], own.shape)
        check_recomputing(recipe, ARCHITECTURE_SPECS[model.config.model_type])
        (check_network if own.shape.widths is not None else check_without_network)(recipe)
        pruner = input_pruner_of(data, own)
        aim = aimed(model, recipe, pruner, data.evaluate.length)
        if data.task.packed is not None:
            harness_job.check(spec, base, own.positions)
            check_kept(recipe, model.config.vocab_size)
        kind = artifact_kind(model, recipe, notes)
        rows = with_views(data.modality.encode(data.dataset, data.reading, data.task), data.task, recipe)
        models = open_job_models(data, own, aim, notes)
        device = training_device()
        check_precision(recipe.train.precision, device)
        check_installed(recipe.prune.search if recipe.prune is not None else None)
        state = StageContext(
            recipe,
            rows,
            model.to(device),
            ProgressTracker([]),
            models,
            result=StageResult(notes),
            parts=spec.split_batches,
            budget=Budget(recipe.train.max_steps, recipe.train.max_minutes, len(spec.asked)),
            augmenter=data.modality.augmenter(spec, base, folder, data.dataset, data.reading, data.task),
            unlabelled=data.reading.unlabelled(data.dataset.unlabelled, data.task) if data.dataset.unlabelled else None,
            scratch=data.scratch,
            input_pruner=pruner,
            memory=spec.memory_bytes,
            cache_bytes=spec.cache_bytes,
            known_tables=tuple(base / name for name in spec.error_tables),
            targets=spec.targets,
            length=data.evaluate.length,
            new_head=not loading.has_head(loading.read_config(folder), heads.of_task(asked.task)),
        )
        part = cls(data, state, kind)
        state.timed, state.timed_beside, state.model_of = part.timed, part.timed_beside, part.model_of
        state.device_times = lambda: shape_times(state, spec, base, data.evaluate)
        return part

    @staticmethod
    def progress(spec: Spec, rows: Mapping[str, Mapping[str, int]]) -> ProgressTracker:
        """Return the tracker of a job's phases."""
        return job_progress(spec.recipe, rows, spec.evaluate.lm_eval)

    def begin(
        self, checkpointer: TrainingCheckpointer, tracker: ProgressTracker, fingerprints: Fingerprints, processes: Processes
    ) -> None:
        """Set the job's checkpointer for training in progress, its tracker, its stages' fingerprints and what trains."""
        self.state.checkpointer, self.state.tracker, self.fingerprints = checkpointer, tracker, fingerprints
        self.state.processes = processes

    @property
    def result(self) -> StageResult:
        """What the current stage found out."""
        return self.state.result

    @property
    def budget(self) -> Budget:
        """What is left of the limits on training."""
        return self.state.budget

    @property
    def clock(self) -> StageClock:
        """What the dataset has taken."""
        return self.state.clock

    @property
    def simulation(self) -> Simulation | None:
        """The quantization that the current model simulates."""
        return simulation_of(self.state.model)

    def summary(self) -> DatasetSummary:
        """Return the report's facts about the dataset."""
        data = self.data
        about = data.modality.summary(data.dataset, data.reading, self.state.rows, data.evaluate, data.scored)
        return DatasetSummary(
            task=self.data.task.name,
            labels=data.dataset.labels,
            splits=about.splits,
            rows=about.sizes | {"unlabelled": len(data.dataset.unlabelled)},
            cut=about.cut,
            remarks=about.notes,
            samples=tuple(data.samples.values()),
        )

    def take_up(self, folder: Path, done: StageCheckpoint, beginning: Path) -> None:
        """Restore rows, model and teacher of a finished stage. Raises UnusableCheckpoint, before anything is changed."""
        model = checkpoints.open_model(folder, done)
        first = checkpoints.read(beginning, BASELINE, self.fingerprints, self.data.name)
        later = STAGES[STAGES.index(done.stage) + 1 :]
        asks_originals = any(runner_of(stage).asks_teachers for stage in planned(self.state.recipe) if stage in later)
        is_asked = self.state.recipe.has_teacher or not self._has_artifact(done.rows[0])
        teacher = checkpoints.open_model(beginning, first) if is_asked else None
        originals = checkpoints.open_teachers(beginning, first) if asks_originals else []
        result, device = checkpoints.open_result(folder, done), self.state.device
        self.state.model = model.to(device)
        self.state.teacher = teacher.requires_grad_(False) if teacher is not None else None
        self.state.originals = [original.requires_grad_(False) for original in originals]
        self.state.result = result
        clock, self.state.budget.spent = self.state.clock, done.spent
        clock.shipped, clock.asked = done.ship_seconds, done.asked_seconds
        self.rows, self.draws = list(done.rows), dict(done.draws)

    def restore(self) -> Iterator[Event]:
        """Rewrite a missing baseline artifact from the teacher, which is dropped if the recipe has none, and change to new
        token ids if the vocabulary was cut: a model after the cut knows no other ids.
        """
        if self.state.teacher is not None and not self._has_artifact(self.rows[0]):
            yield Log(message="The baseline's artifact is written again: latency is held against it.")
            again = self.ship(self.state.teacher, BASELINE, self.kind, lambda _: self.rows[:1], scored=False)
            self.state.begin(BASELINE)
            yield from self.state.tracker.relay(SHIP, again)
        if not self.state.recipe.has_teacher:
            self.state.teacher = None
        if follows_cut(self.rows[-1].stage, self.state.recipe):
            reduce_vocabulary(self.state, model=False)

    def _has_artifact(self, baseline: Row) -> bool:
        return (self.artifact_folder(baseline.artifact) / "config.json").is_file()

    def run(self, stage: Stage, finish: Finish) -> Generator[Event, None, Sequence[Artifact]]:
        """Run a stage, ask lm-eval's tasks of its model if the job has any, and ship the model."""
        state = self.state
        if self.rows:
            state.result = state.result.next()  # the baseline's has notes from opening the job
        else:
            yield from check_search_targets(state)
        state.before = tuple(self.rows)
        state.clock.begin(sum(row.seconds for row in self.rows))
        yield from run_stage(state, stage)
        settle_ranges(state)
        yield from self._ask_tasks(stage)

        def rows(shipped: ShippedArtifact) -> Sequence[Row]:
            if (differs := difference_note(shipped.artifact.compared_on)) is not None:
                state.notes.append(differs)
            return finish(shipped, state.model)

        yield from state.tracker.emit_boundary(SHIP, done=False)
        began = state.clock.now()
        shipped = yield from state.tracker.relay(SHIP, self.ship(state.model, stage, self.kind, rows))
        state.clock.shipped = state.clock.now() - began
        return [shipped.artifact]

    def save(self, folder: Path, facts: StageCheckpoint) -> Generator[Event, None, tuple[File, ...]]:
        """Write the model, the further originals after the baseline, and the facts."""
        teachers = self.state.originals if facts.stage == BASELINE else ()
        preprocessor = self.new_preprocessor(facts.stage)
        files = checkpoints.write(folder, self.state.model, facts, teachers, preprocessor, self.state.result)
        yield from self.state.tracker.emit_boundary(SHIP, done=True)
        return files

    def _ask_tasks(self, stage: Stage) -> Iterator[Event]:
        spec, base, state = self.data.spec, self.data.base, self.state
        if (asked := spec.evaluate.lm_eval) is None:
            return
        began, reading = state.clock.now(), self.reader(stage).reading
        place, cache = harness_job.place_of(spec, base), harness_job.cache_of(spec, base)
        seed, parts, check = state.recipe.train.seed, state.parts, state.check_pause
        asking = harness_job.ask(state.model, reading, asked, place, cache, seed=seed, parts=parts, check_pause=check)
        with on_cpu(*state.placed):
            state.result.figures = yield from state.tracker.relay(harness_job.PHASE, asking)
        state.clock.asked = state.clock.now() - began
        limit = f", at most {asked.limit} documents a task" if asked.limit else ""
        figures = f"{len(state.result.figures)} figures of lm-eval {harness.installed()}{limit}"
        state.notes.append(f"Beside the score: {figures}, computed by the model and not by its files.")

    def new_preprocessor(self, stage: Stage) -> Path | None:
        """Return the folder of the preprocessor that a stage's model needs instead of the job's own, or None."""
        pruner = self.state.input_pruner
        return pruner.folder if pruner is not None and follows_cut(stage, self.state.recipe) else None

    def reader(self, stage: Stage) -> ModelSource:
        """Return the source whose preprocessor fits a stage's model: the base, or the student that replaced it."""
        models = self.state.models
        return models.student if stage == DISTILLED and models.student is not None else models.base

    def _reads_with(self, stage: Stage) -> Path:
        """Return the folder of the preprocessor that a stage's model reads with."""
        return self.new_preprocessor(stage) or self.reader(stage).folder

    def artifact_folder(self, name: str) -> Path:
        """Return the folder of an artifact's files."""
        return self.data.output / "artifacts" / name

    def ship(
        self, model: PreTrainedModel, stage: Stage, kind: Kind, rows: Rows, *, half: bool = False, scored: bool = True
    ) -> Generator[Step, None, ShippedArtifact]:
        """Export, reopen, verify and measure a model as one artifact. Yields the score's progress steps. rows: returns those
        for before.json. half: ship in 16 bits, whatever quantization the model simulates. scored: whether its scores are asked.
        """
        request = self.request(model, stage, kind, self.reader(stage).reading.length, half=half)
        with on_cpu(model, *self.state.placed):
            return (yield from ship(model, request, self.settings if scored else replace(self.settings, rows={}), rows))

    @cached_property
    def settings(self) -> RunSettings:
        """What all of its artifacts share."""
        return self.data.settings(self.data.dataset.judged("validation")[:SAMPLE], last_try=self.data.spec.split_batches > 1)

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
            preprocessor=self._reads_with(stage),
            max_length=max_length,
            baseline=None if is_baseline else self.artifact_folder(self.rows[0].artifact),
            scoring=scoring_limits(self.data.spec, self.rows, self.budget.spent.seconds),
            original=None if is_baseline else original_of(self.rows, self.draws),
            calibrate=lambda ranged, settings: calibrate(
                ranged, calibration_rows(self.state, self._train_rows(stage)), settings, self.state.parts
            ),
        )

    def _train_rows(self, stage: Stage) -> Examples:
        """Encode train as a stage's model reads it, which may be an earlier one than the rows are encoded for."""
        reader = self.reader(stage)
        is_whole = reader is self.state.models.base and not follows_cut(stage, self.state.recipe)
        return (self.data.reading if is_whole else reader.reading).encode(self.data.dataset, "train", self.data.task)

    def further_forms(self) -> Generator[Event, None, list[tuple[Kind, bool]]]:
        """Return the (format, whether in 16 bits) in which a model ships at the job's end, beside that of the stages."""
        reads_with = self._reads_with(self.rows[-1].stage)
        exporters, left_out = further_exporters(self.state.model, self.data.spec.recipe.artifacts, reads_with)
        yield from (Log(level="warning", message=message) for message in left_out)
        generates = TASKS[self.data.task.name].generates
        whole = [(kind, False) for kind in exporters if kind != self.kind]
        return whole + [(kind, True) for kind, exporter in exporters.items() if generates and exporter.writes_half]

    def leave_device(self) -> None:
        """Move the models to the CPU: nothing of the job needs the device any more."""
        for model in self.state.placed:
            model.cpu()

    def timed(self, model: PreTrainedModel) -> Latency | NotMeasured:
        """Export a model in the form of the pruned artifact and measure only its latency, against the baseline's."""
        with on_cpu(model):
            return measure_latency(model, self.request(model, PRUNED, self.kind, self.data.evaluate.length), self.settings)

    def timed_beside(self, model: PreTrainedModel, others: Iterable[PreTrainedModel]) -> Iterator[Saving | NotMeasured]:
        """Export a model, then each of others, in the form of the pruned artifact; measure what each saves of its time."""
        request = self.request(model, PRUNED, self.kind, self.data.evaluate.length)
        with on_cpu(model):
            yield from measure_beside(model, (other.cpu() for other in others), request, self.settings)

    def ship_more(self, chosen: Stage, rows: Sequence[Row], folder_of: Callable[[Stage], Path]) -> Iterator[Event]:
        """Ship the headline's model in the further formats: as a checkpoint of its own library, and those of packages.

        A language model's checkpoint also ships in 16 bits, the form that others train on and evaluate, and if an earlier stage
        is the headline, so do both forms of the pruned model. If no ONNX file can be written, the checkpoint shipped after its
        stage already.
        """
        tracker, stages = self.state.tracker, [chosen]
        yield from tracker.emit_boundary(LAST, done=False)
        if TASKS[self.data.task.name].generates and rows[-1].parameters.total < rows[0].parameters.total:
            stages.append(rows[-1].stage)
        forms, shipped = (yield from self.further_forms()), set[Stage]()
        for wanted in stages:
            stage, model = yield from self.model_after(wanted, folder_of(wanted))
            if stage in shipped:  # it is also the headline, or the headline's checkpoint was damaged
                continue
            for number, (kind, half) in enumerate(forms, len(shipped) * len(forms)):
                shipping = self.ship(model, stage, kind, lambda _: self.rows, half=half)
                try:
                    made = yield from tracker.relay(LAST, portion_of(shipping, number, len(stages) * len(forms)))
                except Exception as problem:
                    usual = ARTIFACT_FORMATS[kind] in BUILT_IN and ARTIFACT_FORMATS[kind].by_default
                    if usual or isinstance(problem, Pause | OutOfMemory):
                        raise  # what other runtimes make of a model costs that form alone, not the job
                    yield Log(level="warning", message=f"There is no {kind} artifact of {stage}: {problem}."[:4000])
                    continue
                yield ArtifactReady(artifact=made.artifact)
            shipped.add(stage)
        yield from tracker.emit_boundary(LAST, done=True)

    def model_of(self, stage: Stage) -> PreTrainedModel:
        """Open a finished stage's model from this attempt's checkpoints or the earlier one's. Raises UnusableCheckpoint."""
        place, name = self.state.checkpointer, self.data.name
        here = (place.folder / stage / name / STATE).is_file() or place.resume is None
        folder = place.folder if here else place.resume
        assert folder is not None  # noqa: S101
        return checkpoints.open_model(folder, checkpoints.read(folder, stage, self.fingerprints, name))

    def model_after(self, stage: Stage, folder: Path) -> Generator[Event, None, tuple[Stage, PreTrainedModel]]:
        """Return the current model, or that of the stage's checkpoint in `folder`. A checkpoint that was damaged since must not
        fail the job: then the last stage's model is returned, and the log says so.
        """
        last = self.rows[-1].stage
        if stage == last:
            return last, self.state.model
        yield Log(message=f"The headline is not the last stage: the model is taken from the checkpoint of {stage}.")
        try:
            return stage, checkpoints.open_model(folder, checkpoints.read(folder, stage, self.fingerprints, self.data.name))
        except UnusableCheckpoint as problem:
            yield Log(level="warning", message=f"The model of {last} is taken after all: {problem}."[:4000])
            return last, self.state.model

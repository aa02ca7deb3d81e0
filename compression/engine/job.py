"""Runs one job: holds its specification, the datasets that stages work on, and the results so far.

A stage runs on each dataset in turn and ends with one row: that of the only dataset, or the mean of several. If there are
several, one is in memory at a time; the others are in the checkpoint of the stage that they finished last.
"""

import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compression.engine import checkpoints
from compression.engine.checkpoints import Fingerprints, StageCheckpoint
from compression.engine.dataset_run import DatasetRun
from compression.engine.phases import LAST, SHIP, job_progress, multi_dataset_progress
from compression.engine.reporting.averages import judged_mean_row
from compression.engine.reporting.dataset_facts import DatasetSummary, job_report
from compression.engine.shipping import ShippedArtifact
from compression.engine.stages.insert_quantization import settle_ranges
from compression.engine.stages.registry import run_stage
from compression.evaluation.lm_eval import harness, harness_job
from compression.models.files.uploaded import uploaded
from compression.planning.verdicts import choose
from compression.schema.artifact_formats import ARTIFACT_FORMATS, BUILT_IN
from compression.schema.errors import CompressionError, OutOfMemory
from compression.schema.events import ArtifactReady, Event, Log, PartFinished, StageFinished, StageStarted
from compression.schema.job_spec import DatasetSpec as Asked, Spec
from compression.schema.report.measurements import Row, TaskFigure
from compression.schema.report.report import Artifact, File, Report
from compression.schema.stages import BASELINE, STAGES, Stage
from compression.schema.tasks import TASKS
from compression.system import durable_files, process
from compression.system.interrupts import Pause, never
from compression.system.progress import ProgressTracker, portion_of
from compression.system.sealed_folder import STATE, UnusableCheckpoint, list_files
from compression.training.budget import Budget
from compression.training.save import TrainingCheckpointer


@dataclass
class Job:
    """The state that a job's datasets share: its folders, its rows, its artifacts, its report.

    `about` holds the report's facts about each dataset. `part` is the current DatasetRun, None between two of several.
    """

    spec: Spec
    base: Path
    output: Path
    fingerprints: Fingerprints
    checkpointer: TrainingCheckpointer
    tracker: ProgressTracker
    about: dict[str, DatasetSummary]
    part: DatasetRun | None
    rows: list[Row] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)

    @classmethod
    def open(cls, spec: Spec, base: Path, pause_asked: Callable[[], bool] = never) -> "Job":
        """Read model and data, and refuse an impossible job before any training."""
        about: dict[str, DatasetSummary] = {}
        part: DatasetRun | None = None
        for asked in spec.asked:
            part = None  # one model in memory at a time
            with named(asked):
                part = DatasetRun.open(spec, base, asked)
            about[asked.name] = DatasetSummary.of(part)
        rows = {name: facts.rows for name, facts in about.items()}
        way = (
            multi_dataset_progress(spec.recipe, rows)
            if spec.parts
            else job_progress(spec.recipe, rows[""], spec.evaluate.lm_eval)
        )
        output, work = base / spec.output, checkpoints.fingerprints(spec, base)
        earlier = base / spec.resume if spec.resume is not None else None
        checkpointer = TrainingCheckpointer(output / "checkpoints", work[STAGES[-1]], spec.save_seconds, pause_asked, earlier)
        if spec.parts or part is None:
            part = None
        else:
            part.begin(checkpointer, way, work)
        return cls(spec, base, output, work, checkpointer, way, about, part)

    @property
    def finished(self) -> set[Stage]:
        """The stages that have their row."""
        return {row.stage for row in self.rows}

    def look_for_checkpoint(self, stages: tuple[Stage, ...]) -> tuple[StageCheckpoint | None, list[str]]:
        """Find an earlier attempt's last stage and its saved training; return the stage and any problems."""
        if self.spec.resume is None:
            return None, []
        done, problems = checkpoints.latest(self.base / self.spec.resume, stages, self.fingerprints, tuple(self.about))
        problem = self.checkpointer.look()
        return done, problems + ([problem] if problem else [])

    def go_on_from(self, done: StageCheckpoint) -> Iterator[Event]:
        """Resume an earlier attempt: restore its rows, models and teachers, without training."""
        folder = self.base / (self.spec.resume or "")
        try:
            if self.part is not None:
                self.part.take_up(folder, done, folder)
            for name, facts in self.about.items():
                own = checkpoints.read(folder, done.stage, self.fingerprints, name) if name else done
                facts.pruning, facts.sensitivity = own.pruning, own.sensitivity
        except UnusableCheckpoint as problem:
            yield Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])
            return
        self.rows, self.artifacts = list(done.rows), list(done.artifacts)
        for row in self.rows:
            self.tracker.skip(row.stage)
            yield StageStarted(stage=row.stage, resumed=True)
        if self.part is not None:
            yield from self.part.restore_baseline()
            self.part.follow_cut()

    def enter(self, asked: Asked) -> Generator[Event, None, DatasetRun]:
        """Load a dataset's run in its state after the last finished stage."""
        self.checkpointer.part = self.tracker.part = asked.name
        if self.part is not None and self.part.name == asked.name:
            return self.part
        self.part = None
        process.release_memory()
        part = DatasetRun.open(self.spec, self.base, asked)
        part.begin(self.checkpointer, self.tracker, self.fingerprints)
        if self.rows:
            stage = self.rows[-1].stage
            folder = self.folder_of(stage)
            done = checkpoints.read(folder, stage, self.fingerprints, asked.name)
            part.take_up(folder, done, self.folder_of(BASELINE))
            yield from part.restore_baseline()
            part.follow_cut()
        self.part = part
        return part

    def folder_of(self, stage: Stage) -> Path:
        """Return the folder of a finished stage's checkpoints: this attempt's, or the earlier one's."""
        folder = self.output / "checkpoints"
        if self.spec.resume is not None and not (folder / stage / STATE).is_file():
            return self.base / self.spec.resume
        return folder

    def do(self, stage: Stage) -> Iterator[Event]:
        """Run a stage on each dataset and end it with its row.

        Raises Pause between two datasets if a pause was requested.
        """
        done: dict[str, Row] = {}
        files: tuple[File, ...] = ()
        limits, draws = [], []
        for number, asked in enumerate(self.spec.asked):
            if done and self.checkpointer.pause_asked():
                raise Pause
            with named(asked):
                facts = yield from self.do_part(stage, asked)
            done[asked.name] = facts.rows[-1]
            self.about[asked.name].pruning, self.about[asked.name].sensitivity = facts.pruning, facts.sensitivity
            limits.append(self._limit(facts))
            draws.append(facts.draws)
            found = list_files(self.output / "checkpoints" / stage / asked.name)
            if asked.name:
                found = checkpoints.within(asked.name, found)
                yield PartFinished(stage=stage, part=asked.name, number=number, checkpoint=found)
            files += found
        if not self.spec.parts:
            (row,) = done.values()
            self.rows.append(row)
        else:
            sent = uploaded(self.base / self.spec.model)
            row = judged_mean_row(done, self.rows, self.spec, next(filter(None, limits), None), sent, draws)
            self.rows.append(row)
            files += checkpoints.write_whole(self.output / "checkpoints", self._whole(stage))
        yield StageFinished(row=row, checkpoint=files)

    def do_part(self, stage: Stage, asked: Asked) -> Generator[Event, None, StageCheckpoint]:
        """Run a stage on one dataset, ship its model, complete its row and write a checkpoint."""
        kept = self._kept(stage, asked)
        if kept is not None:
            self.artifacts += kept.artifacts
            yield Log(message=f"{asked.name} had gone through {stage} already.")
            return kept
        started = time.monotonic()
        part = yield from self.enter(asked)
        yield from run_stage(part.state, stage)
        settle_ranges(part.state)
        figures = yield from self._ask_tasks(part, stage)

        def rows(shipped: ShippedArtifact) -> list[Row]:
            part.finish(stage, shipped, time.monotonic() - started, figures)
            return part.rows

        yield from self.tracker.emit_boundary(SHIP, done=False)
        shipped = yield from self.tracker.relay(SHIP, part.ship(part.state.model, stage, part.kind, rows=rows))
        self.artifacts.append(shipped.artifact)
        yield ArtifactReady(artifact=shipped.artifact)
        facts = part.checkpoint(stage, [shipped.artifact] if part.name else self.artifacts)
        beside = part.state.originals if stage == BASELINE else ()
        place, state = self.output / "checkpoints", part.state
        checkpoints.write(place, state.model, facts, beside, part.new_preprocessor(stage), state.smoothed)
        yield from self.tracker.emit_boundary(SHIP, done=True)
        return facts

    def _ask_tasks(self, part: DatasetRun, stage: Stage) -> Generator[Event, None, tuple[TaskFigure, ...]]:
        """Run lm-eval's tasks on a stage's model if the job has any."""
        asked = self.spec.evaluate.lm_eval
        if asked is None:
            return ()
        state, place, cache = part.state, harness_job.place_of(self.spec, self.base), harness_job.cache_of(self.spec, self.base)
        reading, seed, parts = part.reader(stage).reading, state.recipe.train.seed, state.parts
        precompute = harness_job.ask(
            state.model, reading, asked, place, cache, seed=seed, parts=parts, check_pause=state.check_pause
        )
        figures = yield from self.tracker.relay(harness_job.PHASE, precompute)
        limit = f", at most {asked.limit} documents a task" if asked.limit else ""
        told = f"{len(figures)} figures of lm-eval {harness.installed()}{limit}"
        state.notes.append(f"Beside the score: {told}, asked of the model and not of its files.")
        return figures

    def _kept(self, stage: Stage, asked: Asked) -> StageCheckpoint | None:
        """Copy a dataset's checkpoint from an earlier attempt's unfinished stage, if earlier rows agree."""
        if not asked.name or self.spec.resume is None:
            return None
        folder = self.base / self.spec.resume
        try:
            facts = checkpoints.read(folder, stage, self.fingerprints, asked.name)
        except UnusableCheckpoint:
            return None
        if list(facts.rows[:-1]) != [row.parts[asked.name] for row in self.rows]:
            return None
        place = self.output / "checkpoints" / stage / asked.name
        with durable_files.folder(place) as beside:
            shutil.copytree(folder / stage / asked.name, beside, dirs_exist_ok=True)
        return facts

    def _limit(self, facts: StageCheckpoint) -> str | None:
        limits = self.spec.recipe.train
        return Budget(limits.max_steps, limits.max_minutes, len(self.about), facts.spent).reached()

    def _whole(self, stage: Stage) -> StageCheckpoint:
        return StageCheckpoint(
            fingerprint=self.fingerprints[stage],
            stage=stage,
            task="several",
            labels=(),
            simulation=None,
            rows=tuple(self.rows),
            artifacts=tuple(self.artifacts),
            pruning=None,
            files=(),
        )

    def ship_checkpoint(self) -> Iterator[Event]:
        """Ship the headline's models in the further formats: as checkpoints of their own library, and those of packages.

        A language model's checkpoint also ships in 16 bits, the form that others train on and evaluate. If an earlier stage is
        the headline, both forms of the pruned model ship too. If no ONNX file can be written, the quantized model already
        shipped as a checkpoint after its stage, and only 16 bits are left to ship.
        """
        last = self.rows[-1].stage
        chosen, _ = choose(self.rows, self.spec.targets)
        for asked in self.spec.asked:
            part = yield from self.enter(asked)
            self.tracker.stage = last  # entering a dataset may rewrite the baseline's artifact
            yield from self.tracker.emit_boundary(LAST, done=False)
            is_language = TASKS[part.task].generates
            forms = part.further_forms()
            stages = [chosen.stage]
            if is_language and self.rows[-1].parameters.total < self.rows[0].parameters.total:
                stages.append(last)
            shipped: set[Stage] = set()
            for wanted in stages:
                stage, model = yield from part.model_after(wanted, self.folder_of(wanted))
                if stage in shipped:  # it is also the headline, or the headline's checkpoint was damaged
                    continue
                for number, (kind, half) in enumerate(forms, len(shipped) * len(forms)):
                    shipping = part.ship(model, stage, kind, half=half)
                    way = portion_of(shipping, number, len(stages) * len(forms))
                    try:
                        made = yield from self.tracker.relay(LAST, way)
                    except Exception as problem:
                        if ARTIFACT_FORMATS[kind] in BUILT_IN or isinstance(problem, Pause | OutOfMemory):
                            raise
                        yield Log(level="warning", message=f"There is no {kind} artifact of {stage}: {problem}."[:4000])
                        continue
                    self.artifacts.append(made.artifact)
                    yield ArtifactReady(artifact=made.artifact)
                shipped.add(stage)
            yield from self.tracker.emit_boundary(LAST, done=True)

    def report(self) -> Report:
        """Write report.json and return it."""
        report = job_report(self.spec, self.rows, self.artifacts, self.about, uploaded(self.base / self.spec.model))
        durable_files.write_text(self.output / "report.json", report.model_dump_json(indent=2))
        shutil.rmtree(self.output / "scratch", ignore_errors=True)
        return report


@contextmanager
def named(asked: Asked) -> Iterator[None]:
    """Add the dataset's name to errors if there are several datasets."""
    try:
        yield
    except CompressionError as problem:
        if asked.name:
            problem.found_in(asked.name)
        raise

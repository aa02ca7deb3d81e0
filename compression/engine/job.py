"""Runs one job: its stages in order, with a row, artifacts and a checkpoint for each, and the report.

A stage runs on each dataset in turn and ends with one row: that of the only dataset, or the mean of several. Of several, one is
in memory at a time; the others are in their last checkpoint. The `backend` makes and ships a stage's model.
"""

import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compression.engine import checkpoints
from compression.engine.backend import ModelBackend
from compression.engine.checkpoints import Fingerprints, StageCheckpoint
from compression.engine.dataset_run import DatasetRun
from compression.engine.reporting.dataset_facts import DatasetSummary, job_report
from compression.engine.reporting.stage_rows import bytes_note, stage_row, with_notes
from compression.engine.shipping import ShippedArtifact
from compression.engine.stages.registry import planned
from compression.models.files.uploaded import uploaded
from compression.planning.quality_gate import each_verdict
from compression.planning.remedy_case import Held
from compression.planning.verdicts import choose, judged
from compression.schema.errors import CompressionError, OutOfMemory, TrainingDiverged
from compression.schema.events import ArtifactReady, Event, Log, PartFinished, StageFinished, StageStarted
from compression.schema.job_spec import DatasetSpec as Asked, Spec
from compression.schema.report.averages import mean_row
from compression.schema.report.card_rows import CardReport
from compression.schema.report.draws import NO_DRAWS, SplitDraws, mean_split_draws
from compression.schema.report.measurements import Row, Uploaded
from compression.schema.report.report import Artifact, File, Report
from compression.schema.stages import BASELINE, STAGE_SPECS, Stage
from compression.system import durable_files, failures, process
from compression.system.interrupts import Pause, never
from compression.system.progress import ProgressTracker
from compression.system.sealed_folder import STATE, UnusableCheckpoint, list_files
from compression.training.budget import Budget
from compression.training.save import TrainingCheckpointer
from compression.training.work import ONE_PROCESS, Processes


@dataclass
class Job:
    """The state that a job's datasets share. `about` holds the report's facts about each dataset. `part` is the current dataset
    on its backend, None between two of several.
    """

    spec: Spec
    base: Path
    backend: type[ModelBackend]
    fingerprints: Fingerprints
    checkpointer: TrainingCheckpointer
    tracker: ProgressTracker
    about: dict[str, DatasetSummary]
    part: ModelBackend | None
    processes: Processes = ONE_PROCESS
    rows: list[Row] = field(default_factory=list)
    artifacts: list[Artifact] = field(default_factory=list)
    card: CardReport | None = None  #: what models cost on the GPU, if that was measured
    ended: str | None = None  #: why the recipe's further sizes were not made

    @classmethod
    def open(
        cls,
        spec: Spec,
        base: Path,
        pause_asked: Callable[[], bool] = never,
        backend: type[ModelBackend] = DatasetRun,
        processes: Processes = ONE_PROCESS,
    ) -> "Job":
        """Read model and data, and refuse an impossible job before any training."""
        about: dict[str, DatasetSummary] = {}
        part: ModelBackend | None = None
        for asked in spec.asked:
            part = None  # one model in memory at a time
            with named(asked):
                part = backend.open(spec, base, asked)
            about[asked.name] = part.summary()
        tracker = backend.progress(spec, {name: facts.rows for name, facts in about.items()})
        # A backend never resumes from another's checkpoints: their contents differ.
        work = {stage: f"{found}{backend.suffix}" for stage, found in checkpoints.fingerprints(spec, base).items()}
        folder, earlier = base / spec.output / "checkpoints", base / spec.resume if spec.resume is not None else None
        checkpointer = TrainingCheckpointer(folder, [*work.values()][-1], spec.save_seconds, pause_asked, earlier)
        job = cls(spec, base, backend, work, checkpointer, tracker, about, None if spec.parts else part, processes)
        if job.part is not None:
            job.part.begin(checkpointer, tracker, work, processes)
        return job

    def resume(self) -> Iterator[Event]:
        """Go on from the last stage that an earlier attempt finished, and find its saved training."""
        if self.checkpointer.resume is None:
            return
        stages = planned(self.spec.recipe)
        done, problems = checkpoints.latest(self.checkpointer.resume, stages, self.fingerprints, tuple(self.about))
        for problem in filter(None, (*problems, self.checkpointer.look())):
            yield _unused(problem)
        if done is not None:
            yield from self._go_on_from(self.checkpointer.resume, done)

    def _go_on_from(self, folder: Path, done: StageCheckpoint) -> Iterator[Event]:
        try:
            if self.part is not None:
                self.part.take_up(folder, done, folder)
            for name, facts in self.about.items():
                own = checkpoints.read(folder, done.stage, self.fingerprints, name) if name else done
                facts.take(own)
        except UnusableCheckpoint as problem:
            yield _unused(problem)
            return
        self.rows, self.artifacts = list(done.rows), list(done.artifacts)
        for row in self.rows:
            self.tracker.skip(row.stage)
            yield StageStarted(stage=row.stage, resumed=True)
        if self.part is not None:
            yield from self.part.restore()

    def enter(self, asked: Asked) -> Generator[Event, None, ModelBackend]:
        """Load a dataset's run in its state after the last finished stage."""
        self.checkpointer.part = self.tracker.part = asked.name
        if self.part is not None and self.part.data.name == asked.name:
            return self.part
        self.part = None
        process.release_memory()
        part = self.backend.open(self.spec, self.base, asked)
        part.begin(self.checkpointer, self.tracker, self.fingerprints, self.processes)
        if self.rows:
            stage = self.rows[-1].stage
            folder = self.folder_of(stage)
            done = checkpoints.read(folder, stage, self.fingerprints, asked.name)
            part.take_up(folder, done, self.folder_of(BASELINE))
            yield from part.restore()
        self.part = part
        return part

    def folder_of(self, stage: Stage) -> Path:
        """Return the folder of a finished stage's checkpoints: this attempt's, or the earlier one's."""
        folder, earlier = self.checkpointer.folder, self.checkpointer.resume
        return earlier if earlier is not None and not (folder / stage / STATE).is_file() else folder

    def goes_on(self, stage: Stage) -> Generator[Event, None, bool]:
        """Run a stage as `do` does; return whether the next one may follow. A further size that cannot be trained ends the
        sizes and not the job: those that are finished are shipped.
        """
        try:
            yield from self.do(stage)
        except Exception as problem:
            why = self._ends_sizes(stage, problem)
            if why is None:
                raise
        else:
            return True
        self.part, self.ended = None, why  # what was half trained goes; the last finished model is in its checkpoint
        process.release_memory()
        yield Log(level="warning", message=why[:4000])
        return False

    def _ends_sizes(self, stage: Stage, problem: Exception) -> str | None:
        """Return why no further size is made; None if the problem is the job's. Memory that did not suffice is, until the
        supervisor has tried smaller parts of each batch.
        """
        found = failures.typed(problem) or problem
        again = isinstance(found, OutOfMemory) and self.spec.split_batches == 1
        if isinstance(problem, Pause) or again or not isinstance(found, OutOfMemory | TrainingDiverged):
            return None
        if not STAGE_SPECS[stage].point:
            return None
        done = self.rows[-1].stage
        return f"There is no smaller size than {done}: {stage} failed ({found.code}: {found.cause}). {found.remedy_text}"

    def do(self, stage: Stage) -> Iterator[Event]:
        """Run a stage on each dataset and end it with its row. Raises Pause between two datasets if a pause was requested."""
        done: dict[str, Row] = {}
        files: tuple[File, ...] = ()
        limits, draws = [], []
        for number, asked in enumerate(self.spec.asked):
            if done and self.checkpointer.pause_asked():
                raise Pause
            with named(asked):
                facts, found = yield from self._do_part(stage, asked)
            done[asked.name] = facts.rows[-1]
            self.about[asked.name].take(facts)
            train = self.spec.recipe.train
            limits.append(Budget(train.max_steps, train.max_minutes, len(self.about), facts.spent).reached())
            draws.append(facts.draws)
            if asked.name:
                found = tuple(file.model_copy(update={"path": f"{asked.name}/{file.path}"}) for file in found)
                yield PartFinished(stage=stage, part=asked.name, number=number, checkpoint=found)
            files += found
        if not self.spec.parts:
            (row,) = done.values()
            self.rows.append(row)
        else:
            row = judged_mean_row(done, self.rows, self.spec, next(filter(None, limits), None), self._sent, draws)
            self.rows.append(row)
            facts = self._facts(stage, self.rows, self.artifacts, task="several", labels=(), simulation=None, pruning=None)
            files += checkpoints.write_whole(self.checkpointer.folder, facts)
        yield StageFinished(row=row, checkpoint=files)

    def _do_part(self, stage: Stage, asked: Asked) -> Generator[Event, None, tuple[StageCheckpoint, tuple[File, ...]]]:
        kept = self._kept(stage, asked)
        if kept is not None:
            self.artifacts += kept[0].artifacts
            yield Log(message=f"{asked.name} had gone through {stage} already.")
            return kept
        started = time.monotonic()
        part = yield from self.enter(asked)

        def finish(shipped: ShippedArtifact, model: PreTrainedModel) -> Sequence[Row]:
            seconds = time.monotonic() - started + part.clock.carried
            part.rows.append(self._row(part, stage, shipped, model, seconds))
            return part.rows

        made = yield from part.run(stage, finish)
        for artifact in made:
            self.artifacts.append(artifact)
            yield ArtifactReady(artifact=artifact)
        facts = self._facts(
            stage,
            part.rows,
            made if part.data.name else self.artifacts,
            part=part.data.name,
            task=part.data.task.name,
            labels=part.data.dataset.labels,
            simulation=part.simulation,
            pruning=part.result.pruning,
            sensitivity=part.result.sensitivity,
            sizes=part.result.sizes,
            points=part.result.points,
            spent=part.budget.spent,
            ship_seconds=part.clock.shipped,
            asked_seconds=part.clock.asked,
            draws=part.draws,
        )
        return facts, (yield from part.save(self.checkpointer.folder, facts))

    def _row(self, part: ModelBackend, stage: Stage, shipped: ShippedArtifact, model: PreTrainedModel, seconds: float) -> Row:
        """Return a dataset's row with its verdict. Of several, none offers remedies: those are offered once for the job."""
        part.draws[stage] = shipped.draws
        row = stage_row(shipped, model, part.rows, part.draws, sent=self._sent, seconds=seconds, result=part.result)
        limit, task, draws, recipe = part.budget.reached(), part.data.task.name, part.draws, self.spec.recipe
        if part.rows and (over := bytes_note(row, part.rows[0], recipe)) is not None:
            row = row.model_copy(update={"notes": (*row.notes, over)})
        held: Held | None = "on disk" if part.on_disk else "student" if self.spec.student is not None else None
        row = judged(row, part.rows, recipe, self.spec.targets, limit=limit, task=task, held=held, draws=draws)
        if part.data.name and row.verdict is not None:
            row = row.model_copy(update={"verdict": row.verdict.model_copy(update={"remedies": ()})})
        return row

    @property
    def _sent(self) -> Uploaded:
        return uploaded(self.base / self.spec.model)

    def _kept(self, stage: Stage, asked: Asked) -> tuple[StageCheckpoint, tuple[File, ...]] | None:
        """Copy a dataset's checkpoint from an earlier attempt's unfinished stage, if earlier rows agree."""
        folder = self.checkpointer.resume
        if not asked.name or folder is None:
            return None
        try:
            facts = checkpoints.read(folder, stage, self.fingerprints, asked.name)
        except UnusableCheckpoint:
            return None
        if list(facts.rows[:-1]) != [row.parts[asked.name] for row in self.rows]:
            return None
        place = self.checkpointer.folder / stage / asked.name
        with durable_files.folder(place) as beside:
            shutil.copytree(folder / stage / asked.name, beside, dirs_exist_ok=True)
        return facts, list_files(place)

    def _facts(self, stage: Stage, rows: Sequence[Row], artifacts: Sequence[Artifact], **own: Any) -> StageCheckpoint:
        own |= {"rows": tuple(rows), "artifacts": tuple(artifacts), "files": ()}
        return StageCheckpoint(fingerprint=self.fingerprints[stage], stage=stage, **own)

    def ship_more(self) -> Iterator[Event]:
        """Ship what the headline's models also ship as, on each dataset."""
        chosen, _ = choose(self.rows, self.spec.targets)
        for asked in self.spec.asked:
            part = yield from self.enter(asked)
            self.tracker.stage = planned(self.spec.recipe)[-1]  # entering a dataset may rewrite the baseline's artifact
            for event in part.ship_more(chosen.stage, self.rows, self.folder_of):
                if isinstance(event, ArtifactReady):
                    self.artifacts.append(event.artifact)
                yield event

    def report(self) -> Report:
        """Write report.json and return it."""
        output = self.base / self.spec.output
        report = job_report(self.spec, self.rows, self.artifacts, self.about, self._sent)
        notes = (*report.notes, *filter(None, [self.ended]))
        report = report.model_copy(update={"card": self.card, "notes": notes})
        durable_files.write_text(output / "report.json", report.model_dump_json(indent=2))
        shutil.rmtree(output / "scratch", ignore_errors=True)
        return report


def judged_mean_row(
    parts: Mapping[str, Row],
    before: Sequence[Row],
    spec: Spec,
    limit: str | None,
    sent: Uploaded,
    draws: Sequence[Mapping[Stage, SplitDraws]] = (),
) -> Row:
    """Average one stage's rows and judge the mean against the targets and the means of earlier stages. parts: dataset name →
    row, in the job's order. limit: the training limit that a dataset reached. draws: of each dataset, by stage.
    """
    stages = [*(row.stage for row in before), next(iter(parts.values())).stage]
    means = {stage: mean_split_draws([own.get(stage, NO_DRAWS) for own in draws]) for stage in stages}
    row = mean_row(parts, before[0] if before else None, sent, (means[stages[0]], means[stages[-1]]))
    if (gate := spec.targets.quality_gate) is not None:
        row = row.model_copy(update={"gate": each_verdict(gate, {name: part.gate for name, part in parts.items()})})
    row, task = with_notes(row, before[-1] if before else None), spec.asked[0].task
    held: Held | None = "student" if spec.student is not None else None
    return judged(row, before, spec.recipe, spec.targets, limit=limit, task=task, held=held, draws=means)


def _unused(problem: object) -> Log:
    return Log(level="warning", message=f"A checkpoint is not used: {problem}."[:4000])


@contextmanager
def named(asked: Asked) -> Iterator[None]:
    """Add the dataset's name to errors if there are several datasets."""
    try:
        yield
    except CompressionError as problem:
        if asked.name:
            problem.found_in(asked.name)
        raise

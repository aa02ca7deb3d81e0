"""Holds the state that stages share: the current model, its teacher, the rows and the job's progress."""

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import disk_usage
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from compression.engine.job_models import JobModels
from compression.engine.stage_clock import StageClock
from compression.engine.stage_result import StageResult
from compression.engine.training_memory import checkpoints_gradients
from compression.evaluation.measure import Saving
from compression.evaluation.validate import Validation, validate
from compression.modalities.base import Examples, TaskAdapter
from compression.modalities.modality import Augmenter, InputPruner
from compression.models.tensors import Tensors
from compression.planning.device_times import ShapeTimes
from compression.pruning.layer_inputs import KeptInputs
from compression.schema.events import Event, Log, TrainingSaved
from compression.schema.recipe.base import Split
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.recipe import Evaluate, Recipe, Targets
from compression.schema.report.measurements import Latency, NotMeasured, Row
from compression.schema.stages import Stage
from compression.system.device import rest
from compression.system.interrupts import Pause
from compression.system.progress import ProgressTracker, Step
from compression.system.sealed_folder import UnusableCheckpoint
from compression.training.budget import Budget
from compression.training.config import TrainingConfig, TrainingOutcome
from compression.training.save import ResumableTraining, TrainingCheckpointer
from compression.training.trainer import train
from compression.training.work import ONE_PROCESS, Attempt, Processes, TrainingHooks

COMMON = ("batch", "micro_batch", "seed", "warmup", "decay", "accumulate", "optimizer", "compile", "precision")
"""Settings of all trainings of a recipe, as `Train` and `TrainingConfig` name them."""
UNMEASURED = NotMeasured(not_measured="there is no baseline artifact")


def unmeasured(_: PreTrainedModel, others: Iterable[PreTrainedModel]) -> Iterator[NotMeasured]:
    """Yield for each model that there is no figure."""
    return (UNMEASURED for _ in others)


def unpredicted() -> Generator[Event, None, ShapeTimes | None]:
    """Return that there is no device table."""
    yield from ()
    return None


def no_model(stage: Stage) -> PreTrainedModel:
    """Raise UnusableCheckpoint: there are no checkpoints."""
    raise UnusableCheckpoint(f"{stage} has no checkpoint")


@dataclass
class StageContext:
    """The state of a running job. A stage changes `model` in place or replaces it, and fills `result`.

    `teacher` is the prepared model in full precision, frozen, if a stage needs it. It is in the host's memory: who asks it
    moves it to the model's device, and `rest_teacher` moves it back. `originals` are further teachers, on the CPU, until their
    outputs are computed. `parts` is the number of micro-batches of a batch. `budget` limits all training
    together. `augmenter` generates new rows, if the recipe has augmentation. `unlabelled` holds the inputs of the general
    phase, if any. `models` holds the job's models by folder. `scratch` is a folder for files that may be lost. `input_pruner`
    removes the inputs (tokens) that pruning drops. `timed` exports a model and measures its latency, `timed_beside` what each
    of several saves of a given model's time. `device_times` returns what predicts latencies, if anything does. `memory` is the
    engine's limit in bytes.
    """

    recipe: Recipe
    rows: dict[Split, Examples]
    model: PreTrainedModel
    tracker: ProgressTracker
    models: JobModels
    teacher: PreTrainedModel | None = None
    result: StageResult = field(default_factory=StageResult)
    parts: int = 1
    checkpointer: TrainingCheckpointer = field(default_factory=lambda: TrainingCheckpointer(Path("checkpoints"), ""))
    budget: Budget = field(default_factory=Budget)
    augmenter: Augmenter | None = None
    unlabelled: Examples | None = None
    originals: list[PreTrainedModel] = field(default_factory=list)
    scratch: Path | None = None
    input_pruner: InputPruner | None = None
    timed: Callable[[PreTrainedModel], Latency | NotMeasured] = lambda _: UNMEASURED
    device_times: Callable[[], Generator[Event, None, ShapeTimes | None]] = unpredicted
    timed_beside: Callable[[PreTrainedModel, Iterable[PreTrainedModel]], Iterator[Saving | NotMeasured]] = unmeasured
    memory: int | None = None
    cache_bytes: int | None = None  #: most bytes of a file of teachers' outputs, if the recipe leaves it to the machine
    known_tables: tuple[Path, ...] = ()  #: folders in which error tables of earlier jobs may lie
    layer_inputs: KeptInputs | None = None  #: of the current model, while cuts of it are chosen by error tables
    processes: Processes = ONE_PROCESS  #: that trainings run in
    targets: Targets = field(default_factory=Targets)  #: of the job
    before: tuple[Row, ...] = ()  #: rows of the stages before this one
    saves_ends: bool = False  #: whether the end of a training is saved however short it was
    clock: StageClock = field(default_factory=StageClock)  #: what the job's dataset has taken
    model_of: Callable[[Stage], PreTrainedModel] = no_model  #: opens the model of an earlier stage of the job
    length: int = Evaluate().length  #: tokens of a row of text whose multiply-adds a target is of
    new_head: bool = False  #: whether the model's head was initialised at random for this job, because the model had none

    @property
    def notes(self) -> list[str]:
        """The notes of the current stage's row."""
        return self.result.notes

    @property
    def task(self) -> TaskAdapter:
        """The task of the job's rows."""
        return self.rows["train"].task

    @property
    def prepared(self) -> PreTrainedModel:
        """The teacher of a recipe that has one."""
        if self.teacher is None:
            raise LookupError("the recipe has no teacher")
        return self.teacher

    @property
    def placed(self) -> list[PreTrainedModel]:
        """The models that are on the device between two stages, or may be."""
        return [self.model, *filter(None, [self.teacher])]

    def rest_teacher(self) -> None:
        """Move the teacher to the host's memory, if there is one: what goes on does not ask it."""
        rest(*filter(None, [self.teacher]))

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return cast(torch.device, next(self.model.parameters()).device)

    def plan(self, name: str, *, epochs: int, rate: float, reads_layers: bool = False, **own: Any) -> TrainingConfig:
        """Return the config of one training: the recipe's common settings and its own, which come first. reads_layers: whether
        its loss reads what layers compute by hooks, which compiled layers do not run.
        """
        common = {key: getattr(self.recipe.train, key) for key in COMMON}
        common["recompute"], common["remarks"] = checkpoints_gradients(self, name)
        if reads_layers and common["compile"] == "on":
            common["remarks"] += (f"{name} runs without torch.compile, since it compares attention.",)
        if reads_layers or self.processes.size > 1:
            common["compile"] = "off"
        return TrainingConfig(name=name, epochs=epochs, rate=rate, parts=self.parts, **common | own)

    def begin(self, stage: Stage) -> None:
        """Set the current stage: progress and saves belong to it from now on."""
        self.tracker.stage = self.checkpointer.stage = stage

    def saved(self, phase: str) -> Tensors | None:
        """Return the extra tensors of the save that this attempt resumes from; None if that is of another training."""
        return self.checkpointer.beside() if self.checkpointer.is_at(phase) else None

    def resumable(self, phase: str, beside: Tensors | None = None) -> ResumableTraining:
        """Return one training of the current stage. beside: extra tensors that each save stores, with their values then."""
        given = {} if beside is None else beside
        return ResumableTraining(self.checkpointer, phase, self.result.notes, given, self.saves_ends, self.clock)

    def train(
        self,
        phase: str,
        plan: TrainingConfig,
        loss: Callable[[Any], torch.Tensor],
        hooks: TrainingHooks,
        *,
        model: PreTrainedModel | None = None,
        rows: Examples | None = None,
        judge: Callable[[], Validation] | None = None,
        beside: Tensors | None = None,
    ) -> Generator[Step | TrainingSaved | Log, None, TrainingOutcome]:
        """Train a model, by default the current one on train, as the current stage's `phase`, and judge it on validation."""
        rows, validation = self.rows["train"] if rows is None else rows, judge or self.rows["validation"]
        resumable = self.resumable(phase, beside)
        attempt = Attempt(resumable=resumable, budget=self.budget, processes=self.processes)
        return train(model or self.model, plan, rows, validation, loss, hooks=hooks, **attempt)

    def note_training(self, what: str, outcome: TrainingOutcome, epochs: int, more: str = "") -> None:
        """Note a training's validation before it and in its best epoch, of those from 0 to `epochs`."""
        change, best = f"validation {self.task.metric} {outcome.before} → {outcome.best}", outcome.best_epoch
        self.notes.append(f"{what}: {change} (best of epochs 0 to {epochs}: {best}).{more}")

    def check_pause(self) -> None:
        """Raise Pause if a pause was requested. For long work outside training; it restarts from the beginning."""
        if self.checkpointer.pause_asked():
            raise Pause

    def cache_file(self, name: str) -> tuple[Path, float] | None:
        """Return the path and byte limit of the teacher-output cache, or None if disk caching is off. A recipe that does not
        distil has the usual one. `auto`: no more than half of what is free now, since all else of the job is written there too.
        """
        if self.scratch is None:
            return None
        self.scratch.mkdir(parents=True, exist_ok=True)
        asked = (self.recipe.distill or Distill()).spill_gib
        most = asked * 2**30 if asked != "auto" else float(disk_usage(self.scratch).free // 2)
        if asked == "auto" and self.cache_bytes is not None:
            most = min(most, self.cache_bytes)
        return (self.scratch / f"teacher-{name}.float16", most) if most else None

    def validate(self) -> Validation:
        """Score the current model on validation."""
        return validate(self.model, self.rows["validation"], self.parts)

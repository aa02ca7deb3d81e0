"""Holds the state that stages share: the current model, its teacher, the rows and the job's progress."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from compression.engine.job_models import JobModels
from compression.evaluation.validate import Validation, validate
from compression.modalities.base import Examples, TaskAdapter
from compression.modalities.modality import Augmenter, InputPruner
from compression.models.tensors import Tensors
from compression.schema.recipe.base import Split
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.report.layer_ranges import LayerRange
from compression.schema.report.measurements import Latency, NotMeasured, Sensitivity
from compression.schema.report.preparation import Preparation
from compression.schema.stages import Stage
from compression.system.interrupts import Pause
from compression.system.progress import ProgressTracker
from compression.training.budget import Budget
from compression.training.config import TrainingConfig, TrainingOutcome
from compression.training.save import ResumableTraining, TrainingCheckpointer


@dataclass
class StageContext:
    """The state of a running job. A stage changes `model` in place or replaces it.

    `teacher` is the prepared model in full precision, frozen, if a stage needs it. `pruning` describes what pruning removed,
    for the report. `notes` are the notes of the current stage's row. `parts` is the number of micro-batches of a batch.
    `checkpointer` saves training in progress. `budget` limits all training together. `augmenter` generates new rows, if the
    recipe has augmentation. `unlabelled` holds the inputs of the general phase, if there are any. `cast` holds the job's
    models by folder. `originals` are further trained teachers, on the CPU, until their outputs are computed. `base_rows` are
    the rows as tokenized for the base model, if a student that the job names has replaced it. `scratch` is a folder for files
    that may be lost. `input_pruner` removes the inputs (tokens) that pruning drops. `sensitivity` holds pruning's sensitivity
    curves, for the report. `timed` exports a model and measures its latency. `ranges` holds the check of the quantization
    ranges after the current stage. `smoothed` holds, by layer, the factors that smoothing divided the channels by, until a
    cut. `memory` is the limit in bytes above which the engine is stopped, if there is one.
    """

    recipe: Recipe
    rows: dict[Split, Examples]
    model: PreTrainedModel
    tracker: ProgressTracker
    teacher: PreTrainedModel | None = None
    pruning: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    parts: int = 1
    checkpointer: TrainingCheckpointer | None = None
    budget: Budget = field(default_factory=Budget)
    targets: Targets = field(default_factory=Targets)
    augmenter: Augmenter | None = None
    ranges: tuple[LayerRange, ...] = ()
    smoothed: Tensors = field(default_factory=dict)
    unlabelled: Examples | None = None
    cast: JobModels | None = None
    originals: list[PreTrainedModel] = field(default_factory=list)
    base_rows: dict[Split, Examples] | None = None
    scratch: Path | None = None
    input_pruner: InputPruner | None = None
    sensitivity: dict[str, tuple[Sensitivity, ...]] = field(default_factory=dict)
    timed: Callable[[PreTrainedModel], Latency | NotMeasured] | None = None
    memory: int | None = None
    new_head: bool = False
    """Whether the model's head was initialised at random for this job, because the model had none."""
    preparation: Preparation | None = None
    """How the baseline was tuned; None before that, and again after the baseline has its row."""

    @property
    def task(self) -> TaskAdapter:
        """The task of the job's rows."""
        return self.rows["train"].task

    @property
    def device(self) -> torch.device:
        """The model's device."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def plan(
        self,
        name: str,
        *,
        epochs: int,
        rate: float,
        dropout: bool = False,
        adapt_decay: bool = False,
        patience: int | None = None,
        patience_from: int = 0,
        seed: int | None = None,
    ) -> TrainingConfig:
        """Return the config of one training: the recipe's common settings and its own.

        seed: by default, the recipe's.
        """
        common = self.recipe.train
        return TrainingConfig(
            name=name,
            epochs=epochs,
            rate=rate,
            batch=common.batch,
            seed=common.seed if seed is None else seed,
            warmup=common.warmup,
            decay=common.decay,
            adapt_decay=adapt_decay,
            dropout=dropout,
            parts=self.parts,
            accumulate=common.accumulate,
            precision=common.precision,
            patience=patience,
            patience_from=patience_from,
            recompute=common.recompute,
        )

    def begin(self, stage: Stage) -> None:
        """Set the current stage: progress and saves belong to it from now on."""
        self.tracker.stage = stage
        if self.checkpointer is not None:
            self.checkpointer.stage = stage

    def resumable(self, phase: str, beside: Tensors | None = None) -> ResumableTraining | None:
        """Return one training's ResumableTraining in the current stage; None without a checkpointer.

        beside: extra tensors that each save stores, with their values at that time.
        """
        return (
            ResumableTraining(self.checkpointer, phase, self.notes, {} if beside is None else beside)
            if self.checkpointer
            else None
        )

    def saved(self, phase: str) -> Tensors | None:
        """Return the extra tensors of the save that this attempt resumes from; None if that is of another training."""
        return self.checkpointer.beside() if self.checkpointer is not None and self.checkpointer.is_at(phase) else None

    def note_training(self, what: str, outcome: TrainingOutcome, epochs: int, more: str = "") -> None:
        """Note a training's validation before it and in its best epoch, of those from 0 to `epochs`."""
        change, best = f"validation {self.task.metric} {outcome.before} → {outcome.best}", outcome.best_epoch
        self.notes.append(f"{what}: {change} (best of epochs 0 to {epochs}: {best}).{more}")

    def check_pause(self) -> None:
        """Raise Pause if a pause was requested.

        For long work outside training; it restarts from the beginning.
        """
        if self.checkpointer is not None and self.checkpointer.pause_asked():
            raise Pause

    def cache_file(self, name: str) -> tuple[Path, float] | None:
        """Return the path and byte limit of the teacher-output cache, or None if disk caching is off."""
        distill = self.recipe.distill
        if self.scratch is None or distill is None or not distill.spill_gib:
            return None
        return self.scratch / f"teacher-{name}.float16", distill.spill_gib * 2**30

    def validate(self) -> Validation:
        """Score the current model on validation."""
        return validate(self.model, self.rows["validation"], self.parts)

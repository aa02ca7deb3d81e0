"""What the stages hand on to each other: the model as it is now, its teacher, the rows, and where the job is."""

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
from compression.training.config import TrainingConfig
from compression.training.save import ResumableTraining, TrainingCheckpointer


@dataclass
class StageContext:
    """One job while it runs. A stage changes `model` in place or puts another there.

    `teacher` is the prepared model in full precision, frozen, where a stage asks it; `pruning` what the cut took, for the
    report; `notes` what the row of the current stage should say; `parts` in how many parts batches go through a model;
    `saver` keeps training in progress; `budget` is what all training together may take; `augmenter` makes new rows, if the
    recipe asks for them; `unlabelled` inputs for the general phase, where there are any; `cast` the job's models by their
    folders; `originals` teachers that were trained beside the baseline, on the CPU, until they were asked; `base_rows` the
    rows as the base model reads them, once a student that the job names has taken its place; `scratch` a folder for what
    may be lost; `input_pruner` takes the inputs (tokens) that the cut does not leave; `sensitivity` the curves that it
    drew, for the report; `timed` exports a model and measures its latency; `ranges` how the integers' ranges were found
    after the current stage; `smoothed` what the channels of which layer were divided by before they were rounded, until a
    cut; `memory` the bytes beyond which the engine is stopped, where somebody stops it.
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
    """Whether the model's head was drawn for this job, and did not come with it."""
    preparation: Preparation | None = None
    """How the baseline was tuned; None until it is, and once the baseline has its row."""

    @property
    def task(self) -> TaskAdapter:
        """What the job's rows ask."""
        return self.rows["train"].task

    @property
    def device(self) -> torch.device:
        """Where the model is."""
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
        """Make the plan of one training: what the recipe says of all of them, and what is this one's own. seed: else theirs."""
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
        """Take note of the stage that is at work: progress and saves are its own from now on."""
        self.tracker.stage = stage
        if self.checkpointer is not None:
            self.checkpointer.stage = stage

    def resumable(self, phase: str, beside: Tensors | None = None) -> ResumableTraining | None:
        """Return one training of the current stage as it is saved and taken up; None if nobody saves.

        beside: what is saved with it, as it is at each save.
        """
        return (
            ResumableTraining(self.checkpointer, phase, self.notes, {} if beside is None else beside)
            if self.checkpointer
            else None
        )

    def check_pause(self) -> None:
        """Raise Pause where one is asked for: for long work between trainings, which is done again from its beginning."""
        if self.checkpointer is not None and self.checkpointer.pause_asked():
            raise Pause

    def cache_file(self, name: str) -> tuple[Path, float] | None:
        """Say which file what a teacher says may go to, and how many bytes of it; None where the recipe allows none."""
        distill = self.recipe.distill
        if self.scratch is None or distill is None or not distill.spill_gib:
            return None
        return self.scratch / f"teacher-{name}.float16", distill.spill_gib * 2**30

    def validate(self) -> Validation:
        """Score the model as it is now on validation."""
        return validate(self.model, self.rows["validation"], self.parts)

"""Registers each stage's work, its phases, and the inputs that its result depends on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

from compression.engine.context import StageContext
from compression.evaluation.lm_eval.harness_job import PHASE as LM_EVAL
from compression.schema.errors import MissingResource
from compression.schema.events import Event
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import LmEval, Recipe
from compression.schema.stages import STAGE_SPECS, STAGES, Stage, wanted
from compression.system.progress import Phase, ProgressTracker

SHIP, LAST = "export and measure", "export other forms"
ROW_SECONDS = 0.006  #: Training time per row. Only the ratios between the expected times of phases matter.


@dataclass(frozen=True)
class ExpectedWork:
    """The inputs from which the expected times of a job's phases are computed."""

    recipe: Recipe
    rows: Mapping[str, int]  #: rows of each split

    @property
    def train(self) -> float:
        """Seconds of one epoch over train."""
        return self.rows["train"] * ROW_SECONDS

    @property
    def shipping(self) -> float:
        """Seconds of exporting and measuring an artifact."""
        return 20 + 0.012 * (self.rows["validation"] + self.rows["test"])

    @property
    def seeds(self) -> int:
        """Originals that are tuned: the baseline and further teachers."""
        return max(self.recipe.distill.teachers.seeds, 1) if self.recipe.distill is not None else 1


@dataclass(frozen=True)
class StageRunner:
    """One stage. A job calls `run`, settles the model's ranges, ships the model and writes a checkpoint."""

    run: Callable[[StageContext], Iterator[Event]]
    phases: Callable[[ExpectedWork], Iterator[tuple[str, float]]]  #: (name, expected seconds), without shipping
    inputs: Callable[[Spec, Path], dict[str, Any]] = lambda *_: {}  #: other inputs of its result than model, data, recipe
    reads_unlabelled: bool = False  #: whether it reads unlabelled rows
    cuts: bool = False  #: whether its model, and those of later stages, may have a smaller vocabulary than the job's
    asks_teachers: bool = False  #: whether it needs the further originals


@cache
def runner_of(stage: Stage) -> StageRunner:
    """Import a stage's runner. Raises MissingResource if the package that has it cannot be loaded."""
    spec = STAGE_SPECS[stage]
    try:
        return cast(StageRunner, resolve_name(spec.engine))
    except Exception as problem:
        cause = f"the stage {stage} ({spec.engine}) cannot be loaded: {problem}"
        remedy = "Set the key to null, or ask who runs the worker to mend the package."
        raise MissingResource(cause, param=f"recipe.{spec.recipe_key}", remedy=remedy) from problem


def job_progress(recipe: Recipe, rows: Mapping[str, Mapping[str, int]], asked: LmEval | None = None) -> ProgressTracker:
    """Return the tracker of a job, stage by stage, and in each stage through the datasets in order. rows: name → split → rows;
    the name is empty if there is one dataset. asked: the lm-eval settings, if any.
    """
    found = [replace(phase, part=name) for name, each in rows.items() for phase in phases(recipe, each)]
    found.sort(key=lambda phase: (phase.name == LAST, STAGES.index(phase.stage)))
    if asked is not None:
        # How long lm-eval takes is unknown: each run is assumed to take as long as shipping a stage.
        at = [number for number, phase in enumerate(found) if phase.name == SHIP]
        for number in reversed(at):
            found.insert(number, replace(found[number], name=LM_EVAL))
    return ProgressTracker(found)


def phases(recipe: Recipe, rows: Mapping[str, int]) -> list[Phase]:
    """Return one dataset's phases with their expected times. Only the ratios between the times matter."""
    expected, stages = ExpectedWork(recipe, rows), planned(recipe)
    found: list[Phase] = []
    for stage in stages:
        found += [Phase(stage, name, seconds) for name, seconds in runner_of(stage).phases(expected)]
        found.append(Phase(stage, SHIP, expected.shipping))
    return [*found, Phase(stages[-1], LAST, expected.shipping / 2)]


def run_stage(context: StageContext, stage: Stage) -> Iterator[Event]:
    """Run a stage on a context's model. After it the teacher is in the host's memory."""
    context.begin(stage)
    yield from runner_of(stage).run(context)
    context.rest_teacher()


def planned(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages of a recipe. Each has a row."""
    return wanted(dict(recipe))


def follows_cut(stage: Stage, recipe: Recipe) -> bool:
    """Return whether a stage's model may have a vocabulary that the recipe cuts."""
    stages = planned(recipe)
    return any(runner_of(one).cuts for one in stages[: stages.index(stage) + 1])

"""The phases of a whole job with their expected times: those of its stages, and shipping after each."""

from collections.abc import Mapping
from dataclasses import replace

from compression.engine.stages.registry import ExpectedWork, planned, runner_of
from compression.evaluation.lm_eval.harness_job import PHASE as LM_EVAL
from compression.schema.recipe.recipe import LmEval, Recipe
from compression.schema.stages import STAGES
from compression.system.progress import Phase, ProgressTracker

SHIP, LAST = "export and measure", "export the checkpoint"


def job_progress(recipe: Recipe, rows: Mapping[str, int], asked: LmEval | None = None) -> ProgressTracker:
    """List the phases of a job with one dataset. rows: of each split; asked: of lm-eval after each stage."""
    found = phases(recipe, rows)
    if asked is not None:
        # How long these take nobody knows: each as long as all else that is done to ship a stage.
        at = [number for number, phase in enumerate(found) if phase.name == SHIP]
        for number in reversed(at):
            found.insert(number, replace(found[number], name=LM_EVAL))
    return ProgressTracker(found)


def multi_dataset_progress(recipe: Recipe, rows: Mapping[str, Mapping[str, int]]) -> ProgressTracker:
    """List the phases of a job with several: stage by stage, in each the parts in their order. rows: name → split → rows."""
    found = [replace(phase, part=name) for name, each in rows.items() for phase in phases(recipe, each)]
    return ProgressTracker(sorted(found, key=lambda phase: (phase.name == LAST, STAGES.index(phase.stage))))


def phases(recipe: Recipe, rows: Mapping[str, int]) -> list[Phase]:
    """List one dataset's phases with their expected times: only how they compare to each other matters."""
    expected, stages = ExpectedWork(recipe, rows), planned(recipe)
    found: list[Phase] = []
    for stage in stages:
        found += [Phase(stage, name, seconds) for name, seconds in runner_of(stage).phases(expected)]
        found.append(Phase(stage, SHIP, expected.shipping))
    return [*found, Phase(stages[-1], LAST, expected.shipping / 2)]

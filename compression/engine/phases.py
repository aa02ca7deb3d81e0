"""Lists a job's phases with their expected times: each stage's phases, and shipping after it."""

from collections.abc import Mapping
from dataclasses import replace

from compression.engine.stages.registry import ExpectedWork, planned, runner_of
from compression.evaluation.lm_eval.harness_job import PHASE as LM_EVAL
from compression.schema.recipe.recipe import LmEval, Recipe
from compression.schema.stages import STAGES
from compression.system.progress import Phase, ProgressTracker

SHIP, LAST = "export and measure", "export the checkpoint"


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

"""The rows that a recipe leads to, and the phases of the way there with their expected times."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from compression.engine.stages import general_distillation
from compression.engine.stages.prepare import phase_of, probe_phase
from compression.engine.stages.recover import phases as recovery_phases
from compression.engine.stages.recover import precompute
from compression.engine.stages.teacher_ensemble import ASK
from compression.evaluation.lm_eval.harness_job import PHASE as ASKED
from compression.planning import preparation
from compression.planning.estimator import PROBES, augment_seconds
from compression.schema.recipe.recipe import LmEval, Recipe
from compression.schema.report.measurements import STAGES, Stage
from compression.system.progress import Phase, ProgressTracker


def planned(recipe: Recipe) -> tuple[Stage, ...]:
    """List the rows that a recipe leads to."""
    wanted: dict[Stage, bool] = {
        "baseline": True,
        "quantized": recipe.quantize is not None,
        "pruned": recipe.prune is not None,
        "distilled": recipe.distill is not None,
    }
    return tuple(stage for stage, is_wanted in wanted.items() if is_wanted)


SHIP, LAST = "export and measure", "export the checkpoint"


def job_progress(recipe: Recipe, rows: Mapping[str, int], asked: LmEval | None = None) -> ProgressTracker:
    """List the phases of a job with one dataset. rows: of each split; asked: of lm-eval after each stage."""
    found = phases(recipe, rows)
    if asked is not None:
        # How long these take nobody knows: each as long as all else that is done to ship a stage.
        at = [number for number, phase in enumerate(found) if phase.name == SHIP]
        for number in reversed(at):
            found.insert(number, replace(found[number], name=ASKED))
    return ProgressTracker(found)


def multi_dataset_progress(recipe: Recipe, rows: Mapping[str, Mapping[str, int]]) -> ProgressTracker:
    """List the phases of a job with several: stage by stage, in each the parts in their order. rows: name → split → rows."""
    found = [replace(phase, part=name) for name, each in rows.items() for phase in phases(recipe, each)]
    return ProgressTracker(sorted(found, key=lambda phase: (phase.name == LAST, STAGES.index(phase.stage))))


def phases(recipe: Recipe, rows: Mapping[str, int]) -> list[Phase]:
    """List one dataset's phases with their expected times: only how they compare to each other matters."""
    row, shipping = 0.006, 20 + 0.012 * (rows["validation"] + rows["test"])
    train = rows["train"] * row
    seeds = max(recipe.distill.teachers.seeds, 1) if recipe.distill is not None else 1
    found = list(_preparing(recipe, rows["train"], row, seeds))
    found.append(Phase("baseline", SHIP, shipping))
    if recipe.quantize is not None:
        qat = recipe.quantize.qat.epochs if recipe.quantize.qat else 0
        found.append(Phase("quantized", "quantization-aware training", qat * train))
        found.append(Phase("quantized", SHIP, shipping))
    if recipe.prune is not None:
        looking = PROBES * shipping / 2 if recipe.prune.target_latency is not None else 0.0
        found.append(Phase("pruned", "cut", 2.0 + looking))
        for name, epochs in recovery_phases(recipe.prune):
            if recipe.recovers_by_teacher and epochs:
                found.append(Phase("pruned", precompute(name), train / 3))
            found.append(Phase("pruned", name, epochs * train * 0.7))
        found.append(Phase("pruned", SHIP, shipping))
    if recipe.distill is not None:
        if (plain := recipe.distill.general) is not None:
            texts = (rows.get("unlabelled") or rows["train"]) * row
            found.append(Phase("distilled", general_distillation.ASK, texts / 3))
            found.append(Phase("distilled", general_distillation.PHASE, plain.epochs * texts * 0.5))
        if (augment := recipe.distill.augment) is not None:
            found.append(Phase("distilled", "augment", augment_seconds(augment, rows["train"])))
            train *= 1 + augment.rows
        found.append(Phase("distilled", ASK, seeds * train / 3))
        found.append(Phase("distilled", "distill", recipe.distill.epochs * train * 0.5))
        found.append(Phase("distilled", SHIP, shipping))
    return [*found, Phase(planned(recipe)[-1], LAST, shipping / 2)]


def _preparing(recipe: Recipe, rows: int, row: float, seeds: int) -> Iterator[Phase]:
    """Yield the phases of tuning the originals. rows: of train; row: seconds of training on one."""
    steps = preparation.steps_an_epoch(rows, recipe.train)
    sample = preparation.PROBE_STEPS * recipe.train.batch * recipe.train.accumulate * row
    for number in range(seeds):
        if recipe.prepare.is_open:
            probes = preparation.MOST_PROBES if recipe.prepare.probes and number == 0 else 0
            yield Phase("baseline", probe_phase(number), sample * (preparation.WARM_UPS * preparation.FORWARD + probes))
        yield Phase("baseline", phase_of(number), preparation.expected(recipe.prepare, steps) * rows * row)

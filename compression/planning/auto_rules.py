"""What the choice of a size needs of data, model, targets and budget, as known when a job is submitted. Torch-free."""

from collections.abc import Collection, Iterator

from compression.models.architectures.families import INSTALLED, ArchitectureSpec
from compression.planning.artifact_work import split_rows
from compression.planning.estimator import PlannedJob
from compression.planning.rates import REFERENCE
from compression.planning.work import time_work
from compression.schema.errors import InvalidSpec, UnreadableData, listed
from compression.schema.recipe.auto import Auto
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.tasks import TASKS
from compression.schema.validation import DataFacts

FEWEST = 2
"""Rows of validation that say anything of what a size keeps."""


def check_auto(recipe: Recipe, family: ArchitectureSpec, data: DataFacts) -> None:
    """Refuse a search for a size that has nothing to choose by. Raises InvalidSpec and UnreadableData."""
    if recipe.auto is None:
        return
    rows = split_rows(data, "validation")
    if rows < FEWEST and not TASKS[data.task].generates:
        cause = f"auto chooses a size by the validation rows, and there are {rows}"
        remedy = "Send a split validation, or more rows of train: a part of them then serves as validation."
        raise UnreadableData(cause, param="data.splits.validation", remedy=remedy)
    if recipe.auto.objective == "latency" and (family.decodes or family.name in INSTALLED):
        cause = f"no latency of the family {family.name} is predicted, by which a size could be chosen"
        raise InvalidSpec(cause, param="recipe.auto.objective", remedy="Set it to parameters.")


def auto_notes(job: PlannedJob, targets: Targets) -> Iterator[str]:
    """Yield what a search for a size, or a choice among several, should be warned of."""
    rows, prune = split_rows(job.data, "validation"), job.recipe.prune
    if prune is not None and prune.points > 1 and (unread := _unread(targets, read=("score",))):
        yield (
            f"Of {prune.points} sizes, the smallest that keeps the targets of the score is the best size: each is judged by "
            f"{listed(unread)} too, and not chosen by it."
        )
    if job.recipe.auto is None:
        return
    if unread := _unread(targets):
        yield (
            f"auto looks for a size by targets.retention ({targets.retention:.2%}) alone: what it ships is judged by "
            f"{listed(unread)} too, and not chosen by it. What no size may exceed is set in recipe.prune (target_params, "
            "target_flops or target_bytes)."
        )
    if not job.is_language and 0 < (1 - targets.retention) * rows < 1:
        yield (
            f"One of the {rows} validation rows weighs more than the target allows to lose ({1 - targets.retention:.2%}): only "
            "sizes that lose none meet it. Send more validation rows, or a lower targets.retention."
        )
    yield from _budget_notes(job, job.recipe.auto)


def _budget_notes(job: PlannedJob, auto: Auto) -> Iterator[str]:
    """Yield what does not fit into a budget. Two cores are the measure: a job waits for no particular worker."""
    most = f"{auto.budget_minutes:g} (auto.budget_minutes, of which each dataset has an equal share)"
    fixed = time_work([one for one in job.work if not one.fitted], REFERENCE).total / 60
    least = [one.limited(one.least) for one in job.work if one.fitted]
    whole = fixed + time_work(least, REFERENCE).total / 60
    if fixed >= auto.budget_minutes:
        yield (
            f"All but the trainings that auto fits into its budget takes about {fixed:.0f} minutes on two cores, and there are "
            f"{most}: on such a machine no size is tried, and the first one is distilled for an epoch. Give more minutes, or "
            "train less before: recipe.prepare, recipe.quantize.qat."
        )
    elif whole > auto.budget_minutes:
        yield (
            f"With one short distillation, and an epoch of the full one, the job takes about {whole:.0f} minutes on two cores, "
            f"and there are {most}: it takes longer than that. Give more minutes, or send fewer rows."
        )


def _unread(targets: Targets, read: Collection[str] = ()) -> list[str]:
    """Return the targets that a request names and the choice of a size does not read. read: what it does beside retention."""
    absolute = [key for key in ("parameters", "latency_ms", "score") if getattr(targets, key) is not None and key not in read]
    usual = {key: Targets.model_fields[key].default for key in ("parameter_reduction", "size_reduction", "speed_up")}
    compared = [key for key, value in usual.items() if getattr(targets, key) != value]
    return [f"targets.{key}" for key in (*compared, *absolute)]

"""The preflight of a job with several datasets: each is checked alone, and the estimates are added."""

from collections.abc import Collection, Mapping, Sequence
from statistics import mean
from typing import Any

from compression.planning.estimator import Estimate
from compression.planning.preflight import AskedJob, Preflight, evaluation_settings, preflight_dataset
from compression.schema.errors import CompressionError, InvalidSpec
from compression.schema.recipe.recipe import JobEvaluate, Recipe, Targets
from compression.schema.report.measurements import Parameters
from compression.schema.tasks import TASKS
from compression.schema.validation import DataFacts, ModelFacts


def preflight_several(
    model: ModelFacts,
    parts: Mapping[str, DataFacts],
    recipe: Recipe,
    evaluate: JobEvaluate,
    student: ModelFacts | None = None,
    teachers: Sequence[ModelFacts] = (),
    *,
    targets: Targets = Targets(),  # noqa: B008 (frozen)
    devices: Collection[str] = (),
) -> Preflight:
    """Return the preflight of several datasets. parts: name → facts, in the job's order. student, teachers: of every dataset;
    devices: names of the team's.

    Parameters and multiply-adds are means, minutes and disk sums, memory is the maximum: the datasets run one after another.
    Raises the errors of `preflight`; an error of one dataset names it as `datasets.<place>`.
    """
    evaluate.each(len(parts))  # a list of another length is not one dataset's error
    shared = share_of(recipe, len(parts))
    found: dict[str, Preflight] = {}
    for place, (name, facts) in enumerate(parts.items()):
        try:
            if TASKS[facts.task].generates:
                cause = f"perplexities have no mean with other scores: {facts.task} is a job of one dataset"
                raise InvalidSpec(cause, param="task", remedy="Send a job for this dataset alone.")
            own = evaluation_settings(evaluate, place, len(parts), facts.task, facts.labels)
            asked = AskedJob(model, facts, shared, own, student, teachers)
            found[name] = preflight_dataset(asked, targets, devices, alone=False)
        except CompressionError as problem:
            problem.found_in(f"datasets.{place} ({name})")
            if not (problem.param or "").startswith(("recipe.", "evaluate.", "models.")):
                problem.param = f"datasets.{place}"
            raise
    each = list(found.values())
    estimates = [one.estimate for one in each]
    return Preflight(
        shape=each[0].shape,
        parameters=_mean([one.parameters for one in each]),
        baseline_parameters=_mean([one.baseline_parameters for one in each]),
        multiply_adds=_operations([one.multiply_adds for one in each]),
        baseline_multiply_adds=_operations([one.baseline_multiply_adds for one in each]),
        estimate=Estimate(
            memory_bytes=max(one.memory_bytes for one in estimates),
            card_bytes=max(one.card_bytes for one in estimates),
            host_bytes_with_card=max(one.host_bytes_with_card for one in estimates),
            disk_bytes=sum(one.disk_bytes for one in estimates),
            minutes=round(sum(one.minutes for one in estimates), 1),
            training_minutes=round(sum(one.training_minutes for one in estimates), 1),
            work=tuple(work.model_copy(update={"part": place}) for place, one in enumerate(estimates) for work in one.work),
        ),
        warnings=_merged(found),
    )


def _operations(each: list[int | None]) -> int | None:
    known = [one for one in each if one is not None]
    return round(mean(known)) if known else None


def share_of(recipe: Recipe, parts: int) -> Recipe:
    """Return the recipe for one of several datasets: with its share of the limits of all training, and of a search's budget."""
    train = recipe.train
    steps = None if train.max_steps is None else max(train.max_steps // parts, 1)
    minutes = None if train.max_minutes is None else train.max_minutes / parts
    own: dict[str, Any] = {"train": train.model_copy(update={"max_steps": steps, "max_minutes": minutes})}
    if recipe.auto is not None:
        own["auto"] = recipe.auto.model_copy(update={"budget_minutes": recipe.auto.budget_minutes / parts})
    return recipe.model_copy(update=own)


def _mean(parameters: list[Parameters]) -> Parameters:
    embedding = round(mean(one.embedding for one in parameters))
    other = round(mean(one.other for one in parameters))
    return Parameters(total=embedding + other, embedding=embedding, other=other)


def _merged(found: Mapping[str, Preflight]) -> tuple[str, ...]:
    # A warning that every dataset has is about the model or the recipe.
    warnings: dict[str, list[str]] = {}
    for name, one in found.items():
        for warning in one.warnings:
            warnings.setdefault(warning, []).append(name)
    return tuple(
        warning if len(names) == len(found) else f"{', '.join(names)}: {warning}" for warning, names in warnings.items()
    )

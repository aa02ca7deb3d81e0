"""Preflight warnings: the job is allowed, but likely unintended, or its estimate is open. Torch-free."""

import json
import math
from collections.abc import Iterator

from compression.models.architectures.families import ARCHITECTURE_SPECS, ArchitectureSpec
from compression.models.architectures.shapes import Count, deepest_shape
from compression.planning import preparation
from compression.planning.artifact_work import scored
from compression.planning.estimator import PlannedJob, planned_steps
from compression.planning.pruning_reach import goes_past
from compression.planning.rates import REFERENCE
from compression.planning.scoring_time import FEWEST_SECONDS, most_seconds
from compression.planning.teacher_cost import TEACHER_BYTES
from compression.planning.token_estimates import TOKENS_A_WORD
from compression.planning.work import TimeLimits, time_work
from compression.schema.recipe.prune import TARGET_KEYS, Prune, Recovery, SearchBudget
from compression.schema.specs import MOST_POINTS
from compression.schema.stages import BASELINE
from compression.schema.tasks import TASKS
from compression.schema.validation import ModelFacts

DEEP = 0.4
"""A decoder that loses a larger share is better cut in steps (Minitron, Muralidharan et al. 2024, cuts by half at most)."""
MANY_REPEATED = 0.02
"""Share of a split's rows that may be in train too, as short texts are, before it is told."""
MOST_STEPS = 20
"""The maximum number of cuts in a recipe."""
ROUNDED_SECONDS = 2.4e-7
"""Processor time that a step with moments in 8 bits takes for a parameter, on a CPU (measured, while other work ran)."""
SPILL_MARGIN = 1.2
"""Factor on the estimated bytes of a teacher's hidden states, for the disk that a warning proposes."""


def warned(job: PlannedJob, model: ModelFacts, count: Count, *, headed: bool) -> Iterator[str]:
    """Yield all warnings of a job. headed: whether the model has the head that the task needs."""
    family, prune = ARCHITECTURE_SPECS[model.family], job.recipe.prune
    yield from _of_data(job)
    if model.labels is not None and not headed:
        # A language model's head is never random: an upload without one, and without a table tied to it, was refused.
        instead = "its own output layer, or the token table, predicts next tokens" if job.is_language else "a new one is drawn"
        yield f"The model's head is for another task: it is left out, and {instead}."
    yield from _of_training(job, family)
    if not job.recipe.prepare.trains and not job.is_language and not headed:
        yield "The model comes without a head for the task and prepare.epochs is 0: its head stays as it was drawn."
    if prune is not None:
        yield from _unknown(family, model, prune, count)
        yield from goes_past(family, model.shape, prune, job.result.shape, count, model.network)
    yield from _repeated_teacher(job)
    yield from _sampled(job)


def _sampled(job: PlannedJob) -> Iterator[str]:
    """Warn of scores that are taken on a sample of the rows, since all would take longer than training."""
    training = time_work(job.work, REFERENCE, limits=TimeLimits.of_recipe(job.recipe)).training
    scoring = scored(BASELINE, job.model, job.data, job.recipe.train, job.evaluate)
    seconds, most = scoring.scoring_seconds(REFERENCE), most_seconds(training)
    if seconds <= most:
        return
    share, rows = most / seconds, "texts" if job.is_language else "rows"
    why = "all training" if most > FEWEST_SECONDS else f"the {FEWEST_SECONDS / 60:.0f} minutes that any score may take"
    yield (
        f"On two cores, scoring an artifact takes about {seconds / 60:.0f} minutes, longer than {why}: some {share:.1%} of the "
        f"{rows}, drawn at random and the same for all artifacts, are then scored, and standard errors are "
        f"{math.sqrt(1 / share):.1f} times as large."
    )


def _of_data(job: PlannedJob) -> Iterator[str]:
    """Warn of few rows, splits carved from train, repeated, empty and truncated texts, and rare labels."""
    data, length = job.data, job.recipe.train.max_length
    # For a language model the number of test texts counts, not the number of train texts.
    for name, least in ({"test": 30} if job.is_language else {"train": 1000, "validation": 100, "test": 200}).items():
        if name in data.rows and data.rows[name] < least:
            yield f"{name} has {data.rows[name]} rows: with fewer than {least} the score tells little."
    missing = [name for name in ("validation", "test") if name not in data.rows]
    if missing:
        yield f"There is no {' and no '.join(missing)} split: it is carved from train."
    if data.mean_words * TOKENS_A_WORD > length and not job.is_language and not TASKS[data.task].windows:
        yield f"The texts average {data.mean_words:.0f} words; most are cut to {length} tokens."
    for name, count in data.repeated.items():
        if count >= MANY_REPEATED * data.rows[name]:
            where = "are in train too, word for word: what is kept of the score on them"
            remedy = "Take them out of train."
            if name == "train":
                where = "are there more than once, word for word, and some of the copies are carved: what is kept of the score"
                remedy = f"Keep one of each, or send {' and '.join(missing)} too."
            yield f"{count:,} of {data.rows[name]:,} rows of {name} {where} says little of new texts. {remedy}"
    for name, count in data.empty.items():
        yield f"{count:,} of {data.rows[name]:,} rows of {name} have no word."
    counts = data.label_counts["train"]
    rarest = min(counts, key=lambda label: counts[label], default=None)
    if rarest is not None and counts[rarest] < 8:
        what = "words" if TASKS[data.task].named_labels and not TASKS[data.task].one_class else "rows"
        yield f"Only {counts[rarest]} {what} of train bear the label {rarest!r}."


def _of_training(job: PlannedJob, family: ArchitectureSpec) -> Iterator[str]:
    """Warn of cuts that change nothing, are too deep or not followed by training, and of limits that end training early."""
    prune, distill, most = job.recipe.prune, job.recipe.distill, job.recipe.train.max_steps
    left = job.result.parameters.total / job.model.parameters.total
    if prune and prune.target_latency is None and set(prune.axes) != {"vocabulary"}:
        if left == 1 and job.recipe.auto is None:
            met = "The whole model is within the targets of prune: nothing is cut."
            yield met if prune.has_target else f"The ratio {prune.deepest:g} rounds to no change of shape."
        if family.decodes and job.recipe.auto is None:  # there the ratio is of the first size that is tried
            yield from _too_deep(prune, left)
    prepare, steps = job.recipe.prepare, preparation.steps_an_epoch(job.texts.rows["train"], job.recipe.train)
    if (prepare.epochs is None or prepare.epochs > 1) and preparation.patience(prepare, steps) == 1:
        yield (
            "prepare.patience: 1 ends the original's training at the first epoch that brings nothing. One such epoch does not "
            "show that it had stopped gaining, so what is kept of its score stays unproven: choose at least 2."
        )
    if prune and prune.reconstruct and not prune.reconstructs:
        yield "prune.reconstruct is not done beside prune.search, whose cut keeps the weights that its error tables assume."
    if prune and distill is None and prune.recovery is None:
        yield "The model is pruned and not trained afterwards: expect its score to fall."
    if distill is not None and distill.general is not None and "unlabelled" not in job.data.rows and not job.is_language:
        yield "There is no unlabelled split: the general phase takes train's texts."
    planned = planned_steps(job)
    if job.recipe.train.optimizer == "adamw-8bit":
        steps = planned if most is None else min(planned, most)
        minutes = ROUNDED_SECONDS * job.model.parameters.total * steps / 60
        yield (
            "train.optimizer: adamw-8bit is for GPUs whose memory is short: on a CPU its steps take about "
            f"{minutes:,.0f} minutes more than adamw's, which the forecast does not count."
        )
    if most is not None and most < planned:
        yield f"train.max_steps ends training after {most} of about {planned} steps: later stages get what earlier ones leave."


def _too_deep(prune: Prune, left: float) -> Iterator[str]:
    """Warn of a cut with too deep a step, and propose keys that divide it. left: share of parameters after all cuts; of several
    sizes, each is cut from the one before.
    """
    share = 1 - left ** (1 / max(prune.steps, prune.points))
    if share <= DEEP:
        return
    steps = min(math.ceil(math.log(left) / math.log(1 - DEEP)), MOST_STEPS)
    if prune.points < steps <= MOST_POINTS and prune.points > 1:
        yield (
            f"{share:.0%} of the parameters go with each of {prune.points} sizes: beyond {DEEP:.0%} in one cut, decoders keep "
            f"more in smaller ones. Put this into prune: {json.dumps({'points': steps})}"
        )
        return
    recovery = prune.recovery or Recovery()
    own = recovery.model_dump(mode="json", exclude_defaults=True)
    usual = {"search": None, "finalists": None, "points": 1, "search_budget": SearchBudget().model_dump(mode="json")}
    given = prune.model_dump(mode="json")
    one_cut = {key: value for key, value in usual.items() if given[key] != value}
    one_cut |= dict.fromkeys([key for key in TARGET_KEYS if given[key] is not None][1:])
    keys = json.dumps({**one_cut, "steps": steps, "recovery": own | {"by": "teacher", "epochs": max(recovery.epochs, steps)}})
    yield (
        f"{share:.0%} of the parameters go in one cut: beyond {DEEP:.0%}, decoders keep more in steps, each followed by "
        f"training that learns the baseline's answers. Put this into prune: {keys}"
    )


def _unknown(family: ArchitectureSpec, model: ModelFacts, prune: Prune, count: Count) -> Iterator[str]:
    """Report what only the worker can determine, and its bounds."""
    shape = model.shape
    if prune.target_latency is not None and prune.search is not None:
        so_far = "is by the other targets alone" if prune.has_size_target else "is without a cut"
        yield f"Which shape target_latency needs is searched for and measured on the worker. This forecast {so_far}."
    elif prune.target_latency is not None:
        least = count(deepest_shape(family, shape, prune, model.network))
        yield (
            f"Which shape target_latency needs is measured on the worker: between {least:,} and {count(shape):,} "
            "parameters. This forecast is without a cut."
        )
    if "vocabulary" in prune.axes:
        fewest = max(round(shape.vocabulary * (1 - prune.vocabulary_ratio)), 1)
        spared = count(shape) - count(shape.model_copy(update={"vocabulary": fewest}))
        yield (
            f"Which of {shape.vocabulary:,} tokens the texts need is found on the worker: up to {spared:,} parameters of the "
            "model go with the others. This forecast is with all tokens."
        )


def _repeated_teacher(job: PlannedJob) -> Iterator[str]:
    """Warn of a teacher that runs again in each epoch, and propose a way to keep its hidden states."""
    unkept, distill = job.objectives.unkept, job.recipe.distill
    if (spare := job.objectives.spare) is not None:
        yield (
            f"The teacher's states take about {spare.bytes / 2**30:.1f} GiB: they are kept on the worker's disk if it has as "
            "much to spare, as the forecast of time supposes; else the teacher runs again in each epoch."
        )
    if unkept is None:
        return
    gib, remedy = unkept.bytes / 2**30, "send fewer texts, or distil too, which may keep them on the worker's disk"
    if distill is not None:
        # Tokens are estimated from words or characters, so there may be more.
        remedy = f"distill.spill_gib: {math.ceil(SPILL_MARGIN * gib)} keeps them on the worker's disk"
        if job.is_language and unkept is job.objectives.task and set(distill.weights()) <= {"soft", "hard"}:
            remedy += ", and distill.kept its likeliest tokens alone"
    yield (
        f"The teacher's states take about {gib:.1f} GiB, and memory keeps {TEACHER_BYTES >> 30} of them at most: it runs "
        f"again in each epoch; {remedy}."
    )

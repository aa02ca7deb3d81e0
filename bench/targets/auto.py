"""Ten jobs of `recipe: "auto"`, each told to keep 99 % within 30 minutes, on sets and seeds that it was not developed with.

What each ships is judged by validation; the files' answers to test are read once, and pooled over the sets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from bench.glue.statistics import Answers, Kept, kept
from bench.targets import auto_sets
from bench.targets.jobs import Jobs
from bench.targets.steps import Clock, Facts, Place, Step, head, line, records_of, told
from compression.schema.recipe.presets import merged, preset
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Shape

RECIPE, RETENTION, MINUTES = "auto", 0.99, 30.0
RUNS = 10
HOLD, POOLED, SMALLER = 0.9, 0.98, 0.40
"""What is promised: the share of runs that keep RETENTION on validation, what all keep on test at least (lower bound of 95 %),
and how much smaller each is."""
NEAR = 0.05
"""Share of the original's parameters: a size that missed shows that none smaller passes if it is no further below what is
shipped. With time left a job tries sizes until one is as near (`engine/stages/size_choice.py`)."""
CUT = ("pruned", "distilled")
"""Stages whose artifacts the search has cut: a job that ships another one has found no size."""


@dataclass(frozen=True)
class Plan:
    """Which jobs are run: sets with their seeds. changes: of the recipe."""

    runs: Sequence[tuple[str, int]] = (
        *(("tweets", seed) for seed in (53, 59)),  # after those before them the search was changed (decision 71)
        *(("editorials", seed) for seed in (43, 47)),
        *((name, 37) for name in (*auto_sets.MADE, *auto_sets.KNOWN)),
    )
    changes: Mapping[str, Any] = field(default_factory=dict)

    def at(self, seed: int) -> Recipe:
        """Return the recipe of a job."""
        own = {"auto": {"budget_minutes": MINUTES}, "train": {"seed": seed}}
        recipe = Recipe.model_validate(merged(preset(RECIPE, "text-classification"), self.changes))
        return Recipe.model_validate(merged(recipe, own))


PLAN = Plan()


def steps(place: Place, plan: Plan = PLAN) -> Iterator[Step]:
    """Yield a step for each job."""
    for name, seed in plan.runs:
        data, recipe = auto_sets.prepare(name, place), plan.at(seed)
        jobs = Jobs(place, RECIPE, data, {"targets": {"retention": RETENTION}})
        about = {**jobs.about(recipe), **jobs.more}
        stem = f"{name}-{seed}"
        yield Step(stem, about, partial(_run, jobs, recipe, stem), (jobs.folder(stem),))


def _run(jobs: Jobs, recipe: Recipe, name: str, clock: Clock) -> Facts:
    """Run a job; keep what it ships, what it tried, and the answers of both ends to the rows of test."""
    run = jobs.run(name, recipe, clock)
    report = run.report.model_dump(mode="json")
    before = report["rows"][0]
    shipped = next(row for row in report["rows"] if row["artifact"] == report["headline"])
    found = {"shipped": shipped, "original": before, "gate": report.get("gate"), "sizes": report.get("sizes")}
    found |= {"seconds": run.seconds, "choice": report["choice"]}
    found["answers"] = jobs.answers(run.artifact(before["artifact"]), run.artifact(shipped["artifact"]))
    return found


def is_cut(record: Mapping[str, Any]) -> bool:
    """Return whether a job ships a model of a size that it found, and not the whole one."""
    stage: str = record["shipped"]["stage"]
    return stage in CUT


def share_kept(record: Mapping[str, Any]) -> float:
    """Return the share of the original's score on validation that a job's artifact keeps."""
    share: float | None = record["shipped"]["ratios"]["retention_on_validation"]
    return 0.0 if share is None else share


def holds_target(record: Mapping[str, Any]) -> bool:
    """Return whether a job ships a cut model that keeps the target on validation."""
    return is_cut(record) and share_kept(record) >= RETENTION


def is_small(record: Mapping[str, Any]) -> bool:
    """Return whether a job's artifact is as much smaller as is promised, or its report shows that none smaller passes."""
    return smaller(record) >= SMALLER or none_smaller_passes(record)


def in_time(record: Mapping[str, Any]) -> bool:
    """Return whether a job took no longer than its budget."""
    seconds: float = record["seconds"]
    return seconds <= 60 * MINUTES


def smaller(record: Mapping[str, Any]) -> float:
    """Return by which share of the parameters a job's artifact is smaller."""
    share: float = record["shipped"]["ratios"]["parameter_reduction"]
    return share


def none_smaller_passes(record: Mapping[str, Any]) -> bool:
    """Return whether a job's report shows that no smaller shape passes: of the smaller ones that it tried none kept the target
    or was expected to, and the largest of them is near to what is shipped.
    """
    sizes, shipped = record["sizes"], record["shipped"]["parameters"]["total"]
    if sizes is None:
        return False
    below = [(one["parameters"], one["kept"] if one["kind"] == "full" else one["expected"]) for one in sizes["tried"]]
    missed = [(parameters, kept) for parameters, kept in below if parameters < shipped and kept is not None]
    if not missed or any(kept >= RETENTION for _, kept in missed):
        return False
    apart: float = (shipped - max(missed)[0]) / sizes["whole"]
    return apart <= NEAR


def accepts_untested(record: Mapping[str, Any]) -> bool:
    """Return whether a job says `accept` without a paired test whose bound is within the limit."""
    gate = record["gate"]
    if gate is None or gate["status"] != "accept":
        return False
    return "upper" not in gate["validation"] or gate["validation"]["upper"] > gate["max_drop"]


def pooled(records: Mapping[str, Mapping[str, Any]]) -> Kept:
    """Return what is kept on the tests of all sets. records: by set and seed."""
    found = {}
    for name, runs in groupby(sorted(records), key=lambda each: each.rpartition("-")[0]):
        answers = [records[run]["answers"] for run in runs]
        sides = {side: np.array([one[side] for one in answers]) for side in ("before", "after")}
        found[name] = Answers(np.array(answers[0]["wanted"]), sides)
    return kept(found, "before", "after")


def table(records: Path) -> str:
    """Return the records as a line a job, and what they come to."""
    found = dict(records_of(records))
    lines = head("set, seed", "shape", "parameters", "kept on validation", "gate", "40 % smaller", "tried", "minutes")
    for name, record in found.items():
        shipped, gate, sizes = record["shipped"], record["gate"], record["sizes"]
        size = f"{shipped['parameters']['total'] / 1e6:.2f} M ({-smaller(record):+.1%})"
        small = (
            "yes" if smaller(record) >= SMALLER else "none smaller passes" if none_smaller_passes(record) else told(holds=False)
        )
        kept_there = f"{share_kept(record):.1%}{'' if is_cut(record) else ', not cut'}"
        cells = (kept_there, gate["status"] if gate else "–", small, len(sizes["tried"]) if sizes else 0)
        shape = Shape.model_validate(shipped["shape"]).short
        lines.append(line(name, shape, size, *cells, f"{record['seconds'] / 60:.1f}"))
    return "\n".join([*lines, "", *_sums(found)] if found else lines)


def _sums(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the records come to. Before all jobs are there, no promise is said to be kept."""
    each, all_of, whole = list(found.values()), len(found), pooled(found)

    def verdict(*, holds: bool) -> str:
        return "not yet" if holds and all_of < RUNS else told(holds=holds)

    hold, down = sum(map(holds_target, each)), sum(map(is_small, each))
    untested, quick = sum(map(accepts_untested, each)), sum(map(in_time, each))
    enough = verdict(holds=hold >= HOLD * all_of)
    yield f"{all_of} of {RUNS} jobs. On validation {hold} of {all_of} keep {RETENTION:.0%}, cut (nine of ten: {enough})."
    bound = f"{whole.share:.2%} [{whole.low:.2%}, {whole.high:.2%}]"
    yield f"On their tests pooled they keep {bound} (at least {POOLED:.0%}: {verdict(holds=whole.low >= POOLED)})."
    yield f"40 % smaller, or none smaller passes: {down} of {all_of} ({verdict(holds=down == all_of)})."
    yield f"`accept` without a paired test: {untested} ({verdict(holds=not untested)})."
    yield f"Within {MINUTES:g} minutes: {quick} of {all_of} ({verdict(holds=quick == all_of)})."

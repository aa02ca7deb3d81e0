"""Two ways to cut the same tuned original of a set, and which of them answers the rows of test better."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench import engine
from bench.glue.statistics import Answers, differences
from bench.targets.jobs import Jobs, validated
from bench.targets.steps import Clock, Facts, records_of
from compression.schema.recipe.recipe import Recipe
from compression.schema.stages import PRUNED

Found = Mapping[str, Mapping[str, Sequence[Facts]]]
"""Set → side → what came of it, one a seed."""


def of_side(recipe: Recipe, changes: Mapping[str, Any], seed: int) -> Recipe:
    """Return a recipe with one side's cut, at a seed."""
    assert recipe.prune is not None, "cuts are what is compared"
    train, prune = recipe.train.model_copy(update={"seed": seed}), recipe.prune.model_copy(update=changes)
    return recipe.model_copy(update={"train": train, "prune": prune})


def run_each(jobs: Jobs, recipes: Mapping[str, Recipe], stem: str, clock: Clock) -> dict[str, engine.Run]:
    """Run the sides, all but the first one with the tuned original and the tables of the first."""
    first, *others = recipes
    runs = {first: jobs.run(f"{stem}-{first}", recipes[first], clock)}
    return runs | {side: jobs.run(f"{stem}-{side}", recipes[side], clock, after=runs[first]) for side in others}


def told(jobs: Jobs, run: engine.Run) -> Facts:
    """Return what came of a side, and how it answers the rows of test beside the original."""
    first, row = run.report.rows[0], run.report.rows[-1]
    known = {"shape": row.shape, "latency": row.latency, "validation": validated(row)}
    found: Facts = {key: value.model_dump(mode="json") for key, value in known.items()}
    found |= {"parameters": row.parameters.total, "bytes": row.size.bytes, "seconds": run.seconds}
    found["notes"] = [note for each in run.report.rows if each.stage == PRUNED for note in each.notes]
    found["answers"] = jobs.answers(run.artifact(first.artifact), run.artifact(row.artifact))
    return found


def by_set(records: Path, more: Callable[[Facts, str], Facts] = lambda _record, _side: {}) -> Found:
    """Return what came of each side of each set. more: what a whole record says of a side beside that."""
    found = dict[str, dict[str, list[Facts]]]()
    for stem, record in records_of(records):
        for side, one in record["sides"].items():
            found.setdefault(stem.rpartition("-")[0], {}).setdefault(side, []).append({**one, **more(record, side)})
    return found


def gap(found: Found, side: str, other: str) -> tuple[float, float, float]:
    """Return by how many points of 100 a side is ahead of the other on test, as a mean over sets, with its 95 % interval."""
    answers = {
        name: Answers(
            np.array(sides[side][0]["answers"]["wanted"]),
            {each: np.array([one["answers"]["after"] for one in runs]) for each, runs in sides.items()},
        )
        for name, sides in found.items()
    }
    return differences(answers, side, other)


def verdict(low: float, high: float) -> str:
    """Return how a side stands, by the interval of what it is ahead."""
    return "ahead" if low > 0 else "behind" if high < 0 else "neither ahead nor behind"

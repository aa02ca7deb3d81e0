"""Widths of each layer against one width for all layers, both by the solver, at equal milliseconds, on four sets of text.

Both cut the same tuned original until its integer file is as many times as fast as asked, which is measured, and are taught
alike then. One side has the widths that a stock config can state, the other feed-forward units that each layer has for itself
(`prune.free_widths`). Nothing is chosen by the scores: those of test are read once, at the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

import numpy as np

from bench.glue import compare
from bench.glue.statistics import METRICS, Answers, differences
from bench.preparation.datasets import MOST
from bench.targets.jobs import Jobs, prepared, validated
from bench.targets.milliseconds import TABLE, kept_table
from bench.targets.steps import Clock, Facts, Place, Step, head, line, records_of
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.report.measurements import Latency, Shape
from compression.schema.stages import PRUNED
from compression.system import durable_files

SIDES: dict[str, dict[str, Any]] = {"uniform": {"free_widths": False}, "free": {"free_widths": True}}
ALIKE = "uniform"  #: the side that runs first, and tunes the original of both
SETS = ("sst2", "mrpc", "stsb", "banking77")
ORIGINAL, SITTINGS = "original", 3
MILLISECONDS = "milliseconds"  #: the part whose device table predicts
SPEED_UP = 5.0
FAST = Prune(search="solver", target_latency=TargetLatency(speed_up=SPEED_UP))
CUT = Recipe(prune=FAST, distill=Distill(epochs=6), train=Train(max_length=64), artifacts=())
NEAR = 0.05
"""Share by which one side may be faster than the other on the mean, and either slower than asked, at equal milliseconds."""


@dataclass(frozen=True)
class Plan:
    """Which sets are cut, with which seeds, and how. rows: of train at most, those of validation included."""

    sets: Sequence[str] = SETS
    seeds: Sequence[int] = (0, 1)
    rows: Mapping[str, int] = field(default_factory=lambda: MOST)
    recipe: Recipe = CUT

    def at(self, side: str, seed: int) -> Recipe:
        """Return the recipe of one side."""
        train = {"train": self.recipe.train.model_copy(update={"seed": seed})}
        assert self.recipe.prune is not None, "cuts are what is compared"
        return self.recipe.model_copy(update={**train, "prune": self.recipe.prune.model_copy(update=SIDES[side])})


PLAN = Plan()


def steps(place: Place, plan: Plan = PLAN) -> Iterator[Step]:
    """Yield a step for each set and seed: both sides, on one machine. Raises SystemExit without this machine's device table."""
    file = place.folder / f"{TABLE}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    durable_files.write_text(file, kept_table(place.records.parent / MILLISECONDS).model_dump_json())
    for seed, name in product(plan.seeds, plan.sets):
        jobs = Jobs(place, "widths", prepared(place, name, plan.rows[name]), {"device_tables": (str(file),)})
        stem, recipes = f"{name}-{seed}", {side: plan.at(side, seed) for side in SIDES}
        about, folders = {**jobs.about(recipes[ALIKE]), "sides": SIDES}, tuple(jobs.folder(f"{stem}-{side}") for side in SIDES)
        yield Step(stem, about, partial(_cut, jobs, recipes, stem), folders)


def _cut(jobs: Jobs, recipes: Mapping[str, Recipe], stem: str, clock: Clock) -> Facts:
    """Run both sides, the second with the tuned original and the tables of the first; answer the rows of test by the files."""
    first = jobs.run(f"{stem}-{ALIKE}", recipes[ALIKE], clock)
    before, sides, files = first.artifact(first.report.rows[0].artifact), dict[str, Facts](), dict[str, Path]()
    for side, recipe in recipes.items():
        run = first if side == ALIKE else jobs.run(f"{stem}-{side}", recipe, clock, after=first)
        row = run.report.rows[-1]
        if not isinstance(row.latency, Latency):
            raise SystemExit(f"{row.artifact} was not timed: {row.latency}")
        known = {"shape": row.shape, "latency": row.latency, "validation": validated(row)}
        found: Facts = {key: value.model_dump(mode="json") for key, value in known.items()}
        found |= {"parameters": row.parameters.total, "bytes": row.size.bytes, "seconds": run.seconds}
        found["notes"] = [note for each in run.report.rows if each.stage == PRUNED for note in each.notes]
        files[side] = run.artifact(row.artifact)
        found["answers"] = jobs.answers(before, files[side])
        sides[side] = found
    return {"sides": sides, "milliseconds": in_turns({ORIGINAL: before, **files})}


def in_turns(files: Mapping[str, Path]) -> dict[str, float]:
    """Return the milliseconds of files, all of them timed in turns: the mean of some sittings' medians, so that a slow minute
    is in all of them alike. What each job has measured is of another moment, of 3 seconds.
    """
    sittings = [compare.time_all(files, settles=True) for _ in range(SITTINGS)]
    return {name: fmean(each[name] for each in sittings) for name in files}


Found = Mapping[str, Mapping[str, Sequence[Facts]]]
"""Set → side → what came of it, one a seed."""


def by_set(records: Path) -> Found:
    """Return what came of each side of each set."""
    found = dict[str, dict[str, list[Facts]]]()
    for stem, record in records_of(records):
        took = record["milliseconds"]
        for side, one in record["sides"].items():
            each = {**one, "times_as_fast": took[ORIGINAL] / took[side]}
            found.setdefault(stem.rpartition("-")[0], {}).setdefault(side, []).append(each)
    return found


def why_unequal(found: Found) -> str | None:
    """Return why the sides are not compared at equal milliseconds, or None."""
    speeds = {side: [one["times_as_fast"] for sides in found.values() for one in sides[side]] for side in SIDES}
    if (slowest := min(map(min, speeds.values()))) < SPEED_UP * (1 - NEAR):
        return f"one is {slowest:.2f} times as fast, and {SPEED_UP:g} were asked"
    means = {side: geometric_mean(each) for side, each in speeds.items()}
    low, high = sorted(means.values())
    told = " and ".join(f"{mean:.2f} times ({side})" for side, mean in means.items())
    return f"on the mean they are {told} as fast" if high > low * (1 + NEAR) else None


def gap(found: Found) -> tuple[float, float, float]:
    """Return by how many points of 100 free widths are ahead on test, as a mean over sets, with its 95 % interval."""
    answers = {
        name: Answers(
            np.array(sides["free"][0]["answers"]["wanted"]),
            {side: np.array([one["answers"]["after"] for one in each]) for side, each in sides.items()},
        )
        for name, sides in found.items()
    }
    return differences(answers, "free", "uniform")


def table(records: Path) -> str:
    """Return the records as a line a set and side, and what they come to."""
    found = by_set(records)
    lines = head("set", "side", "seeds", "shapes", "parameters", "times as fast, measured", "validation", "test")
    for name, sides in found.items():
        for side, each in sides.items():
            shapes = " and ".join(dict.fromkeys(Shape.model_validate(one["shape"]).short for one in each))
            pairs = [[np.array(one["answers"][key]) for key in ("after", "wanted")] for one in each]
            means = [fmean(one["parameters"] for one in each) / 1e6, fmean(one["validation"]["value"] for one in each)]
            scores = (f"{means[1]:.2%}", f"{fmean(METRICS[name](*pair) for pair in pairs):.2%}")
            speeds = ", ".join(f"{one['times_as_fast']:.2f}" for one in each)
            lines.append(line(name, side, len(each), shapes, f"{means[0]:.2f} M", speeds, *scores))
    if found:
        points, low, high = gap(found)
        verdict = "ahead" if low > 0 else "behind" if high < 0 else "neither ahead nor behind"
        lines += [
            "",
            f"Free widths less uniform on test, mean of {len(found)} sets: {points:+.2f} points [{low:+.2f}, {high:+.2f}].",
        ]
        unequal = why_unequal(found)
        lines.append(f"Free widths are {verdict}." if unequal is None else f"Not at equal milliseconds: {unequal}.")
    return "\n".join(lines)

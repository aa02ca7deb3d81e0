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
from bench.glue.statistics import METRICS
from bench.preparation.datasets import MOST
from bench.targets import sides
from bench.targets.jobs import Jobs, prepared
from bench.targets.milliseconds import TABLE, kept_table
from bench.targets.steps import Clock, Facts, Place, Step, head, line
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune, TargetLatency
from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.report.measurements import Latency, Shape
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
        return sides.of_side(self.recipe, SIDES[side], seed)


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
    """Run both sides; answer the rows of test by the files, and time these."""
    runs = sides.run_each(jobs, recipes, stem, clock)
    rows = {side: run.report.rows[-1] for side, run in runs.items()}
    if untimed := [row for row in rows.values() if not isinstance(row.latency, Latency)]:
        raise SystemExit(f"{untimed[0].artifact} was not timed: {untimed[0].latency}")
    before = runs[ALIKE].artifact(runs[ALIKE].report.rows[0].artifact)
    files = {side: run.artifact(rows[side].artifact) for side, run in runs.items()}
    found = {side: sides.told(jobs, run) for side, run in runs.items()}
    return {"sides": found, "milliseconds": in_turns({ORIGINAL: before, **files})}


def in_turns(files: Mapping[str, Path]) -> dict[str, float]:
    """Return the milliseconds of files, all of them timed in turns: the mean of some sittings' medians, so that a slow minute
    is in all of them alike. What each job has measured is of another moment, of 3 seconds.
    """
    sittings = [compare.time_all(files, settles=True) for _ in range(SITTINGS)]
    return {name: fmean(each[name] for each in sittings) for name in files}


def _speed(record: Facts, side: str) -> Facts:
    """Return how fast a side was in the turns at the end."""
    return {"times_as_fast": record["milliseconds"][ORIGINAL] / record["milliseconds"][side]}


def why_unequal(found: sides.Found) -> str | None:
    """Return why the sides are not compared at equal milliseconds, or None."""
    speeds = {side: [one["times_as_fast"] for of_set in found.values() for one in of_set[side]] for side in SIDES}
    if (slowest := min(map(min, speeds.values()))) < SPEED_UP * (1 - NEAR):
        return f"one is {slowest:.2f} times as fast, and {SPEED_UP:g} were asked"
    means = {side: geometric_mean(each) for side, each in speeds.items()}
    low, high = sorted(means.values())
    told = " and ".join(f"{mean:.2f} times ({side})" for side, mean in means.items())
    return f"on the mean they are {told} as fast" if high > low * (1 + NEAR) else None


def table(records: Path) -> str:
    """Return the records as a line a set and side, and what they come to."""
    found = sides.by_set(records, _speed)
    lines = head("set", "side", "seeds", "shapes", "parameters", "times as fast, measured", "validation", "test")
    for name, of_set in found.items():
        for side, each in of_set.items():
            shapes = " and ".join(dict.fromkeys(Shape.model_validate(one["shape"]).short for one in each))
            pairs = [[np.array(one["answers"][key]) for key in ("after", "wanted")] for one in each]
            means = [fmean(one["parameters"] for one in each) / 1e6, fmean(one["validation"]["value"] for one in each)]
            scores = (f"{means[1]:.2%}", f"{fmean(METRICS[name](*pair) for pair in pairs):.2%}")
            speeds = ", ".join(f"{one['times_as_fast']:.2f}" for one in each)
            lines.append(line(name, side, len(each), shapes, f"{means[0]:.2f} M", speeds, *scores))
    if found:
        points, low, high = sides.gap(found, "free", "uniform")
        lines += [
            "",
            f"Free widths less uniform on test, mean of {len(found)} sets: {points:+.2f} points [{low:+.2f}, {high:+.2f}].",
        ]
        unequal = why_unequal(found)
        ahead = f"Free widths are {sides.verdict(low, high)}."
        lines.append(ahead if unequal is None else f"Not at equal milliseconds: {unequal}.")
    return "\n".join(lines)

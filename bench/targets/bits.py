"""Layers in 8 bits among others in 4 against 4 bits for all, both by the solver, within the same bytes, on four sets of text.

Both cut the same tuned original until its weights take no more than the limit, and are taught alike. One side has 4 bits in all
layers; on the other the solver may give layers 8 (`prune.mixed_bits`), for which widths pay. Nothing is chosen by the scores:
those of test are read once, at the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np

from bench.glue.statistics import METRICS
from bench.preparation.datasets import MOST
from bench.targets import sides
from bench.targets.jobs import Jobs, prepared
from bench.targets.steps import Clock, Facts, Place, Step, head, line
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Recipe, Train
from compression.schema.report.measurements import Shape

SIDES = {"four": {"mixed_bits": False}, "mixed": {"mixed_bits": True}}
SETS = ("sst2", "mrpc", "stsb", "banking77")
BYTES = 14e6
"""Of 19.9 million that the whole MiniLM takes in 4 bits: some widths go on both sides."""
CUT = Recipe(
    quantize=Quantize(scheme="weight-only-int4"),
    prune=Prune(search="solver", target_bytes=BYTES),
    distill=Distill(epochs=6),
    train=Train(max_length=64),
    artifacts=(),
)


@dataclass(frozen=True)
class Plan:
    """Which sets are cut, with which seeds, and how. rows: of train at most, those of validation included."""

    sets: Sequence[str] = SETS
    seeds: Sequence[int] = (0, 1)
    rows: Mapping[str, int] = field(default_factory=lambda: MOST)
    recipe: Recipe = CUT


PLAN = Plan()


def steps(place: Place, plan: Plan = PLAN) -> Iterator[Step]:
    """Yield a step for each set and seed: both sides."""
    for seed, name in product(plan.seeds, plan.sets):
        jobs, stem = Jobs(place, "bits", prepared(place, name, plan.rows[name])), f"{name}-{seed}"
        recipes = {side: sides.of_side(plan.recipe, changes, seed) for side, changes in SIDES.items()}
        about, folders = {**jobs.about(recipes["four"]), "sides": SIDES}, tuple(jobs.folder(f"{stem}-{side}") for side in SIDES)
        yield Step(stem, about, partial(_cut, jobs, recipes, stem), folders)


def _cut(jobs: Jobs, recipes: Mapping[str, Recipe], stem: str, clock: Clock) -> Facts:
    runs = sides.run_each(jobs, recipes, stem, clock)
    return {"sides": {side: sides.told(jobs, run) for side, run in runs.items()}}


def table(records: Path) -> str:
    """Return the records as a line a set and side, and what they come to."""
    found = sides.by_set(records)
    lines = head("set", "side", "seeds", "shapes", "MB", "validation", "test")
    for name, each in found.items():
        for side, runs in each.items():
            shapes = " and ".join(dict.fromkeys(Shape.model_validate(one["shape"]).short for one in runs))
            sizes = ", ".join(f"{one['bytes'] / 1e6:.2f}" for one in runs)
            pairs = [[np.array(one["answers"][key]) for key in ("after", "wanted")] for one in runs]
            on_test = fmean(METRICS[name](*pair) for pair in pairs)
            on_validation = fmean(one["validation"]["value"] for one in runs)
            lines.append(line(name, side, len(runs), shapes, sizes, f"{on_validation:.2%}", f"{on_test:.2%}"))
    if found:
        points, low, high = sides.gap(found, "mixed", "four")
        lines += ["", f"Chosen bits less 4 on test, mean of {len(found)} sets: {points:+.2f} points [{low:+.2f}, {high:+.2f}]."]
        lines.append(f"Chosen bits are {sides.verdict(low, high)}; {_with_eights(found)}.")
    return "\n".join(lines)


def _with_eights(found: sides.Found) -> str:
    """Return in how many jobs the solver gave any layer 8 bits: in the others both sides are the same but for chance."""
    shapes = [Shape.model_validate(one["shape"]) for each in found.values() for one in each["mixed"]]
    return f"{sum(bool(shape.eight_bits) for shape in shapes)} of {len(shapes)} jobs have layers in 8 bits"

"""Widths of each layer against one width for all layers, both by the solver, at equal milliseconds, on four sets of text.

Both cut the same tuned original until its integer file is as many times as fast as asked, which is measured, and are taught
alike then. One side has the widths that a stock config can state, the other feed-forward units that each layer has for itself
(`prune.free_widths`). Nothing is chosen by the scores: those of test are read once, at the end.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

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
SETS = ("sst2", "mrpc", "stsb", "banking77")
MILLISECONDS = "milliseconds"  #: the part whose device table predicts
FAST = Prune(search="solver", target_latency=TargetLatency(speed_up=5.0))
CUT = Recipe(prune=FAST, distill=Distill(epochs=6), train=Train(max_length=64))


@dataclass(frozen=True)
class Plan:
    """Which sets are cut, with which seeds, and how. rows: of train at most, those of validation included."""

    sets: Sequence[str] = SETS
    seeds: Sequence[int] = (0, 1)
    rows: Mapping[str, int] = field(default_factory=lambda: MOST)
    recipe: Recipe = CUT

    def at(self, side: str | None, seed: int) -> Recipe:
        """Return the recipe of one side, or of the tuned original that both begin with."""
        train = {"train": self.recipe.train.model_copy(update={"seed": seed})}
        if side is None:
            return self.recipe.model_copy(update={**train, "prune": None, "distill": None})
        assert self.recipe.prune is not None, "cuts are what is compared"
        return self.recipe.model_copy(update={**train, "prune": self.recipe.prune.model_copy(update=SIDES[side])})


PLAN = Plan()


def steps(place: Place, plan: Plan = PLAN) -> Iterator[Step]:
    """Yield the runs: with each seed of each set, both sides. Raises SystemExit without this machine's device table."""
    file = place.folder / f"{TABLE}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    durable_files.write_text(file, kept_table(place.records.parent / MILLISECONDS).model_dump_json())
    for seed, name in product(plan.seeds, plan.sets):
        jobs = Jobs(place, "widths", prepared(place, name, plan.rows[name]), {"device_tables": (str(file),)})
        for side in SIDES:
            recipe, stem = plan.at(side, seed), f"{name}-{seed}"
            yield Step(f"{stem}-{side}", jobs.about(recipe), partial(_cut, jobs, plan.at(None, seed), recipe, stem, side))


def _cut(jobs: Jobs, alone: Recipe, recipe: Recipe, stem: str, side: str, clock: Clock) -> Facts:
    """Tune the original, if that is not done; run one side, and answer the rows of test by its file and the original's."""
    original = jobs.run(f"{stem}-original", alone, clock)
    run = jobs.run(f"{stem}-{side}", recipe, clock, after=original)
    row, whole = run.report.rows[-1], original.report.rows[0]
    if not isinstance(row.latency, Latency):
        raise SystemExit(f"{row.artifact} was not timed: {row.latency}")
    known = {"shape": row.shape, "latency": row.latency, "validation": validated(row)}
    found: Facts = {key: value.model_dump(mode="json") for key, value in known.items()}
    found |= {"parameters": row.parameters.total, "bytes": row.size.bytes, "seconds": run.seconds}
    found["notes"] = [note for each in run.report.rows if each.stage == PRUNED for note in each.notes]
    found["answers"] = jobs.answers(original.artifact(whole.artifact), run.artifact(row.artifact))
    shutil.rmtree(run.folder)
    return found


Found = Mapping[str, Mapping[str, Sequence[Facts]]]
"""Set → side → records, one a seed that both sides have."""


def complete(records: Path) -> Found:
    """Return the records of seeds that both sides have."""
    known, found = dict(records_of(records)), dict[str, dict[str, list[Facts]]]()
    for stem in (name.removesuffix("-free") for name in known if name.endswith("-free")):
        if f"{stem}-uniform" in known:
            for side in SIDES:
                found.setdefault(stem.rpartition("-")[0], {}).setdefault(side, []).append(known[f"{stem}-{side}"])
    return found


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
    found = complete(records)
    lines = head("set", "side", "seeds", "shapes", "parameters", "times as fast, measured", "validation", "test")
    for name, sides in found.items():
        for side, each in sides.items():
            shapes = " and ".join(dict.fromkeys(Shape.model_validate(one["shape"]).short for one in each))
            fast = [one["latency"]["baseline_median_ms"] / one["latency"]["median_ms"] for one in each]
            pairs = [[np.array(one["answers"][key]) for key in ("after", "wanted")] for one in each]
            means = [fmean(one["parameters"] for one in each) / 1e6, fmean(one["validation"]["value"] for one in each)]
            scores = (f"{means[1]:.2%}", f"{fmean(METRICS[name](*pair) for pair in pairs):.2%}")
            speeds = ", ".join(f"{one:.2f}" for one in fast)
            lines.append(line(name, side, len(each), shapes, f"{means[0]:.2f} M", speeds, *scores))
    if found:
        points, low, high = gap(found)
        verdict = "ahead" if low > 0 else "behind" if high < 0 else "neither ahead nor behind"
        lines += [
            "",
            f"Free widths less uniform on test, mean of {len(found)} sets: {points:+.2f} points [{low:+.2f}, {high:+.2f}].",
        ]
        lines.append(f"Free widths are {verdict}.")
    return "\n".join(lines)

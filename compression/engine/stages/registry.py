"""What the engine does for each stage: its work, its phases, and what its result depends on."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from compression.engine.context import StageContext
from compression.schema.events import Event
from compression.schema.job_spec import Spec
from compression.schema.recipe.recipe import Recipe
from compression.schema.stages import STAGE_SPECS, STAGES, Stage

ROW_SECONDS = 0.006
"""Of training on one row. Only how the expected times of phases compare to each other matters."""


@dataclass(frozen=True)
class ExpectedWork:
    """What the expected times of a job's phases are computed from."""

    recipe: Recipe
    rows: Mapping[str, int]  #: of each split

    @property
    def train(self) -> float:
        """Seconds of one epoch over train."""
        return self.rows["train"] * ROW_SECONDS

    @property
    def shipping(self) -> float:
        """Seconds of exporting and measuring an artifact."""
        return 20 + 0.012 * (self.rows["validation"] + self.rows["test"])

    @property
    def seeds(self) -> int:
        """Originals that are tuned: the baseline and further teachers."""
        return max(self.recipe.distill.teachers.seeds, 1) if self.recipe.distill is not None else 1


def nothing(spec: Spec, base: Path) -> dict[str, Any]:  # noqa: ARG001
    """Return no inputs."""
    return {}


@dataclass(frozen=True)
class StageRunner:
    """One stage. A job calls `run` with its context, settles what the model became, ships it, and keeps a checkpoint."""

    run: Callable[[StageContext], Iterator[Event]]
    phases: Callable[[ExpectedWork], Iterator[tuple[str, float]]]  #: (name, expected seconds), without shipping
    inputs: Callable[[Spec, Path], dict[str, Any]] = nothing  #: that its result depends on beside model, data and recipe
    reads_unlabelled: bool = False  #: whether unlabelled rows are among its data
    cuts: bool = False  #: whether its model, and those of later stages, may have a smaller vocabulary than the job's
    asks_teachers: bool = False  #: whether it needs the further originals


@cache
def runner_of(stage: Stage) -> StageRunner:
    """Import what the engine does for a stage."""
    module, _, name = STAGE_SPECS[stage].engine.partition(":")
    found: StageRunner = getattr(import_module(module), name)
    return found


def run_stage(context: StageContext, stage: Stage) -> Iterator[Event]:
    """Do a stage's work on a model."""
    context.begin(stage)
    yield from runner_of(stage).run(context)


def planned(recipe: Recipe) -> tuple[Stage, ...]:
    """List the rows that a recipe leads to."""
    return tuple(
        name for name, spec in STAGE_SPECS.items() if spec.after is None or getattr(recipe, spec.recipe_key) is not None
    )


def follows_cut(stage: Stage) -> bool:
    """Return whether a stage's model may have a cut vocabulary."""
    return any(runner_of(one).cuts for one in STAGES[: STAGES.index(stage) + 1])

"""A row, with the facts for or against a change of the recipe. Torch-free, pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from typing import Any, Literal

from pydantic import BaseModel

from compression.planning import baseline
from compression.schema.recipe.base import Task
from compression.schema.recipe.prune import AxisRatios, TargetLatency
from compression.schema.recipe.recipe import Recipe, Targets
from compression.schema.report.measurements import Remedy, Row, Score, of_unit
from compression.schema.report.targets import TARGETS, spoken
from compression.schema.stages import BASELINE, DISTILLED, POINTS, PRUNED, QUANTIZED, Stage, wanted
from compression.schema.tasks import TASKS

Held = Literal["on disk", "student"]
"""What keeps a job from parts of a recipe: no memory to train the model, or a student in its place, smaller and not cut."""


@dataclass(frozen=True)
class Case:
    """A row, and the facts for or against a change of the recipe."""

    row: Row
    before: Sequence[Row]  #: rows of earlier stages, the baseline first
    recipe: Recipe
    targets: Targets
    missed: Sequence[str]  #: names of targets
    is_worse: bool  #: an earlier row is better at no extra cost
    limit: str | None = None  #: the training limit that was reached
    task: Task | None = None  #: selects the settings that are offered for stages that the recipe leaves out
    held: Held | None = None

    @property
    def streamed(self) -> bool:
        """Return whether memory does not hold the model."""
        return self.held == "on disk"

    @cached_property
    def rows(self) -> dict[Stage, Row]:
        """Return all rows by stage."""
        return {each.stage: each for each in (*self.before, self.row)}

    @cached_property
    def later(self) -> set[Stage]:
        """Return the stages that still follow and may fix the missed targets."""
        return set(to_come(self.recipe, self.before))

    @cached_property
    def preparing(self) -> list[Remedy]:
        """Return the remedies for the baseline itself, once no later stage trains."""
        trains = self.later & {PRUNED, DISTILLED}
        return [] if trains else list(baseline.baseline_remedies(self.row, self.rows[BASELINE], self.recipe, self.targets))

    @property
    def keeps_too_little(self) -> bool:
        """Return whether the score misses a target, once no later stage trains."""
        return self.misses_score and not self.later & {PRUNED, DISTILLED}

    @property
    def misses_score(self) -> bool:
        """Return whether a target of the score is missed."""
        return any(TARGETS[name].figure == "score" for name in self.missed)

    @property
    def of_size(self) -> str:
        """Return the size that a figure belongs to, as text; "" if the recipe makes one size."""
        return f" of {self.row.stage}" if self.recipe.prune is not None and self.recipe.prune.points > 1 else ""

    @property
    def gap(self) -> str:
        """Return a text on the score's gap to its target; "" if there is none or other remedies come first."""
        first, last = self.rows[BASELINE].judged_score, self.row.judged_score
        if not self.keeps_too_little or self.preparing or self.limit:
            return ""
        if not isinstance(first, Score) or not isinstance(last, Score):
            return ""
        return f"{last.value:.4f} is the score{self.of_size}, and {needed(first, self.targets):.4f} is needed"

    @property
    def too_large(self) -> list[str]:
        """Return the missed size and latency targets, once no later stage makes the model smaller."""
        return (
            []
            if self.later & {QUANTIZED, PRUNED, *POINTS, *((DISTILLED,) if self.held == "student" else ())}
            else [name for name in self.missed if TARGETS[name].left is not None]
        )

    @property
    def integers_help(self) -> bool:
        """Return whether a size or a latency is missed that integers make smaller."""
        return any(TARGETS[name].figure in ("size", "latency") for name in self.too_large)

    @property
    def sizes(self) -> str:
        """Return the missed sizes and latencies as text for the user."""
        return ", ".join(
            f"{spoken(kind.name)}{self.of_size} is {kind.figure_text(self.row)}, not {kind.bound_text(self.targets)}"
            for kind in (TARGETS[name] for name in self.too_large)
        )

    @property
    def generates(self) -> bool:
        """Return whether answers are next tokens."""
        return self.task is not None and TASKS[self.task].generates

    def change(self, key: str, proposed: Any, why: str) -> Remedy:
        """Return the remedy that puts `proposed` at a key of the recipe."""
        now = attrgetter(key)(self.recipe)
        return Remedy(key=f"recipe.{key}", now=_plain(now), proposed=_plain(proposed), why=why)


def to_come(recipe: Recipe, before: Sequence[Row]) -> list[Stage]:
    """Return the recipe's stages that follow the stage after the rows `before`, the baseline first."""
    return list(wanted(dict(recipe))[len(before) + 1 :])


def needed(score: Score, targets: Targets) -> float:
    """Return the score that reaches the targets of retention and score, the harder of them. score: the baseline's."""
    kept = score.at_retention(targets.retention)
    if targets.score is None:
        return kept
    return (min if score.lower_is_better else max)(kept, of_unit(score.metric, targets.score))


def _plain(value: Any) -> Any:
    """Return a value as JSON; of a choice of keys, only those that are set."""
    if not isinstance(value, BaseModel):
        return value
    return value.model_dump(mode="json", exclude_none=isinstance(value, AxisRatios | TargetLatency))

"""Which teacher outputs are computed once, where they are kept, how often a teacher runs. Torch-free."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from compression.planning.distillation_rules import attention_form
from compression.planning.token_estimates import Tokens
from compression.schema.recipe.distill import INSIDES, Distill
from compression.schema.recipe.recipe import Recipe
from compression.schema.report.measurements import Shape

TEACHER_BYTES = 2 * 2**30
"""The teacher's hidden states of a training are kept in memory if they take no more than this. If they take more, they are
kept on disk if the recipe allows that much; else none is kept, and the teacher runs again in each epoch."""
SPARE_BYTES = 64 * 2**30
"""If the recipe leaves it to the worker, as many are kept on disk as it has to spare. Forecasts of time count on so much."""


@dataclass(frozen=True)
class TeacherCost:
    """The teacher outputs that a training needs, beyond a few logits per row."""

    bytes: int  #: of its hidden states and similar outputs, in float16
    cache_file: float | None  #: maximum bytes of a file of them; None: what the worker has to spare
    kept: int  #: how often the teacher reads all rows if they are kept
    repeated: int  #: and if they are not

    @property
    def place(self) -> Literal["memory", "disk", "spare"] | None:
        """Return where they are kept; None if nowhere. spare: on disk, if the worker has room that no forecast asks for."""
        if self.bytes <= TEACHER_BYTES:
            return "memory"
        if self.cache_file is None:
            return "spare" if self.bytes <= SPARE_BYTES else None
        return "disk" if self.bytes <= self.cache_file else None

    @property
    def passes(self) -> int:
        """Return how often the teacher reads all rows."""
        return self.repeated if self.place is None else self.kept


@dataclass(frozen=True)
class TeacherCosts:
    """The trainings that run a teacher, one after the other; None if the recipe does not have one."""

    recovery: TeacherCost | None
    general: TeacherCost | None
    task: TeacherCost | None

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        tokens: Tokens,
        baseline: Shape,
        guide: Shape,
        student: Shape,
        *,
        language: bool,
        maps: bool = False,
        beside: int = 0,
    ) -> "TeacherCosts":
        """Return the trainings of a recipe. guide: the teacher whose features the task phase compares. beside: hidden channels
        of a language model's other teachers, whose last states are kept too. maps: whether they are
        feature maps, which are not kept. Nothing is kept where rows vary: all teachers run in each epoch.
        """
        distill, recovery, general, task = recipe.distill, None, None, None
        varies, spilled = recipe.train.varies, (distill or Distill()).spill_gib
        cache_file = None if spilled == "auto" else spilled * 2**30
        if recipe.prune is not None and recipe.prune.recovery is not None and recipe.recovers_by_teacher:
            # Only outputs, after each cut: a language model's are computed from its last hidden states.
            states, epochs = round(2 * tokens.train * baseline.hidden) if language else 0, recipe.prune.recovery.epochs
            recovery = TeacherCost(states, cache_file, epochs if varies else recipe.prune.steps, epochs)
        if distill is not None and distill.general is not None:
            terms, epochs = {name for name in INSIDES if getattr(distill.general, name)}, distill.general.epochs
            live = varies or maps
            found = 0 if live else _feature_bytes(distill, terms, tokens.plain, baseline, student)
            general = TeacherCost(found, cache_file, epochs if live else 1, epochs)
        if distill is not None:
            terms = set(distill.weights())
            live = varies or (maps and not terms.isdisjoint(INSIDES))
            speaks = language and "soft" in terms and distill.kept is None
            found = 0 if live else _feature_bytes(distill, terms, tokens.taught, guide, student, last=speaks)
            found += round(2 * tokens.taught * beside) if speaks and not live else 0
            # A few outputs per row, or the likeliest tokens, are computed once and kept, whatever else is compared.
            again = distill.epochs + (not language or distill.kept is not None)
            task = TeacherCost(found, cache_file, distill.epochs if live else 1, again)
        return cls(recovery, general, task)

    @property
    def each(self) -> list[TeacherCost]:
        """Return the trainings that the recipe has."""
        return [each for each in (self.recovery, self.general, self.task) if each is not None]

    def bytes_in(self, place: Literal["memory", "disk"]) -> int:
        """Return the maximum bytes that are kept in a place at once."""
        return max((each.bytes for each in self.each if each.place == place), default=0)

    @property
    def spare(self) -> TeacherCost | None:
        """Return the largest of those that are kept if the worker has the room."""
        return max((each for each in self.each if each.place == "spare"), key=lambda each: each.bytes, default=None)

    @property
    def unkept(self) -> TeacherCost | None:
        """Return the largest of those that run the teacher again in each epoch."""
        return max((each for each in self.each if each.place is None), key=lambda each: each.bytes, default=None)


def _feature_bytes(
    distill: Distill, terms: Collection[str], tokens: float, teacher: Shape, student: Shape, *, last: bool = False
) -> int:
    """Return the bytes of the features that terms compare. last: whether the last hidden states are kept beside them."""
    states = (student.layers + 1 if "hidden" in terms else int("embedding" in terms)) + last
    parts = 0
    if "attention" in terms:
        # Whether heads can be compared is not checked here: of named teachers, which may be the only ones, another counts.
        auto = distill.attention_by == "auto"
        form = attention_form("auto", student, teacher) if auto else distill.attention_by
        parts = 2 * student.layers if form == "scores" else 3
    width = max(teacher.hidden * bool(states), teacher.attended * bool(parts))
    return round(2 * tokens * width * (states + parts))

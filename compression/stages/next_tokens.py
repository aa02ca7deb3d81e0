"""What a language model is taught of: a teacher's next tokens in chunks, the text's own, and insides where they count."""

from collections.abc import Generator
from pathlib import Path
from typing import cast

from torch import Tensor
from transformers import PreTrainedModel

from compression.batches import Batch, Encoded
from compression.evaluate import BATCH, smaller
from compression.language import chunks, known, models, rows
from compression.language.known import KeptOnDisk
from compression.language.losses import Term, Wanted, Whole, terms
from compression.language.sequences import Sequences
from compression.plan import Tick, counted
from compression.recipe import Distill
from compression.stages.lesson import Comparison, Lesson
from compression.state import State
from compression.teacher import LanguageTeacher, Teacher, ask

FILE = "teacher-tokens"


class LanguageLesson(Lesson):
    """`soft`: KL(teacher ‖ student) × τ² over the vocabulary, `hard`: the text's own next tokens; means over tokens.

    Neither model's logits are there for more than some tokens at a time (`language.chunks`).
    """

    kept: KeptOnDisk | None = None
    """What of the teacher is known in the place of its last states."""

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Return each term of a batch's loss, not weighted."""
        assert isinstance(batch, Sequences), "rows are a language model's"  # noqa: S101
        asked = self.weighting.weights()
        wanted = self.teacher.says(batch)
        given = ask(self.student, batch, self.task, self.insides.comparison.student)
        teacher: Wanted | None = None
        if "soft" in asked and self.kept is not None:
            teacher = self.kept.get(batch.rows.tolist(), batch.ids.device)
        elif "soft" in asked:
            teacher = Whole(wanted.logits, models.head(self.teacher.model), self.settings.temperature)
        sides = cast(list[Term], [term for term in ("soft", "hard") if term in asked])
        size = chunks.size_of(self.student.config.vocab_size)
        found: dict[str, Tensor] = {}
        if sides:
            own = terms(given.logits, models.head(self.student), batch.wanted, teacher, sides, size=size)
            found |= {str(term): value for term, value in own.items()}
        return found | self.insides.terms(given, wanted, batch)

    def close(self) -> None:
        """Free what is kept of the teacher."""
        super().close()
        if self.kept is not None:
            self.kept.close()


def lesson_of(
    state: State, settings: Distill, guide: PreTrainedModel, own: Encoded, theirs: Encoded
) -> Generator[Tick, None, LanguageLesson]:
    """Ask a teacher of every row, tell how far that is, and make of it what a student is held against.

    own, theirs: train as either reads it. Raises Pause where one is asked for.
    """
    asked = settings.weights()
    comparison = Comparison.of(state.model, guide, settings, asked, apart=settings.embedding is not None)
    spill = state.spill("task")
    if "soft" in asked and settings.kept is None:
        teacher: Teacher = LanguageTeacher(guide, theirs, comparison.teacher, parts=state.parts, spill=spill)
    else:
        nothing = theirs.labels.new_zeros((len(theirs), 0))
        teacher = Teacher(guide, theirs, comparison.teacher, parts=state.parts, logits=nothing, spill=spill)
    askings, kept = [teacher.asking()] if teacher.asks else [], None
    if "soft" in asked and settings.kept is not None:
        vocabulary, packed = guide.config.vocab_size, rows.of(theirs).packed
        kept = KeptOnDisk(_place(state), packed.asked, vocabulary, settings.kept, settings.temperature)
        batch = max(smaller(BATCH, state.parts) * rows.TOGETHER // (BATCH * rows.of(theirs).length), 1)
        askings.append(known.keeping(guide, packed, kept, batch=batch, size=chunks.size_of(vocabulary)))
    yield from counted(state.heed, len(theirs) * max(len(askings), 1), *askings)
    lesson = LanguageLesson(state.model, teacher, comparison, settings, own, parts=state.parts)
    lesson.kept = kept
    return lesson


def _place(state: State) -> Path:
    if state.scratch is None:
        raise ValueError("what is kept of a teacher needs a folder")
    return state.scratch / FILE

"""Whether a file answers alike on processors with other instructions than the one that measured it."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class NotCompared(Config):
    """In place of a comparison that was not made, with the reason."""

    not_compared: str


class ComparedAnswers(Config):
    """A file's answers under another instruction set beside those on the machine that measured it, to the same rows."""

    instruction_set: Annotated[str, Field(description="As its makers call it, for example AVX2.")]
    emulator: Annotated[str, Field(description="What ran it: program and processor.")]
    rows: Annotated[int, Field(ge=1, description="Sample rows that both answered.")]
    answers: Annotated[int, Field(ge=1, description="Largest logits that were compared: one a row, or one a token.")]
    changed: Annotated[int, Field(ge=0, description="How many of them differ.")]
    largest_difference: Annotated[float, Field(ge=0, description="Of a logit.")]
    remedy: Annotated[str | None, Field(description="What to do where answers differ; null where none does.")] = None

    @property
    def equal(self) -> bool:
        """Say whether all answers are the same."""
        return self.changed == 0

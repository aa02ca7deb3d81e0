"""Whether a file's predictions are the same under another instruction set as on the processor that measured the file."""

from typing import Annotated

from pydantic import Field

from compression.schema.config import Config


class NotCompared(Config):
    """The reason why a comparison was not made, in its place."""

    not_compared: str


class ComparedAnswers(Config):
    """A file's predictions under another instruction set, compared with the measuring machine's for the same rows."""

    instruction_set: Annotated[str, Field(description="As its makers call it, for example AVX2.")]
    emulator: Annotated[str, Field(description="What ran it: program and processor.")]
    rows: Annotated[int, Field(ge=1, description="Sample rows that both answered.")]
    answers: Annotated[int, Field(ge=1, description="Largest logits that were compared: one a row, or one a token.")]
    changed: Annotated[int, Field(ge=0, description="How many of them differ.")]
    largest_difference: Annotated[float, Field(ge=0, description="Of a logit.")]
    remedy: Annotated[str | None, Field(description="What to do where answers differ; null where none does.")] = None

    @property
    def equal(self) -> bool:
        """Return whether all predictions are the same."""
        return self.changed == 0

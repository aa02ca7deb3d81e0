"""The request to try a job's models, and the input of the engine's command `predict`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from compression.schema.config import Config
from compression.schema.job_spec import Data
from compression.schema.recipe.base import Split, Task
from compression.schema.recipe.recipe import Evaluate
from compression.schema.tasks import TASKS

LONGEST_TEXT = 20_000
"""In characters. A model reads the first few hundred words; it reads all of a context, window by window."""
LONGEST_WORD, MOST_WORDS = 200, 2000
LARGEST_IMAGE = 4 << 20
"""In bytes, of the file; base64 takes a third more."""
LARGEST_QUESTION = 4 * -(-LARGEST_IMAGE // 3) + (1 << 16)
"""In bytes, of a request's body."""
LARGEST_TEXTS = 1 << 20
"""In bytes, of the body of a request without files: two texts of the most characters, escaped."""
BODY_DEFAULTS = f"{LARGEST_TEXTS / (1 << 20):g} MiB, of images {LARGEST_QUESTION / (1 << 20):.1f} MiB"
"""These, for the help of commands."""
Text = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT, pattern=r"^[^\x00]*$")]
Word = Annotated[str, Field(min_length=1, max_length=LONGEST_WORD, pattern=r"^[^\x00\s]+$")]


Base64 = Annotated[str, Field(min_length=4, max_length=4 * -(-LARGEST_IMAGE // 3), pattern=r"^[A-Za-z0-9+/]+={0,2}$")]


class RowInputs(Config):
    """The texts or the image of one row, as the task reads them."""

    text: Annotated[Text | None, Field(description="Of classification and regression; of tags, its words are taken.")] = None
    text_pair: Annotated[Text | None, Field(description="The second text, where the task has one.")] = None
    tokens: Annotated[tuple[Word, ...] | None, Field(min_length=1, max_length=MOST_WORDS)] = None
    """Words of token classification."""
    question: Text | None = None
    context: Text | None = None
    image: Annotated[Base64 | None, Field(description="The bytes of an image's file, in base64.")] = None


class Question(RowInputs):
    """The texts or the image of one row, as the task reads them, or the number of a row of the data."""

    row: Annotated[int | None, Field(ge=0, le=10**9, description="In place of these: a row of the data, from 0.")] = None
    split: Annotated[Split, Field(description="Where that row is.")] = "test"


@dataclass(frozen=True)
class Input:
    """A key of a question that holds what a model reads, as a form asks for it."""

    title: str
    kind: Literal["line", "text", "words", "image"] = "text"  #: text: several lines; image: a file, in base64


INPUTS = {
    "text": Input("Text"),
    "text_pair": Input("Second text"),
    "tokens": Input("Words, separated by spaces", "words"),
    "question": Input("Question", "line"),
    "context": Input("Context"),
    "image": Input("Image", "image"),
}
FILES = frozenset(name for name, one in INPUTS.items() if one.kind == "image")
"""Keys whose values are files: nothing repeats them."""


def asked_for(task: Task, *, paired: bool) -> tuple[str, ...]:
    """Return the names of the texts that a task reads, with the second text if `paired`; none if it makes no predictions."""
    spec = TASKS[task]
    return (*spec.asks, spec.pair) if spec.pair is not None and paired else spec.asks


def unfit_input(task: Task, wanted: tuple[str, ...], given: set[str]) -> str | None:
    """Return the first input that is missing, or else that the task does not read; None if the given ones are `wanted`."""
    if given == set(wanted) or (task == "token-classification" and given == {"text"}):  # it is split into words
        return None
    return next((name for name in wanted if name not in given), None) or min(given - set(wanted))


class AnswerSpec(Config):
    """The input of `python -m compression predict`. Relative paths start at the spec's folder."""

    version: Literal[1] = 1
    task: Task
    labels: Annotated[tuple[str, ...], Field(description="In the order of the outputs; none where the task has none.")]
    evaluate: Evaluate = Evaluate()
    original: Annotated[str, Field(description="Folder of the baseline's ONNX artifact.")]
    compressed: Annotated[str, Field(description="Folder of the one that is held against it.")]
    question: Question
    data: Annotated[Data | None, Field(description="Where the question's row is.")] = None
    memory_bytes: Annotated[int, Field(ge=1, description="More than this ends the process.")]

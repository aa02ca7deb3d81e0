"""Parses and checks one row of each task; raises UnreadableData (wrong type) or UnfitLabel with file and row. Torch-free."""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from compression.modalities.labels import encodable, kind_of, label
from compression.schema.errors import UnfitLabel, UnreadableData
from compression.schema.job_spec import Columns
from compression.schema.recipe.base import Task

LARGEST_ROW = 4 << 20
"""Maximum bytes of a row: files are read in pieces of this size, so one without line ends needs no more memory."""


@dataclass(frozen=True)
class AnswerSpan:
    """A span of the context that answers the question, without blanks at its ends; `start` counts characters from 0."""

    text: str
    start: int


@dataclass(frozen=True)
class RawExample:
    """One row."""

    text: str  #: words of a tagged text are joined with spaces
    label: Any  #: a class, a number, a tag for each word, the answers (empty: no answer), or None (causal-lm)
    pair: str | None = None  #: the second text, or a question's context
    words: tuple[str, ...] | None = None  #: of a tagged text


Form = Callable[[Mapping[str, Any], str, str], RawExample]
"""Creates a row from (values by key of `columns`, place for messages, place for `param`)."""


def columns_of(task: Task, columns: Columns) -> dict[str, str]:
    """Return the columns that a task reads. -> key of `columns` → name of the column."""
    if task == "token-classification":
        return {"tokens": columns.tokens, "tags": columns.tags}
    if task == "question-answering":
        return {"question": columns.question, "context": columns.context, "answers": columns.answers}
    if task == "causal-lm":
        return {"text": columns.text}
    wanted = {"text": columns.text, "label": columns.label}
    pair = columns.text_pair or ("text_pair" if task == "text-pair-classification" else None)
    if pair is not None and task != "text-classification":
        wanted["text_pair"] = pair
    return wanted


def has_lists(task: Task) -> bool:
    """Return whether a task's columns hold lists, which CSV cannot store."""
    return task in ("token-classification", "question-answering")


def parse_example(task: Task, values: Mapping[str, Any], file: str, row: int) -> RawExample:
    """Create a row from the values of its columns. Raises UnreadableData and UnfitLabel."""
    return FORMS[task](values, f"row {row} of {file}", f"{file}:{row}")


def _labelled(parse: Callable[[Any, str, str], Any]) -> Form:
    def form(values: Mapping[str, Any], where: str, param: str) -> RawExample:
        own, parsed = text(values["text"], where, param), parse(values["label"], where, param)
        return RawExample(own, parsed, text(values["text_pair"], where, param) if "text_pair" in values else None)

    return form


def _tagged(values: Mapping[str, Any], where: str, param: str) -> RawExample:
    words, tags = (_list(values[name], name, where, param) for name in ("tokens", "tags"))
    if len(words) != len(tags):
        raise UnfitLabel(f"{where} has {len(words)} tokens and {len(tags)} tags", param=param)
    if not words:
        raise UnfitLabel(f"{where} has no tokens", param=param, remedy="Leave out rows without words.")
    if numbers := [tag for tag in tags if type(tag) is int]:
        remedy = "Send the tags' names in IOB2, such as B-PER and O; Parquet may name numbers as the datasets library does."
        raise UnfitLabel(f"{where} has the number {numbers[0]} as a tag, which names no entity", param=param, remedy=remedy)
    named = tuple(label(tag, where, param) for tag in tags)
    texts = tuple(text(word, where, param) for word in words)
    if not all(word.strip() for word in texts):
        raise UnfitLabel(f"{where} has a token without a letter", param=param, remedy="Leave out empty tokens.")
    return RawExample(" ".join(texts), named, words=texts)


def _answered(values: Mapping[str, Any], where: str, param: str) -> RawExample:
    question, context = (text(values[name], where, param) for name in ("question", "context"))
    given = values["answers"]
    if not isinstance(given, Mapping) or not {"text", "answer_start"} <= set(given):
        raise UnreadableData(f"{where}: answers is {kind_of(given)}, not {{text: […], answer_start: […]}}", param=param)
    texts, starts = (_list(given[name], f"answers.{name}", where, param) for name in ("text", "answer_start"))
    if len(texts) != len(starts):
        raise UnfitLabel(f"{where} has {len(texts)} answers and {len(starts)} starts", param=param)
    answers = []
    for answer, start in zip(texts, starts, strict=True):
        words = text(answer, where, param)
        if type(start) is not int or start < 0 or not words or context[start : start + len(words)] != words:
            cause = f"{where}: the answer {words!r:.100} is not in the context at character {start!r:.20}"
            raise UnfitLabel(cause, param=param, remedy="answer_start counts the context's characters from 0.")
        # Most tokens cover no blanks: a span that ended in one would have no last token, and blanks alone answer nothing.
        if own := words.strip():
            answers.append(AnswerSpan(own, start + words.index(own)))
    return RawExample(question, tuple(answers), context)


def text(value: Any, where: str, param: str) -> str:
    """Return a text after checking it. Raises UnreadableData."""
    if not isinstance(value, str):
        raise UnreadableData(f"{where}: the text is {kind_of(value)}, not a string", param=param)
    if len(value) > LARGEST_ROW:
        raise UnreadableData(f"{where} is longer than {LARGEST_ROW:,} characters", param=param)
    return encodable(value, where, param)


def _number(value: Any, where: str, param: str) -> float:
    number = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
    # Training uses float32, whose maximum is near 3e38; the limit for squares is at half the exponent.
    if not math.isfinite(number) or abs(number) > 1e15:
        raise UnfitLabel(f"{where}: the label {value!r:.60} is not a number", param=param)
    return number


def _list(value: Any, name: str, where: str, param: str) -> list[Any]:
    if not isinstance(value, list):
        raise UnreadableData(f"{where}: {name} is {kind_of(value)}, not a list", param=param)
    return value


FORMS: dict[Task, Form] = {
    "text-classification": _labelled(label),
    "text-pair-classification": _labelled(label),
    "text-regression": _labelled(_number),
    "token-classification": _tagged,
    "question-answering": _answered,
    "causal-lm": lambda values, where, param: RawExample(text(values["text"], where, param), None),
}

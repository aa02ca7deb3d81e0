"""Turns a prediction request into a row: its own text, or a row of the data; and shows rows. Torch-free."""

from itertools import islice
from pathlib import Path
from typing import Any

from compression.modalities.scoring.base import Row
from compression.modalities.text.dataset import each_row
from compression.modalities.text.inputs import asked_row, cut_words, scored_row
from compression.schema.errors import EmptySplit
from compression.schema.prediction_request import LONGEST_TEXT, AnswerSpec
from compression.schema.recipe.base import Task
from compression.schema.report.samples import NO_ANSWER, Sample, cut


def row_of(spec: AnswerSpec, base: Path) -> tuple[Row, dict[str, Any], Any]:
    """Return the scorer's row, the row for people, and the expected output. Raises EmptySplit and `each_row`'s errors."""
    request = spec.question
    if spec.data is None or request.row is None:
        row = asked_row(spec.task, request)
        return row, _shown(row), None
    rows = list(islice(each_row(spec.data, request.split, base, spec.task), request.row, request.row + 1))
    if not rows:
        cause = f"{request.split} has no row {request.row}"
        raise EmptySplit(cause, param="row", remedy="Name a row that there is, from 0.")
    row = scored_row(spec.task, rows[0].text, rows[0].pair, rows[0].words)
    return row, _shown(row), _expected(spec.task, rows[0].label)


def _shown(row: Row) -> dict[str, Any]:
    if "words" in row:
        return {"tokens": cut_words(row["words"])}
    # A row may have any length, and what people see of it is stored with each prediction.
    return {{"pair": "text_pair"}.get(name, name): text[:LONGEST_TEXT] for name, text in row.items()}


def _expected(task: Task, label: Any) -> Any:
    if label is not None and task == "question-answering":
        return cut_words([answer.text for answer in label])
    return cut_words(label) if label is not None and task == "token-classification" else label


def sample_of(row: Row, labels: tuple[str, ...]) -> Sample:
    """Return what a report shows of a row of the measuring process. labels: names by id; none where labels are no ids."""
    if "words" in row:
        return Sample(texts=(cut(" ".join(row["words"])),), expected=cut(" ".join(row["label"])))
    if "question" in row:
        expected = " or ".join(row["answers"]) or NO_ANSWER
        return Sample(texts=(cut(row["question"]), cut(row["context"])), expected=cut(expected))
    expected = labels[row["label"]] if labels else f"{row['label']:.4g}"
    texts = (row["text"], *([row["pair"]] if "pair" in row else []))
    return Sample(texts=tuple(map(cut, texts)), expected=cut(expected))

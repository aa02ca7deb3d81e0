"""Rows of every task: what they become, what the checker knows of them, and what is refused with its file and row."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from compression.engine.commands.validate import validate
from compression.modalities.text.dataset import Dataset, load_dataset
from compression.modalities.text.examples import AnswerSpan
from compression.schema import errors
from compression.schema.errors import SingleLabel, UnfitLabel, UnreadableData
from compression.schema.job_spec import Data, DataCheck
from compression.schema.recipe.base import Task
from compression.schema.report.report import Values
from compression.schema.validation import DataFacts
from tests.support.toy_tasks import TASKS, write

PAIR = {"text": "a", "text_pair": "b c", "label": "x"}
NUMBER = {"text": "a", "label": 1.5}
TAGGED = {"tokens": ["a", "b"], "tags": ["B-X", "O"]}
ASKED = {"question": "q", "context": "in the end", "answers": {"text": ["the"], "answer_start": [3]}}
UNANSWERED = {**ASKED, "answers": {"text": [], "answer_start": []}}


def load(task: Task, folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Dataset:
    (folder / "d").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Data.model_validate({"format": "jsonl", "splits": {"train": ("d",)}, **changes})
    return load_dataset(source, folder, seed=0, task=task)


def test_each_task_has_its_rows(tmp_path: Path) -> None:
    train = load("text-pair-classification", tmp_path, [PAIR, {**PAIR, "label": "y"}] * 20).splits["train"]
    assert {train.texts[0], train.pairs[0], *train.labels} == {"a", "b c", "x", "y"}
    train = load("text-regression", tmp_path, [NUMBER, {**NUMBER, "label": "-2"}] * 20).splits["train"]
    assert (train.pairs, set(train.labels)) == (None, {1.5, -2.0})
    named = [{**NUMBER, "other": "z", "label": number} for number in range(40)]
    train = load("text-regression", tmp_path, named, columns={"text_pair": "other"}).splits["train"]
    assert set(train.pairs) == {"z"}
    found = load("token-classification", tmp_path, [TAGGED] * 40)
    assert (found.labels, found.ids("test")[0]) == (("B-X", "O"), [0, 1])
    assert (found.splits["train"].words or ())[0] == ("a", "b")
    train = load("question-answering", tmp_path, [ASKED, UNANSWERED] * 20).splits["train"]
    assert set(train.labels) == {(AnswerSpan("the", 3),), ()}


@pytest.mark.parametrize(("given", "start"), [("the ", 3), (" the", 2), (" the ", 2)])
def test_blanks_around_an_answer_do_not_count(given: str, start: int, tmp_path: Path) -> None:
    row = {**ASKED, "answers": {"text": [given], "answer_start": [start]}}
    assert set(load("question-answering", tmp_path, [row] * 20).splits["train"].labels) == {(AnswerSpan("the", 3),)}


def test_an_answer_of_blanks_alone_is_none(tmp_path: Path) -> None:
    row = {**ASKED, "answers": {"text": [" ", "the"], "answer_start": [2, 3]}}
    blank = {**ASKED, "answers": {"text": [" "], "answer_start": [2]}}
    train = load("question-answering", tmp_path, [row, blank] * 20).splits["train"]
    assert set(train.labels) == {(AnswerSpan("the", 3),), ()}


@pytest.mark.parametrize(
    ("task", "row", "error", "cause"),
    [
        ("text-pair-classification", {"text": "a", "label": "x"}, errors.MissingColumn, "'text_pair'"),
        ("text-regression", {**NUMBER, "label": "much"}, UnfitLabel, "'much' is not a number"),
        ("text-regression", {**NUMBER, "label": float("nan")}, UnfitLabel, "not a number"),
        ("text-regression", {**NUMBER, "label": True}, UnfitLabel, "not a number"),
        ("text-regression", {**NUMBER, "label": 10**400}, UnfitLabel, "not a number"),
        ("token-classification", {**TAGGED, "tags": ["O"]}, UnfitLabel, "2 tokens and 1 tags"),
        ("token-classification", {**TAGGED, "tags": [3, 0]}, UnfitLabel, "the number 3 as a tag"),
        ("token-classification", {"tokens": [], "tags": []}, UnfitLabel, "no tokens"),
        ("token-classification", {"tokens": ["a", " "], "tags": ["O", "O"]}, UnfitLabel, "without a letter"),
        ("token-classification", {**TAGGED, "tokens": "a b"}, UnreadableData, "not a list"),
        ("question-answering", {**ASKED, "answers": {"text": ["the"], "answer_start": [4]}}, UnfitLabel, "not in the context"),
        ("question-answering", {**ASKED, "answers": {"text": ["the"], "answer_start": [-7]}}, UnfitLabel, "not in the context"),
        ("question-answering", {**ASKED, "answers": {"text": ["the"], "answer_start": []}}, UnfitLabel, "1 answers and 0"),
        ("question-answering", {**ASKED, "answers": ["the"]}, UnreadableData, "of type list"),
    ],
)
def test_a_row_that_does_not_fit_its_task_is_refused_by_its_number(
    tmp_path: Path, task: Task, row: dict[str, Any], error: type[Exception], cause: str
) -> None:
    good = {"text-regression": NUMBER, "token-classification": TAGGED, "question-answering": ASKED}.get(task, PAIR)
    with pytest.raises(error) as caught:
        load(task, tmp_path, [good, row])
    assert cause in caught.value.cause
    assert "row 2" in caught.value.cause
    assert caught.value.param == ("data.columns.text_pair" if error is errors.MissingColumn else "d:2")


@pytest.mark.parametrize(
    ("task", "rows", "error"),
    [
        ("text-regression", [NUMBER] * 9, SingleLabel),
        ("token-classification", [{**TAGGED, "tags": ["O", "O"]}] * 9, SingleLabel),
        ("question-answering", [UNANSWERED] * 9, SingleLabel),
        ("question-answering", [ASKED], errors.EmptySplit),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(
    tmp_path: Path, task: Task, rows: list[dict[str, Any]], error: type[Exception]
) -> None:
    with pytest.raises(error):
        load(task, tmp_path, rows)
    found = validate(DataCheck(task=task, data=Data(format="jsonl", splits={"train": ("d",)})), tmp_path)
    assert [reason["code"] for reason in found.reasons] == [error.code]


def test_a_tag_that_train_lacks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "test").write_text(json.dumps({**TAGGED, "tags": ["B-Y", "O"]}))
    with pytest.raises(errors.UnseenLabel, match="B-Y"):
        load("token-classification", tmp_path, [TAGGED] * 9, splits={"train": ("d",), "test": ("test",)})


def test_lists_come_from_parquet_but_not_from_csv(tmp_path: Path) -> None:
    rows = [ASKED, UNANSWERED] * 20
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p")
    source = Data(format="parquet", splits={"train": ("p",)})
    assert load_dataset(source, tmp_path, seed=0, task="question-answering") == load("question-answering", tmp_path, rows)
    (tmp_path / "c").write_text("tokens,tags\na,O\n")
    with pytest.raises(UnreadableData, match="csv does not have"):
        load_dataset(Data(format="csv", splits={"train": ("c",)}), tmp_path, seed=0, task="token-classification")
    (tmp_path / "c").write_text("text,label\n" + "".join(f"a,{number / 4}\n" for number in range(40)))
    found = load_dataset(Data(format="csv", splits={"train": ("c",)}), tmp_path, seed=0, task="text-regression")
    assert found.facts()["train"].values is not None


@pytest.mark.parametrize("task", TASKS)
def test_the_checker_knows_what_the_engine_will_find(tmp_path: Path, task: Task) -> None:
    source = write(task, tmp_path)
    facts = validate(DataCheck(task=task, data=source), tmp_path)
    dataset = load_dataset(source, tmp_path, seed=0, task=task)
    assert (facts.task, facts.labels, facts.rows) == (task, dataset.labels, {"train": 320, "test": 80})
    test = dataset.facts()["test"]
    assert facts.label_counts["test"] == test.labels
    assert facts.values.get("test") == test.values
    if task == "text-regression":
        assert (test.values.least, test.values.most, test.labels) == (0.0, 1.5, {})
    else:
        assert sum(test.labels.values()) >= 80
    assert facts.mean_words > 3


def test_facts_of_an_earlier_version_stay_readable() -> None:
    stored = {"labels": ["a", "b"], "rows": {"train": 9}, "label_counts": {"train": {}}, "mean_words": 1.0, "longest_words": 2}
    facts = DataFacts.model_validate({"kind": "dataset", **stored})
    assert (facts.task, facts.values) == ("text-classification", {})
    assert Values(least=0, most=1, mean=0.5).most == 1

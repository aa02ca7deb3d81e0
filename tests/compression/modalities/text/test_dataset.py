"""Reading rows: every format gives the same rows, and what is wrong is named by file and row."""

import csv
import json
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from compression.modalities.text import dataset
from compression.modalities.text.dataset import load_dataset, read_split
from compression.schema import errors
from compression.schema.errors import EmptySplit, MissingColumn, UnfitLabel, UnreadableData
from compression.schema.job_spec import Columns, Data

ROWS = [("007", "spy"), ("2020-01-01", "date"), ('a "quoted",\ntwo-line text', "spy"), ("NA", "date"), ("ünïcode", "spy")]


def jsonl(path: Path, rows: list[tuple[object, object]]) -> str:
    path.write_text("".join(json.dumps({"text": text, "label": label, "extra": 1}) + "\n" for text, label in rows))
    return path.name


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    jsonl(tmp_path / "d.jsonl", ROWS)
    lines = ["label,extra,text"] + ['{},1,"{}"'.format(label, text.replace('"', '""')) for text, label in ROWS]
    (tmp_path / "d.csv").write_text("\n".join(lines) + "\n")
    table = pyarrow.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    with (tmp_path / "d.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("label", "extra", "text"), *((label, 1, text) for text, label in ROWS)])
    for kind in ("jsonl", "csv", "tsv", "parquet"):
        source = Data(format="csv" if kind == "tsv" else kind, splits={"train": (f"d.{kind}",)})
        rows = read_split(source, "train", tmp_path)
        assert list(zip(rows.texts, rows.labels, strict=True)) == ROWS, kind


NAMES = {"names": ["O", "B-X", "I-X"], "_type": "ClassLabel"}


@pytest.mark.parametrize("feature", [{"feature": NAMES, "_type": "Sequence"}, {"feature": NAMES, "_type": "List"}, [NAMES]])
def test_numbers_of_tags_that_a_parquet_file_names_become_these_names(tmp_path: Path, feature: object) -> None:
    table = pyarrow.table({"tokens": [["a", "b"], ["c"]], "tags": [[0, 1], [2]]})
    features = json.dumps({"info": {"features": {"tags": feature}}})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": features}), tmp_path / "d.parquet")
    source = Data(format="parquet", splits={"train": ("d.parquet",)})
    assert read_split(source, "train", tmp_path, "token-classification").labels == (("O", "B-X"), ("I-X",))
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(UnfitLabel, match=r"row 1 of d\.parquet has the number 0 as a tag"):
        read_split(source, "train", tmp_path, "token-classification")


def test_integers_and_booleans_become_labels(tmp_path: Path) -> None:
    jsonl(tmp_path / "d.jsonl", [("a", 1), ("b", True), ("c", False), ("d", "1")])
    rows = read_split(Data(format="jsonl", splits={"train": ("d.jsonl",)}), "train", tmp_path)
    assert rows.labels == ("1", "true", "false", "1")


def test_missing_splits_are_carved_stratified_and_by_seed(tmp_path: Path) -> None:
    jsonl(tmp_path / "d.jsonl", [(f"text {i}", "rare" if i % 10 == 0 else "common") for i in range(200)])
    source = Data(format="jsonl", splits={"train": ("d.jsonl",)})
    first, again, other = (load_dataset(source, tmp_path, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.splits["test"] != other.splits["test"]
    assert {name: len(rows) for name, rows in first.splits.items()} == {"train": 140, "validation": 20, "test": 40}
    assert Counter(first.splits["test"].labels) == {"rare": 4, "common": 36}
    everything = [text for rows in first.splits.values() for text in rows.texts]
    assert len(set(everything)) == len(everything) == 200
    facts = first.facts()
    assert not facts["train"].carved_from_train
    assert facts["validation"].carved_from_train
    assert facts["test"].labels == {"common": 36, "rare": 4}


def test_given_splits_are_left_alone(tmp_path: Path) -> None:
    for name in ("train", "test"):
        jsonl(tmp_path / name, [(f"{name} {i}", "ab"[i % 2]) for i in range(40)])
    found = load_dataset(Data(format="jsonl", splits={"train": ("train",), "test": ("test",)}), tmp_path, seed=0)
    assert (len(found.splits["test"]), found.carved) == (40, {"validation"})
    assert len(found.splits["train"]) + len(found.splits["validation"]) == 40


def test_labels_can_be_numbered_as_a_model_numbers_them(tmp_path: Path) -> None:
    jsonl(tmp_path / "d.jsonl", [(str(i), "ab"[i % 2]) for i in range(40)])
    found = load_dataset(Data(format="jsonl", splits={"train": ("d.jsonl",)}), tmp_path, seed=0)
    assert [1 - number for number in found.ids("train")] == found.in_order(("b", "a")).ids("train")
    with pytest.raises(ValueError, match="labels"):
        found.in_order(("a", "c"))


@pytest.mark.parametrize(
    ("lines", "error", "param", "cause"),
    [
        (['{"text": "a", "label": "x"}', "{oops"], UnreadableData, "d:2", "row 2 of d"),
        (['["a"]'], UnreadableData, "d:1", "not a JSON object"),
        (['{"text": 5, "label": "x"}'], UnreadableData, "d:1", "the text is of type int"),
        (['{"text": "a", "label": null}'], UnreadableData, "d:1", "the label is empty"),
        (['{"text": "a", "label": 0.5}'], UnreadableData, "d:1", "the label is of type float"),
        (['{"text": "\\ud800", "label": "x"}'], UnreadableData, "d:1", "Unicode"),
        (['{"text": "a", "label": "x"}', '{"text": "b"}'], MissingColumn, "data.columns.label", "row 2 of d"),
        (["", " "], EmptySplit, "data.splits.train", "no rows"),
        (['{"text": "a", "label": "x"}'] * 3, errors.SingleLabel, "data.splits.train", "'x'"),
        (['{"text": "a", "label": "x"}', '{"text": "a", "label": "y"}'], EmptySplit, "data.splits.validation", "too few"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, lines: list[str], error: type[Exception], param: str, cause: str) -> None:
    (tmp_path / "d").write_text("\n".join(lines) + "\n")
    with pytest.raises(error) as caught:
        load_dataset(Data(format="jsonl", splits={"train": ("d",)}), tmp_path, seed=0)
    assert caught.value.param == param
    assert cause in caught.value.cause


def test_a_label_that_train_lacks_is_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "train", [(str(i), "ab"[i % 2]) for i in range(40)])
    jsonl(tmp_path / "test", [("x", "a"), ("y", "c")])
    with pytest.raises(errors.UnseenLabel, match="row 2 of test has the label 'c'"):
        load_dataset(Data(format="jsonl", splits={"train": ("train",), "test": ("test",)}), tmp_path, seed=0)


def test_a_file_of_another_format_or_none_is_refused_by_name(tmp_path: Path) -> None:
    for kind, content in (("csv", b"text,label\na,b,c\n"), ("parquet", b"PAR1 no"), ("csv", b"text,label\n\xff\xfe,b\n")):
        (tmp_path / "d").write_bytes(content)
        with pytest.raises(UnreadableData, check=lambda error: error.param in ("d", "d:1")):
            load_dataset(Data(format=kind, splits={"train": ("d",)}), tmp_path, seed=0)
    with pytest.raises(errors.MissingFile, check=lambda error: error.param == "data.splits.train[0]"):
        load_dataset(Data(format="csv", splits={"train": ("nowhere.csv",)}), tmp_path, seed=0)


@pytest.mark.parametrize("content", ['[{"text": "a", "label": "b"}]', '[\n  {"text": "a", "label": "b"}\n]'])
def test_a_json_array_is_told_how_to_be_written(tmp_path: Path, content: str) -> None:
    (tmp_path / "d.json").write_text(content)
    with pytest.raises(UnreadableData, check=lambda error: "one object a line" in error.remedy_text):
        load_dataset(Data(format="jsonl", splits={"train": ("d.json",)}), tmp_path, seed=0)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_is_not_there_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "d.csv").write_text("text,label\na,b\n")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": ["b"]}), tmp_path / "d.parquet")
    for columns, lacking in ((Columns(text="body"), "no column 'body'"), (Columns(text="a", label="b"), "no columns 'a', 'b'")):
        source = Data(format=kind, splits={"train": (f"d.{kind}",)}, columns=columns)
        with pytest.raises(MissingColumn, match=lacking, check=lambda error: error.param == "data.columns.text"):
            load_dataset(source, tmp_path, seed=0)


def texts(path: Path, written: str) -> Data:
    path.write_bytes(written.encode())
    return Data(format="text", splits={"train": (path.name,)})


def test_plain_text_is_parted_by_blank_lines(tmp_path: Path) -> None:
    source = texts(tmp_path / "d.txt", "\n\none\ntwo lines\n\n \t\n\nünïcode\r\n\r\nthe last")
    rows = read_split(source, "train", tmp_path, "causal-lm")
    assert (rows.texts, rows.labels) == (("one\ntwo lines", "ünïcode", "the last"), (None, None, None))
    (tmp_path / "d.txt").write_bytes("\ufeffone\n\ntwo".encode())
    assert read_split(source, "train", tmp_path, "causal-lm").texts == ("one", "two"), "a byte-order mark is no text"
    (tmp_path / "d.txt").write_bytes(b"good\n\n\xff")
    with pytest.raises(UnreadableData, match=r"line 3 of d\.txt is not UTF-8"):
        read_split(source, "train", tmp_path, "causal-lm")
    with pytest.raises(UnreadableData, match="needs columns"):
        load_dataset(source, tmp_path, seed=0)


def test_a_text_without_an_end_costs_no_more_memory_than_a_row_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "LARGEST_ROW", 50)
    assert len(read_split(texts(tmp_path / "d.txt", "x" * 40 + "\n\n" + "y" * 40), "train", tmp_path, "causal-lm")) == 2
    with pytest.raises(UnreadableData, match=r"text 2 of d\.txt is longer"):
        read_split(texts(tmp_path / "d.txt", "short\n\n" + "word\n" * 12), "train", tmp_path, "causal-lm")


def test_texts_are_carved_and_bear_no_labels_and_of_one_no_perplexity_is_sure(tmp_path: Path) -> None:
    source = texts(tmp_path / "d.txt", "\n\n".join(f"text {i}" for i in range(8)))
    found = load_dataset(source, tmp_path, seed=1, task="causal-lm")
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 4, "validation": 2, "test": 2}
    assert (found.labels, found.facts()["train"].labels) == ((), {})
    assert [row["text"] for row in found.judged("test")] == list(found.splits["test"].texts)
    (tmp_path / "one.txt").write_text("a single text")
    with pytest.raises(EmptySplit, match="one text"):
        load_dataset(beside(source, test="one.txt"), tmp_path, seed=0, task="causal-lm")
    with pytest.raises(EmptySplit, match="too few to carve"):
        load_dataset(texts(tmp_path / "d.txt", "one\n\ntwo\n\nthree"), tmp_path, seed=0, task="causal-lm")
    (tmp_path / "latin.txt").write_bytes("one\n\ncafé".encode("latin-1"))
    with pytest.raises(UnreadableData, match=r"line 3 of latin\.txt is not UTF-8"):
        load_dataset(beside(source, test="latin.txt"), tmp_path, seed=0, task="causal-lm")
    with pytest.raises(UnreadableData, match="no split unlabelled"):
        load_dataset(beside(source, unlabelled="one.txt"), tmp_path, seed=0, task="causal-lm")


def beside(source: Data, **splits: str) -> Data:
    return source.model_copy(update={"splits": {**source.splits, **{name: (file,) for name, file in splits.items()}}})


@pytest.mark.parametrize("seed", range(6))
def test_a_rare_tag_that_is_carved_away_stays_a_label(seed: int, tmp_path: Path) -> None:
    rows = [{"tokens": ["a", "b"], "tags": ["O", "B-X" if number else "B-RARE"]} for number in range(12)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Data.model_validate({"format": "jsonl", "splits": {"train": ["d.jsonl"]}})
    found = load_dataset(data, tmp_path, seed=seed, task="token-classification")
    assert found.labels == ("B-RARE", "B-X", "O")
    numbers = [number for split in found.splits for row in found.ids(split) for number in row]
    assert sorted(numbers) == [0, *[1] * 11, *[2] * 12]

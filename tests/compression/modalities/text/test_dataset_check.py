"""Every way in which data can be of no use has its code, and data of use is known by its facts."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as arrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from compression.engine.commands.validate import validate
from compression.schema.job_spec import Columns, Data, DataCheck
from compression.schema.validation import DataFacts, Rejected, parse_finding

GOOD = [("a b c", "x"), ("d e", "y"), ("f", "x"), ("g h i j", "y")] * 5


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))


def found(folder: Path, **changes: object) -> DataFacts | Rejected:
    settings = {"format": "jsonl", "splits": {"train": ("train.jsonl",)}, **changes}
    return validate(DataCheck(data=Data.model_validate(settings)), folder)


def codes(folder: Path, **changes: object) -> list[str | None]:
    answer = found(folder, **changes)
    assert isinstance(answer, Rejected), answer
    assert all(reason["cause"] and reason["remedy"] and reason["param"] for reason in answer.reasons)
    return [reason["code"] for reason in answer.reasons]


def test_good_data_is_known_by_its_facts(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    write(tmp_path / "test.jsonl", [("k", "x"), ("l", "y"), ("m", "x")])
    facts = found(tmp_path, splits={"train": ("train.jsonl", "train.jsonl"), "test": ("test.jsonl",)})
    counts = {"train": {"x": 20, "y": 20}, "test": {"x": 2, "y": 1}}
    rows = {"train": 40, "test": 3}
    facts = facts.model_copy(update={"repeated": {}})
    assert facts == DataFacts(labels=("x", "y"), rows=rows, label_counts=counts, mean_words=2.5, longest_words=4)


def test_rows_of_train_in_other_splits_and_rows_without_a_word_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [*GOOD, ("", "x"), (" \n", "y")])
    write(tmp_path / "validation.jsonl", [("new", "x"), ("A b c", "x")])
    write(tmp_path / "test.jsonl", [("a b c", "y"), ("d e", "y"), ("new", "x")])
    write(tmp_path / "unlabelled.jsonl", [("x y", "-"), ("", "-")])
    facts = found(tmp_path, splits={name: (f"{name}.jsonl",) for name in ("train", "validation", "test", "unlabelled")})
    assert (facts.repeated, facts.empty) == ({"test": 2}, {"train": 2, "unlabelled": 1})
    facts = found(tmp_path, splits={"train": ("train.jsonl", "validation.jsonl"), "test": ("test.jsonl",)})
    assert facts.repeated == {"train": len(GOOD), "test": 3}
    write(tmp_path / "more.jsonl", [("new", "y"), ("newer", "y")])
    facts = found(tmp_path, splits={"train": ("train.jsonl", "validation.jsonl", "more.jsonl")})
    assert facts.repeated == {"train": len(GOOD) + 2}, "whatever their labels are"


def test_a_pair_is_repeated_if_both_of_its_texts_are(tmp_path: Path) -> None:
    pairs = {"train": [("a", "b"), ("c", "d")] * 10, "test": [("a", "d"), ("c", "d")]}
    for name, rows in pairs.items():
        lines = [json.dumps({"text": one, "text_pair": two, "label": "xy"[at % 2]}) for at, (one, two) in enumerate(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    splits = {name: (f"{name}.jsonl",) for name in pairs}
    data = Data(format="jsonl", splits=splits, columns=Columns(text_pair="text_pair"))
    facts = validate(DataCheck(data=data, task="text-pair-classification"), tmp_path)
    assert facts.repeated == {"train": 20, "test": 1}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_other_formats_tell_the_same(tmp_path: Path, kind: str) -> None:
    table = arrow.table({"body": [text for text, _ in GOOD], "class": [label for _, label in GOOD]})
    if kind == "csv":
        (tmp_path / "train").write_text("\n".join(["body,class", *(f"{text},{label}" for text, label in GOOD)]))
    else:
        arrow.parquet.write_table(table, tmp_path / "train")
    facts = found(tmp_path, format=kind, columns=Columns(text="body", label="class"), splits={"train": ("train",)})
    assert (facts.rows, facts.labels, facts.mean_words) == ({"train": 20}, ("x", "y"), 2.5)


def test_every_reason_is_told(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [("a", "x")] * 30)
    write(tmp_path / "validation.jsonl", [("a", "z")])
    write(tmp_path / "test.jsonl", [])
    splits = {name: (f"{name}.jsonl",) for name in ("train", "validation", "test")}
    assert set(codes(tmp_path, splits=splits)) == {"single_label", "unseen_label", "empty_split"}
    splits["test"] = ("nowhere.jsonl",)
    assert set(codes(tmp_path, splits=splits)) == {"single_label", "unseen_label", "missing_file"}


def test_a_missing_column_and_unreadable_rows_have_codes(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD)
    assert codes(tmp_path, columns=Columns(text="body")) == ["missing_column"]
    for text in ("not json\n", "[1]\n", '{"text": 1, "label": "x"}\n', '{"text": "a", "label": null}\n', "[" * 100_000):
        (tmp_path / "train.jsonl").write_text(text)
        assert codes(tmp_path) == ["unreadable_data"]
    (tmp_path / "train.jsonl").write_bytes(b'{"text": "\xff\xfe", "label": "x"}\n')
    assert codes(tmp_path) == ["unreadable_data"]
    assert codes(tmp_path, format="parquet") == ["unreadable_data"]


def test_a_column_of_free_text_is_no_label(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [("a", f"label {number}") for number in range(3000)])
    assert codes(tmp_path) == ["unreadable_data"]


def test_too_few_rows_to_carve_the_missing_splits_from(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [("a", "x"), ("b", "y")])
    assert codes(tmp_path) == ["empty_split"]
    write(tmp_path / "test.jsonl", [("a", "x"), ("b", "y")])
    whole = {"train": ("train.jsonl",), "validation": ("test.jsonl",), "test": ("test.jsonl",)}
    assert isinstance(found(tmp_path, splits=whole), DataFacts)


def test_a_file_without_line_ends_is_refused_and_not_read_whole(tmp_path: Path) -> None:
    for kind in ("jsonl", "csv"):
        with (tmp_path / "train").open("wb") as file:
            file.write(b"text,label\n" if kind == "csv" else b"")
            file.truncate(300_000_000)
        assert codes(tmp_path, format=kind, splits={"train": ("train",)}) == ["unreadable_data"]


def test_a_label_is_no_novel_and_holds_no_nul(tmp_path: Path) -> None:
    for label in ("x" * 300, "a\0"):
        write(tmp_path / "train.jsonl", [*GOOD, ("a", label)])
        assert codes(tmp_path) == ["unreadable_data"]


def test_a_few_kilobytes_that_stand_for_gigabytes_are_refused(tmp_path: Path) -> None:
    """Run as the checker runs it: the rows would take 65 GB if they were read at once."""
    text = arrow.DictionaryArray.from_arrays(arrow.array([0] * 65_536, arrow.int32()), arrow.array(["x" * 1_000_000]))
    rows = arrow.table({"text": text, "label": ["a", "b"] * 32_768})
    arrow.parquet.write_table(rows, tmp_path / "train", compression="zstd")
    assert (tmp_path / "train").stat().st_size < 10_000
    spec = DataCheck(data=Data(format="parquet", splits={"train": ("train",)})).model_dump_json()
    assert [reason["code"] for reason in refused(spec, tmp_path)] == ["unreadable_data"]


def refused(spec: str, folder: Path) -> tuple[dict[str, str | None], ...]:
    (folder / "spec.json").write_text(spec)
    command = [sys.executable, "-m", "compression", "validate", str(folder / "spec.json")]
    return parse_finding.validate_json(subprocess.run(command, capture_output=True, check=True).stdout).reasons


def test_a_large_csv_is_streamed(tmp_path: Path) -> None:
    with (tmp_path / "train").open("w") as file:
        file.write("more,text,label\n")
        for number in range(200_000):
            file.write(f'{number},"a, sentence\nover two lines {number}",{number % 2}\n')
    facts = found(tmp_path, format="csv", splits={"train": ("train",)})
    assert facts.label_counts == {"train": {"0": 100_000, "1": 100_000}}


def test_texts_alone_are_known_by_how_long_they_are(tmp_path: Path) -> None:
    (tmp_path / "train").write_text("\n\n".join(["one two", "three four five"] * 6))
    (tmp_path / "test").write_text("a text alone")

    def answered(**splits: str) -> DataFacts | Rejected:
        data = Data.model_validate({"format": "text", "splits": {name: (file,) for name, file in splits.items()}})
        return validate(DataCheck(task="causal-lm", data=data), tmp_path)

    facts = answered(train="train")
    assert (facts.labels, facts.rows, facts.characters) == ((), {"train": 12}, {"train": 6 * (7 + 15)})
    assert (facts.mean_words, facts.longest_words, facts.label_counts) == (2.5, 3, {"train": {}})
    for splits, code in (({"test": "test"}, "empty_split"), ({"unlabelled": "test"}, "unreadable_data")):
        refused = answered(train="train", **splits)
        assert [reason["code"] for reason in refused.reasons] == [code]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_are_bounded(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compression.modalities.text.dataset.MOST_COLUMNS", 3)
    for count, code in ((3, None), (4, "unreadable_data")):
        names = ["text", "label", *(f"c{number}, quoted" for number in range(count - 2))]
        table = arrow.table({name: [f"{name} {row % 2}" for row in range(40)] for name in names})
        path = tmp_path / f"{count}.{kind}"
        if kind == "csv":
            arrow.csv.write_csv(table, path)
            path.write_bytes(b"\n" + path.read_bytes())
        else:
            arrow.parquet.write_table(table, path)
        answer = found(tmp_path, format=kind, splits={"train": (path.name,)})
        assert (answer.reasons[0]["code"] if isinstance(answer, Rejected) else None) == code


@pytest.mark.parametrize(
    ("kind", "content", "cause", "remedy"),
    [
        ("csv", "text,label\na,x\n\n'b\nc',y\n", "row 2 of train (line 4) has 1 of the 2 values", "as many values"),
        ("csv", "text,label\na,x\nb,y,z\n", "row 2 of train (line 3) has 3 of the 2 values", "a comma"),
        ("csv", "text,label\na,x\ncafé,y\n", "row 2 of train (line 3) is not UTF-8", "iconv"),
        ("csv", "tëxt,label\na,x\n", "the header of train is not UTF-8", "iconv"),
        ("jsonl", '{"text": "a", "label": "x"}\n{"text": "é", "label": "y"}\n', "row 2 of train is not JSON", "JSON lines"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(tmp_path: Path, kind: str, content: str, cause: str, remedy: str) -> None:
    (tmp_path / "train").write_bytes(content.encode("latin-1"))
    answer = found(tmp_path, format=kind, splits={"train": ("train",)})
    assert isinstance(answer, Rejected), answer
    (reason,) = answer.reasons
    assert reason["code"] == "unreadable_data"
    assert cause in str(reason["cause"])
    assert remedy in str(reason["remedy"])


def test_too_few_rows_of_train_are_mended_in_train(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", GOOD[:2])
    (tmp_path / "none.jsonl").touch()
    for split, cause in (
        ("train.jsonl", "train has 2 rows: too few to carve validation from"),
        ("none.jsonl", "train has no rows"),
    ):
        answer = found(tmp_path, splits={"train": (split,)})
        assert isinstance(answer, Rejected), answer
        assert [reason["cause"] for reason in answer.reasons] == [cause]
        assert str(answer.reasons[0]["remedy"]).startswith("Add rows to train")

"""Samples of a report: what people see of rows and answers, and both answers side by side."""

import pytest
from pydantic import ValidationError

from compression.schema.report.report import PartReport, Report
from compression.schema.report.sample_table import sample_tables
from compression.schema.report.samples import LONGEST, NO_ANSWER, Sample, SampleAnswer, cut, split_samples, with_samples
from tests.client.figures import report, sampled


def test_an_answer_is_a_class_a_number_tags_or_a_stretch_of_text() -> None:
    of_class = SampleAnswer.of({"label": "cat", "scores": {"dog": 0.25, "cat": 0.75}})
    assert (of_class.text, of_class.probability) == ("cat", 0.75)
    assert SampleAnswer.of({"value": 3.14159}) == SampleAnswer(text="3.142")
    assert SampleAnswer.of({"tags": ["O", "B-PER"]}).text == "O B-PER"
    assert [SampleAnswer.of({"text": text}).text for text in ("in Paris", "")] == ["in Paris", NO_ANSWER]


def test_long_texts_are_cut_and_what_no_database_stores_is_replaced() -> None:
    assert cut("a\0b\ud800c") == "a\N{REPLACEMENT CHARACTER}b?c"
    assert len(cut("a" * 1000)) == LONGEST
    assert cut("a" * LONGEST) == "a" * LONGEST


@pytest.mark.parametrize("address", ["https://example.org/a.png", "data:text/html;base64,AAAA", 'data:image/png;base64,A"x'])
def test_a_picture_is_nothing_but_a_picture(address: str) -> None:
    with pytest.raises(ValidationError):
        Sample(picture=address, expected="cat")


def test_samples_stand_beside_the_answers_of_the_original_and_the_recommended_artifact() -> None:
    (table,) = sample_tables(sampled())
    assert (table.part, table.exact) == ("", True)
    assert [(line.sample.expected, line.original.text, line.compressed.text) for line in table.lines] == [
        ("positive", "positive", "negative"),
        ("negative", "negative", "negative"),
    ]
    assert sample_tables(report()) == []
    some = sampled()
    silent = some.model_copy(update={"artifacts": some.artifacts[:1]})  # the recommended one could not be measured
    assert sample_tables(silent) == []


def test_each_dataset_has_its_samples() -> None:
    some = sampled()
    rows = [row.model_copy(update={"parts": {"reviews": row}}) for row in some.rows]
    about = {"name": "reviews", "task": "text-classification", "labels": some.labels, "splits": {}, "pruning": None}
    part = PartReport(**about, samples=some.samples)
    several = {"task": "several", "rows": tuple(rows), "parts": (part,), "samples": (), "headlines": {"reviews": some.headline}}
    found = some.model_copy(update=several)
    (table,) = sample_tables(found)
    assert (table.part, len(table.lines)) == ("reviews", 2)


@pytest.mark.parametrize("several", [False, True])
def test_a_report_is_kept_apart_from_its_rows(several: bool) -> None:
    found = sampled()
    if several:
        about = {"name": "reviews", "task": "text-classification", "labels": found.labels, "splits": {}, "pruning": None}
        found = found.model_copy(update={"parts": (PartReport(**about, samples=found.samples),), "samples": ()})
    whole = found.model_dump(mode="json")
    kept, rows = split_samples(whole)
    assert "lovely" not in str(kept)
    assert Report.model_validate(kept).headline == found.headline
    assert with_samples(kept, rows) == whole
    assert split_samples(kept) == (kept, None)
    assert with_samples(kept, None) == kept
    assert split_samples({"headline": "int8"}) == ({"headline": "int8"}, None)

"""The ten jobs of `auto`: their sets are whole and apart, and what they come to follows from made records."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.targets import auto, auto_sets
from bench.targets.__main__ import main
from bench.targets.steps import Place
from tests.compression.planning.search.test_spaces import SHAPE


@pytest.mark.parametrize("name", list(auto_sets.MADE))
def test_made_sets_are_always_the_same_and_no_text_is_in_two_splits(name: str, tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path, tmp_path / "runs", tmp_path / "records")
    first = auto_sets.prepare(name, place)
    texts = {split: [row["text"] for row in first.rows(split)] for split in auto_sets.MADE_ROWS}
    assert {split: len(rows) for split, rows in texts.items()} == auto_sets.MADE_ROWS
    assert len({text for rows in texts.values() for text in rows}) == sum(auto_sets.MADE_ROWS.values())
    labels = [row["label"] for row in first.rows("test")]
    assert min(map(labels.count, {*labels})) > 0.5 * len(labels) / len({*labels}), "no label is rare"
    assert auto_sets.prepare(name, place).digest == first.digest
    again = auto_sets.prepare(name, Place(tmp_path, tmp_path, tmp_path / "other", tmp_path))
    assert again.digest == first.digest


def test_a_denied_claim_has_the_other_label(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path, tmp_path / "runs", tmp_path / "records")
    for row in auto_sets.prepare("negations", place).rows("test"):
        last = row["text"].split(", ")[1]
        bad = last.endswith(auto_sets.BAD)
        denied = re.match(r"nobody|it is not true|i doubt", last) is not None
        assert row["label"] == ("negative" if bad != denied else "positive"), row


def test_sentences_of_one_document_are_in_one_split() -> None:
    scored = [(f"nyt/{number}", score, f"text {number} {score}") for number in range(400) for score in (2.0, -1.0, 0.2)]
    rows = auto_sets.found_rows(iter(scored))
    numbers = {split: {row["text"].split()[1] for row in some} for split, some in rows.items()}
    assert sum(map(len, rows.values())) == 800, "undecided ones are left out"
    assert not numbers["train"] & numbers["validation"]
    assert not (numbers["train"] | numbers["validation"]) & numbers["test"]
    assert 80 < len(numbers["test"]) < 160
    assert {row["label"] for row in rows["test"]} == {"positive", "negative"}
    many = auto_sets.found_rows((f"tweets/{number}", 1.0, f"text {number}") for number in range(5000))
    assert len(many["train"]) == auto_sets.MOST_TRAIN


def test_there_are_ten_jobs_of_eight_sets() -> None:
    assert len({*auto.PLAN.runs}) == auto.RUNS
    assert {name for name, _ in auto.PLAN.runs} == {*auto_sets.FOUND, *auto_sets.MADE, *auto_sets.KNOWN}


def test_the_recipe_has_the_budget_and_the_seed() -> None:
    told = auto.PLAN.at(31).model_dump(mode="json")
    assert (told["auto"]["budget_minutes"], told["train"]["seed"], told["prune"]["search"]) == (30.0, 31, "solver")


def record(
    kept: float, small: float, wrong: int, *, status: str = "undecided", upper: float = 0.02, stage: str = "distilled"
) -> dict[str, Any]:
    wanted = [float(number % 2) for number in range(100)]
    after = [1 - one if number < wrong else one for number, one in enumerate(wanted)]
    ratios = {"retention_on_validation": kept, "parameter_reduction": small}
    parameters = {"total": round(20_000_000 * (1 - small))}
    return {
        "shipped": {"stage": stage, "ratios": ratios, "parameters": parameters, "shape": SHAPE.model_dump(mode="json")},
        "gate": {"status": status, "max_drop": 0.01, "validation": {"upper": upper}},
        "sizes": {"tried": [], "whole": 20_000_000},
        "seconds": 1500.0,
        "answers": {"before": wanted, "after": after, "wanted": wanted},
    }


def tried(parameters: int, kept: float | None, expected: float | None) -> dict[str, Any]:
    return {"kind": "short" if kept is None else "full", "parameters": parameters, "kept": kept, "expected": expected}


def test_what_no_smaller_shape_passes_is_shown_by_what_was_tried() -> None:
    large = record(0.995, 0.2, 0)  # 16 of 20 million parameters

    def shows(*sizes: dict[str, Any]) -> bool:
        return auto.none_smaller_passes({**large, "sizes": {"tried": [*sizes], "whole": 20_000_000}})

    assert not shows(), "nothing smaller was tried"
    assert shows(tried(12_000_000, None, 0.97), tried(15_200_000, 0.98, None))
    assert shows(tried(15_200_000, None, 0.98), tried(17_000_000, None, 0.995))
    assert not shows(tried(12_000_000, None, 0.97), tried(15_200_000, 0.991, None))
    assert not shows(tried(12_000_000, None, 0.991), tried(15_200_000, 0.98, None)), "a smaller one was expected to pass"
    assert not shows(tried(12_000_000, None, 0.97)), "between 12 and 16 million nothing was tried"
    assert not shows(tried(15_200_000, None, None)), "it was not distilled"
    assert not shows(tried(18_000_000, None, 0.97)), "it is larger"
    assert not auto.none_smaller_passes({**large, "sizes": None})


def test_what_is_not_cut_holds_no_target() -> None:
    assert auto.holds_target(record(0.995, 0.2, 0))
    assert not auto.holds_target(record(1.0, 0.0, 0, stage="quantized"))
    assert not auto.holds_target(record(0.98, 0.2, 0))


def test_accept_needs_a_bound_within_the_limit() -> None:
    assert not auto.accepts_untested(record(1.0, 0.5, 0))
    assert not auto.accepts_untested(record(1.0, 0.5, 0, status="accept", upper=0.009))
    assert auto.accepts_untested(record(1.0, 0.5, 0, status="accept", upper=0.02))
    unpaired = {**record(1.0, 0.5, 0, status="accept")}
    unpaired["gate"]["validation"] = {"not_paired": "no test"}
    assert auto.accepts_untested(unpaired)


def summary(found: dict[str, dict[str, Any]], place: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    (place / "auto").mkdir()
    for name, one in found.items():
        (place / "auto" / f"{name}.json").write_text(json.dumps(one))
    main(["auto", "--table-only", "--records", str(place)])
    return capsys.readouterr().out.splitlines()


def test_promises_hold_once_all_jobs_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = {f"{name}-{seed}": record(1.0, 0.5, 0) for name, seed in auto.PLAN.runs}
    jobs["tweets-53"] |= {"seconds": 1900.0}
    jobs["tweets-59"] = record(1.0, 0.0, 0, stage="quantized")
    lines = summary(jobs, tmp_path, capsys)
    (uncut,) = [line for line in lines if line.startswith("| tweets-59 ")]
    assert uncut.split(" | ")[3] == "100.0%, not cut"
    assert lines[-5:] == [
        "10 of 10 jobs. On validation 9 of 10 keep 99%, cut (nine of ten: yes).",
        lines[-4],
        "40 % smaller, or none smaller passes: 9 of 10 (**no**).",
        "`accept` without a paired test: 0 (yes).",
        "Within 30 minutes: 9 of 10 (**no**).",
    ]
    assert lines[-4].endswith("(at least 98%: yes).")


@pytest.mark.parametrize(("wrong", "verdict"), [(0, "not yet"), (10, "**no**")])
def test_jobs_are_counted_and_their_tests_pooled(
    wrong: int, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {
        "tweets-37": record(1.0, 0.5, wrong, status="accept", upper=0.005),
        "tweets-41": record(0.995, 0.45, wrong),
        "intents-29": record(0.98, 0.3, wrong),
    }
    lines = summary(found, tmp_path, capsys)
    assert lines[2].startswith(f"| intents-29 | {SHAPE.short} | 14.00 M (-30.0%) | 98.0% | undecided | **no** | 0 |")
    assert lines[-5] == "3 of 10 jobs. On validation 2 of 3 keep 99%, cut (nine of ten: **no**)."
    assert lines[-4].startswith(f"On their tests pooled they keep {1 - wrong / 100:.2%} [")
    assert lines[-4].endswith(f"(at least 98%: {verdict}).")
    assert lines[-3:] == [
        "40 % smaller, or none smaller passes: 2 of 3 (**no**).",
        "`accept` without a paired test: 0 (not yet).",
        "Within 30 minutes: 3 of 3 (not yet).",
    ]

"""The baseline itself: one that has not converged or is exceeded proves nothing, and is to be prepared longer."""

from typing import Any

import pytest

from app.jobs.remedies import apply_remedies
from client.terminal import render
from compression.planning.baseline import exceeds_baseline
from compression.planning.verdicts import by_status, choose, judged
from compression.schema.recipe.quantize import Quantize
from compression.schema.recipe.recipe import Prepare, Recipe, Targets
from compression.schema.report.averages import mean_row
from compression.schema.report.measurements import Ratios, Row
from compression.schema.report.report import Report, Verdict, verdicts
from tests.client import figures
from tests.client.figures import converged, row
from tests.support.verdict_rows import RECIPE, TARGETS, offered, verdict

BASELINE = row("baseline", 20_000_000, 80_000_000, 16.0, 0.8, validation=0.8)
BARE = Recipe(quantize=Quantize(), prune=None, distill=None)
EASY = Targets(parameter_reduction=0, size_reduction=0.5, speed_up=1.5)


def quantized(validation: float = 0.8, **changes: Any) -> Row:
    return row("quantized", 20_000_000, 20_000_000, 8.0, 0.8, validation=validation, **changes)


def pruned(validation: float, **changes: Any) -> Row:
    return row("pruned", 13_000_000, 14_000_000, 6.4, 0.8, validation=validation, **changes)


def distilled(validation: float, **changes: Any) -> Row:
    return row("distilled", 13_000_000, 14_000_000, 6.4, 0.8, validation=validation, **changes)


def judged_all(*rows: Row, recipe: Recipe = RECIPE, targets: Targets = TARGETS) -> list[Row]:
    found = list[Row]()
    for each in rows:
        found.append(judged(each, found, recipe, targets))
    return found


def test_what_is_kept_of_a_baseline_that_has_not_converged_is_unproven() -> None:
    found = judged_all(converged(BASELINE, False), quantized(0.8), pruned(0.6), distilled(0.992))
    for each in found:
        assert each.ratios.baseline_not_converged
        assert each.verdict.unproven == ("retention",)
        assert not {*each.verdict.met, *each.verdict.missed} & {"retention"}
    assert found[-1].verdict.met == ("parameter_reduction", "size_reduction", "speed_up")  # these stay as measured
    said = verdicts(found[-1], TARGETS)["retention"]
    assert (said.met, said.status, said.code, said.value) == (False, "unproven", "baseline_not_converged", 0.992 / 0.8)
    assert said.reason is not None
    # Rows are still compared with each other: the cut that lost a quarter is not taken for want of a proof.
    chosen, why = choose(found, TARGETS)
    assert chosen.stage == "distilled"
    assert "reaches all targets" in why
    assert why.endswith("is unproven: the baseline has not converged (baseline_not_converged).")
    assert choose(found[:3], TARGETS)[0].stage == "quantized"


@pytest.mark.parametrize("known", [True, None])
def test_one_that_has_converged_or_was_taken_as_it_was_sent_is_not_flagged(known: bool | None) -> None:
    for first in (converged(BASELINE, known), BASELINE):
        last = judged_all(first, quantized())[-1]
        assert not last.ratios.baseline_not_converged
        assert last.verdict.unproven == ()
        assert verdicts(last, TARGETS)["retention"].status == "met"


def test_of_several_datasets_one_that_has_not_converged_is_enough() -> None:
    first = mean_row({"a": converged(BASELINE, True), "b": converged(BASELINE, False)}, None)
    assert first.convergence == "not converged"
    assert render.cells(first)[0] == "baseline, not converged"
    as_sent = mean_row({"a": converged(BASELINE, None), "b": converged(BASELINE, None)}, None)
    assert render.cells(as_sent)[0] == "baseline, not tuned here"
    assert mean_row({"a": converged(BASELINE, True), "b": converged(BASELINE, None)}, None).convergence != "not converged"
    found = judged_all(first, mean_row({"a": quantized(), "b": quantized()}, first), recipe=BARE, targets=EASY)
    assert found[-1].verdict.unproven == ("retention",)
    (remedy,) = found[-1].verdict.remedies
    assert "The baseline of b has not converged" in remedy.why


def test_what_was_not_measured_is_unproven_too_and_nothing_is_both() -> None:
    facts = BASELINE.ratios.model_dump() | {"speed_up": None, "retention_on_validation": None, "size_reduction": 0.1}
    found = verdicts(BASELINE.model_copy(update={"ratios": Ratios.model_validate(facts)}), TARGETS)
    assert {name: each.status for name, each in found.items()} == {
        "parameter_reduction": "missed",
        "size_reduction": "missed",
        "speed_up": "unproven",
        "retention": "unproven",  # on test it was: that proves nothing
    }
    assert {each.code for each in found.values()} == {None, "not_measured"}
    assert not any(each.met for each in found.values())


def test_the_interval_does_not_change_a_verdict() -> None:
    for interval in (None, (0.9, 1.1), (0.5, 0.6)):
        last = judged_all(BASELINE, quantized(0.8, interval=interval))[-1]
        assert verdicts(last, TARGETS)["retention"].status == "met"
        assert verdicts(last, TARGETS)["retention"].interval == interval


def test_a_verdict_of_before_there_was_a_status_has_the_one_that_it_said() -> None:
    old = [{"target": 0.9, "value": value, "met": met} for value, met in ((0.95, True), (0.8, False), (None, False))]
    assert [Verdict.model_validate(each).status for each in old] == ["met", "missed", "unproven"]
    report = figures.report().model_dump(mode="json")
    for each in report["verdicts"].values():
        for name in ("status", "code", "reason", "split", "interval"):
            del each[name]
    for name in ("judged_on", "baseline_not_converged", "retention_interval", "retention_on_validation"):
        del report["ratios"][name]
    read = Report.model_validate(report)
    assert read.verdicts["retention"].status == "missed"
    assert (read.ratios.judged_on, read.ratios.judged_retention) == ("test", pytest.approx(0.98))


def test_a_result_that_is_surely_better_than_the_baseline_is_told_and_asks_for_more_preparation() -> None:
    for interval, is_sure in (((1.01, 1.2), True), ((0.99, 1.2), False), (None, True)):
        last = judged_all(BASELINE, quantized(0.88, interval=interval), recipe=BARE, targets=EASY)[-1]
        assert exceeds_baseline(last, BASELINE) == is_sure
        assert any("110.0%" in note and "below what these data allow" in note for note in last.notes) == is_sure
        assert [remedy.key for remedy in last.verdict.remedies] == (["recipe.prepare.epochs"] if is_sure else [])
    within = judged_all(BASELINE, quantized(0.81), recipe=BARE, targets=EASY)[-1]  # 1.25 % more, of an error of 1.8
    assert not exceeds_baseline(within, BASELINE)
    # By validation alone: what test says changes nothing.
    assert not exceeds_baseline(row("quantized", 20_000_000, 20_000_000, 8.0, 0.99, validation=0.8), BASELINE)


@pytest.mark.parametrize(
    ("asked", "known", "key", "proposed"),
    [
        ({"epochs": 3}, {}, "recipe.prepare.epochs", None),
        ({"epochs": 200, "rate": 1e-4}, {}, "recipe.prepare.epochs", None),
        ({"rate": 1e-4}, {}, "recipe.prepare.rate", None),
        ({}, {"epochs": 12, "rate": 2e-4}, "recipe.prepare", {"epochs": 24, "rate": 2e-4, "patience": None}),
        ({"patience": 5}, {"epochs": 150, "rate": 2e-4}, "recipe.prepare", {"epochs": 200, "rate": 2e-4, "patience": 5}),
        ({}, {"epochs": 12, "rate": None}, "recipe.prepare.epochs", 24),
    ],
)
def test_it_proposes_longer_or_another_rate(asked: dict[str, Any], known: dict[str, Any], key: str, proposed: Any) -> None:
    recipe = BARE.model_copy(update={"prepare": Prepare(**asked)})
    found = offered(recipe, converged(BASELINE, False, **known), quantized(), targets=EASY)
    assert {name: remedy.proposed for name, remedy in found.items()} == {key: proposed}
    assert "has not converged" in found[key].why
    Recipe.model_validate(apply_remedies(recipe.model_dump(mode="json"), list(found.values())))


def test_a_job_of_the_baseline_alone_is_told_how_to_prepare_it() -> None:
    alone = Recipe(quantize=None, prune=None, distill=None, prepare=Prepare(epochs=2))
    assert list(offered(alone, converged(BASELINE, False))) == ["recipe.prepare.epochs"]
    assert not verdict(alone, converged(BASELINE, True)).remedies
    assert not verdict(RECIPE, converged(BASELINE, False)).remedies  # the last stage's row says it


def test_test_decides_nothing() -> None:
    """Rows that differ on test alone are judged alike."""
    tested = [(0.8, 0.3, 0.9, 0.1), (0.1, 0.9, 0.4, 0.95)]
    found = []
    for scores in tested:
        shapes = ((20, 80, 16.0, 0.8), (20, 20, 8.0, 0.798), (13, 14, 6.4, 0.7), (13, 14, 6.4, 0.797))
        rows = [
            row(stage, 1_000_000 * of, 1_000_000 * size, ms, score, validation=validation)
            for stage, (of, size, ms, validation), score in zip(
                ("baseline", "quantized", "pruned", "distilled"), shapes, scores, strict=True
            )
        ]
        done = judged_all(*rows)
        found.append((*choose(done, TARGETS)[0].ratios.model_dump(exclude={"retention", "retention_above_chance"}).values(),))
        found.append(tuple((each.verdict, each.notes, by_status(each, TARGETS, "met")) for each in done))
        found.append((choose(done, TARGETS)[1],))
    assert found[:3] == found[3:]
    assert "99.6% of the score kept on validation" in found[2][0]

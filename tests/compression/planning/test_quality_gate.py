"""Verdicts of a quality gate: accept, regression and undecided, with the number of rows that would decide."""

import numpy as np
import pytest

from compression.modalities.scoring.paired import drop_of_mean, drop_of_ratio
from compression.planning.quality_gate import each_verdict, gate_verdict, limited, rows_needed, unlimited
from compression.schema.recipe.quality_gate import QualityGate
from compression.schema.report.gate import NotPaired, PairedDrop
from compression.schema.report.measurements import Score

GATE = QualityGate(max_drop=0.01, confidence=0.95)
NONE = NotPaired(not_paired="The artifact has no answers to the validation rows: it was not measured on them.")


def share(lost: int, gained: int, rows: int) -> PairedDrop:
    return drop_of_mean(np.repeat([1.0, -1.0, 0.0], [lost, gained, rows - lost - gained]), 0.95, seed=0)


def test_enough_rows_accept_a_small_drop_and_refuse_a_large_one() -> None:
    good = gate_verdict(GATE, "baseline-onnx-float32", share(30, 20, 10_000), NONE)
    assert (good.status, good.rows_needed, good.original) == ("accept", None, "baseline-onnx-float32")
    assert good.validation.upper <= 0.01
    assert good.lines == (f"accept, against baseline-onnx-float32. {good.reason}", NONE.not_paired)
    bad = gate_verdict(GATE, "", share(300, 100, 10_000), NONE)
    assert bad.status == "regression"
    assert bad.validation.lower > 0.01
    assert "drops by 2.00 points (1.6" in bad.reason
    assert bad.text.startswith("regression. The score drops by")
    assert "at most 1 points may be lost" in bad.reason


def test_the_test_set_decides_nothing() -> None:
    large = share(300, 100, 10_000)
    assert gate_verdict(GATE, "", share(30, 20, 10_000), large).status == "accept"
    assert gate_verdict(GATE, "", NONE, share(30, 20, 10_000)).status == "undecided"


def score(metric: str, value: float) -> Score:
    return Score.model_construct(metric=metric, value=value, lower_is_better=metric == "perplexity")


def test_a_share_of_no_score_is_no_limit() -> None:
    gate = QualityGate(retention=0.99)
    for value, why in ((score("matthews", -0.1), "is -0.1: no share"), (None, "has no score on validation")):
        told = unlimited(gate, value)
        assert why in told
        found = gate_verdict(limited(gate, value), "", share(0, 100, 10_000), NONE, without_limit=told)
        assert (found.status, found.rows_needed, found.reason) == ("undecided", None, told)
    good = score("accuracy", 0.9)
    assert unlimited(gate, good) is unlimited(GATE, None) is None
    assert unlimited(gate, score("perplexity", 12.0)) is None
    assert gate_verdict(limited(gate, good), "", share(0, 100, 10_000), NONE).status == "accept"


def test_without_pairs_nothing_is_accepted() -> None:
    found = gate_verdict(GATE, "", NONE, NONE)
    assert (found.status, found.rows_needed, found.reason) == ("undecided", None, NONE.not_paired)
    assert found.lines == (f"undecided. {NONE.not_paired}",)


@pytest.mark.parametrize(("lost", "gained", "rows"), [(3, 1, 400), (0, 0, 50), (8, 1, 400), (1, 0, 60)])
def test_undecided_says_how_many_rows_decide_if_the_estimate_stays(lost: int, gained: int, rows: int) -> None:
    found = gate_verdict(GATE, "", share(lost, gained, rows), NONE)
    assert found.status == "undecided"
    needed = found.rows_needed
    assert f"About {needed:,} validation rows would decide" in found.reason
    for factor, decides in ((1.25, True), (0.6, False)):  # the same shares, on more rows
        times = factor * needed / rows
        if times < 1:
            continue
        more = share(round(times * lost), round(times * gained), round(times * rows))
        assert (gate_verdict(GATE, "", more, NONE).status != "undecided") is decides


def test_an_estimate_on_the_limit_is_decided_by_no_number_of_rows() -> None:
    found = gate_verdict(GATE, "", share(4, 0, 400), NONE)
    assert (found.status, found.rows_needed) == ("undecided", None)
    assert found.reason.endswith("No number of rows would decide: the estimate lies on the limit.")


def test_a_language_model_is_judged_in_nats_a_token() -> None:
    losses = np.random.default_rng(0).normal(0.006, 0.05, 100)
    found = gate_verdict(GATE, "", drop_of_ratio(losses, np.ones(100), 0.95), NONE)
    assert found.status == "undecided"
    assert "at most 0.01 nats a token may be lost" in found.reason
    assert rows_needed(found.validation, GATE) == found.rows_needed > 100


def test_of_several_datasets_the_worst_counts() -> None:
    good = gate_verdict(GATE, "a", share(30, 20, 10_000), NONE)
    open_, bad = gate_verdict(GATE, "b", share(3, 1, 400), NONE), gate_verdict(GATE, "c", share(300, 100, 10_000), NONE)
    assert each_verdict(GATE, {"one": good, "two": good}).status == "accept"
    some = each_verdict(GATE, {"one": good, "two": open_})
    assert (some.status, some.rows_needed) == ("undecided", open_.rows_needed)
    assert some.reason == f"two: {open_.reason}"
    assert each_verdict(GATE, {"one": open_, "two": bad}).status == "regression"
    unpaired = gate_verdict(GATE, "d", NONE, NONE)
    assert each_verdict(GATE, {"one": open_, "two": unpaired}).rows_needed is None
    assert each_verdict(GATE, {"one": good, "two": None}) is None

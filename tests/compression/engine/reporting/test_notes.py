"""Notes on validation: what it cannot tell, and what it is too small for."""

from typing import Any

import pytest

from compression.engine.reporting.stage_rows import bytes_note, with_notes
from compression.planning.verdicts import coarse_note, indistinct_note, judged
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Targets
from compression.schema.report.draws import Draws, SplitDraws
from compression.schema.report.measurements import Row
from compression.schema.stages import Stage
from tests.client.figures import row
from tests.support.verdict_rows import RECIPE, TARGETS

BASELINE = row("baseline", 20_000_000, 80_000_000, 16.0, 0.8, validation=0.8)
QUANTIZED = row("quantized", 20_000_000, 20_000_000, 8.0, 0.8, validation=0.8)
PRUNED = row("pruned", 13_000_000, 14_000_000, 6.4, 0.8, validation=0.79)


def drawn(*values: float) -> Draws:
    return Draws(rows=500, seed=0, values=values)


@pytest.mark.parametrize(
    ("own", "other", "is_told"),
    [
        (drawn(0.79, 0.80, 0.81), drawn(0.80, 0.80, 0.80), True),
        (drawn(0.79, 0.80, 0.81), drawn(0.83, 0.84, 0.85), False),  # worse by 0.04 in each sample
        (None, drawn(0.8, 0.8), False),
    ],
)
def test_two_stages_that_validation_cannot_tell_apart_are_named(own: Draws | None, other: Draws, is_told: bool) -> None:
    draws: dict[Stage, SplitDraws] = {"quantized": SplitDraws(validation=other), "pruned": SplitDraws(validation=own)}
    found = judged(PRUNED, [BASELINE, QUANTIZED], RECIPE, TARGETS, draws=draws)
    told = [note for note in found.notes if "cannot tell" in note]
    assert bool(told) == is_told
    if told:
        assert told[0].startswith("Validation (500 rows) cannot tell this stage's score from that of quantized")
        assert "-0.0095 to +0.0095 (accuracy)" in told[0]


def test_the_baseline_is_no_stage_to_be_told_from() -> None:
    same = SplitDraws(validation=drawn(0.8, 0.8))
    found = judged(QUANTIZED, [BASELINE], RECIPE, TARGETS, draws={"baseline": same, "quantized": same})
    assert not any("cannot tell" in note for note in found.notes)


def of(rows: int, metric: str = "accuracy") -> Row:
    return BASELINE.model_copy(update={"validation": BASELINE.validation.model_copy(update={"rows": rows, "metric": metric})})


def test_one_row_that_weighs_more_than_may_be_lost_is_told_with_the_baseline() -> None:
    (note,) = judged(of(100), [], RECIPE, TARGETS).notes
    assert "one of its 100 rows is 1.2% of the baseline's score, and the target allows to lose 0.8%" in note
    assert coarse_note(of(157), TARGETS) == ()  # 0.796 %
    assert coarse_note(of(156), TARGETS) != ()
    assert coarse_note(of(100), Targets(retention=0.9)) == ()
    assert coarse_note(of(100, "pearson_spearman"), TARGETS) == ()  # of which a row has no share
    old = BASELINE.model_copy(update={"validation": None})
    assert coarse_note(old, TARGETS) == ()
    assert indistinct_note(old, QUANTIZED, drawn(0.8, 0.8), drawn(0.8, 0.8)) == ()


def test_a_latency_that_was_not_taken_alone_is_told() -> None:
    disturbed = QUANTIZED.model_copy(update={"latency": QUANTIZED.latency.model_copy(update={"exclusive": False})})
    assert with_notes(QUANTIZED, BASELINE).notes == ()
    assert "Another job may have been timed" in " ".join(with_notes(disturbed, BASELINE).notes)


def test_a_latency_of_a_busy_machine_is_told() -> None:
    calm, busy = (QUANTIZED.latency.model_copy(update={"interrupted": share}) for share in (0.4, 0.875))
    assert with_notes(QUANTIZED.model_copy(update={"latency": calm}), BASELINE).notes == ()
    (note,) = with_notes(QUANTIZED.model_copy(update={"latency": busy}), BASELINE).notes
    assert "other processes ran in the models' place in 88% of the turns" in note


def test_a_score_that_a_gpu_did_not_take_has_the_reason() -> None:
    left = QUANTIZED.model_copy(update={"score": QUANTIZED.score.model_copy(update={"not_on_card": "no kernels"})})
    assert with_notes(left, BASELINE).notes == ("Scored on the CPU and not on the worker's GPU: no kernels.",)


def test_a_file_above_the_bytes_that_its_cut_aimed_at_is_told() -> None:
    def told(row: Row, target: float, **more: Any) -> str | None:
        asked = Prune(target_bytes=target, **more)
        return bytes_note(row, BASELINE, RECIPE.model_copy(update={"prune": asked}))

    found = told(PRUNED, 0.4)
    assert found is not None
    assert found.startswith("The file has 14,000,000 bytes, 11.1% more than the 12,600,000 that prune.target_bytes allows")
    assert told(PRUNED, 0.3) is None
    assert told(QUANTIZED, 0.4) is None
    assert told(PRUNED, 0.4, search="solver", points=2) is None, "the target is of the smallest size"
    assert bytes_note(PRUNED, BASELINE, RECIPE) is None

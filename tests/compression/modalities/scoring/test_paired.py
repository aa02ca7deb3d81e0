"""Paired drops: their bounds keep their confidence, also where few rows differ, and each metric drops by its own values."""

from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from compression.modalities.image.scoring.classes import ImageClassScorer
from compression.modalities.scoring import metrics, paired
from compression.modalities.scoring.base import RowScorer
from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.scoring.paired import UnpairedRows, drop_of_mean, drop_of_ratio, packed, student_quantile, unpacked
from compression.modalities.scoring.regression import NumberScorer
from compression.modalities.text.scoring.perplexity import LanguageScorer
from compression.modalities.text.scoring.question_answering import QuestionScorer
from compression.modalities.text.scoring.token_classification import TagScorer
from compression.schema.report.gate import PairedDrop

DRAWS, LEAST = 2000, 0.93
Numbers = npt.NDArray[np.float64]


def answered(lost: int, gained: int, rows: int) -> Numbers:
    """Differences of rows that only the original, or only the other model, gets right."""
    return np.repeat([1.0, -1.0, 0.0], [lost, gained, rows - lost - gained])


@pytest.mark.parametrize("rows", [50, 200, 1000])
@pytest.mark.parametrize(("lost", "gained"), [(0.004, 0.0), (0.02, 0.0), (0.03, 0.022), (0.08, 0.05), (0.02, 0.06)])
def test_both_bounds_of_a_share_keep_their_confidence(rows: int, lost: float, gained: float) -> None:
    @cache
    def bounds(wrong: int, right: int) -> tuple[float, float]:
        found = drop_of_mean(answered(wrong, right, rows), 0.95, seed=0)
        return found.lower, found.upper

    made = np.random.default_rng(rows).multinomial(rows, [lost, gained, 1 - lost - gained], DRAWS)[:, :2]
    found = np.array([bounds(*pair) for pair in made.tolist()])
    truth = lost - gained
    assert (found[:, 0] <= truth).mean() >= LEAST
    assert (found[:, 1] >= truth).mean() >= LEAST


@pytest.mark.parametrize("rows", [50, 200, 1000])
def test_both_bounds_of_a_mean_and_of_a_loss_keep_their_confidence(rows: int) -> None:
    draw = np.random.default_rng(1)
    tokens = draw.integers(5, 200, (DRAWS, rows)).astype(np.float64)
    losses = tokens * (0.02 + 0.1 * draw.standard_normal((DRAWS, rows)))
    words = draw.choice([0.0, 0.2, 0.4, 1.0, -0.5], (500, rows), p=[0.8, 0.05, 0.05, 0.05, 0.05])
    cases: list[tuple[float, float, list[PairedDrop]]] = [
        (0.02, LEAST, [drop_of_ratio(loss, size, 0.95) for loss, size in zip(losses, tokens, strict=True)]),
        (0.055, 0.92, [drop_of_mean(one, 0.95, seed=0) for one in words]),  # of 500 draws: less three standard errors
    ]
    for truth, least, found in cases:
        assert np.mean([one.lower <= truth for one in found]) >= least
        assert np.mean([one.upper >= truth for one in found]) >= least


def test_a_text_with_most_of_the_tokens_leaves_no_bounds() -> None:
    losses = 0.02 * np.ones(21)
    with pytest.raises(UnpairedRows, match=r"21 texts, .* count as 1\.2 equal ones"):
        drop_of_ratio(losses, np.array([50_000.0, *[200.0] * 20]), 0.95)
    with pytest.raises(UnpairedRows, match="it takes 10"):
        drop_of_ratio(losses[:9], np.ones(9), 0.95)
    assert drop_of_ratio(losses[:10], np.ones(10), 0.95).rows == 10


def test_where_no_row_differs_the_drop_is_not_surely_zero() -> None:
    found = drop_of_mean(answered(0, 0, 50), 0.95, seed=0)
    assert (found.drop, found.spread) == (0, 0)
    assert found.upper == pytest.approx(1 - 0.05 ** (1 / 50), rel=0.03)  # as Clopper and Pearson's
    assert found.lower == pytest.approx(-found.upper, rel=1e-6)
    assert drop_of_mean(answered(0, 0, 50), 0.999, seed=0).upper > 2 * found.upper
    assert drop_of_mean(answered(0, 0, 5000), 0.95, seed=0).upper < found.upper / 50


def test_student_quantiles_are_those_of_tables() -> None:
    known = {(0.95, 1): 6.314, (0.95, 4): 2.132, (0.975, 10): 2.228, (0.999, 30): 3.385, (0.95, 20_000): 1.645}
    assert {key: round(student_quantile(*key), 3) for key in known} == known


def test_figures_of_rows_are_small_and_come_back() -> None:
    draw = np.random.default_rng(0)
    figures = np.stack([draw.integers(0, 2, 10_000), draw.integers(0, 77, 10_000)], axis=1).astype(np.float64)
    kept = packed(figures)
    assert np.array_equal(unpacked(kept), figures)
    assert len(kept.packed) < 25_000  # 2 bytes a row


LABELS = 3
draw = np.random.default_rng(2)
WANTED = draw.integers(0, LABELS, 400)
BEFORE, AFTER = (np.where(draw.random(400) < share, WANTED, (WANTED + 1) % LABELS) for share in (0.9, 0.8))
CLASSES = [{"label": int(label)} for label in WANTED]


def told(answers: npt.NDArray[np.int64]) -> list[tuple[int]]:
    return [(int(one),) for one in answers]


def numbers(answers: npt.NDArray[np.int64]) -> list[float]:
    return [one + 0.3 * (row % 3) for row, one in enumerate(answers.tolist())]


def tags(answers: npt.NDArray[np.int64]) -> list[list[str]]:
    return [["B-A" if one else "O", "B-B", "O"] for one in answers.tolist()]


def words(answers: npt.NDArray[np.int64]) -> list[str]:
    return ["the large house" if one == 2 else "house" for one in answers.tolist()]


TAGGED = [{"label": each} for each in tags(WANTED)]
ASKED = [{"answers": ["large house"]} for _ in WANTED]
CASES: list[tuple[RowScorer, Callable[[npt.NDArray[np.int64]], list], list, str]] = [
    (ClassScorer("accuracy", LABELS, None), list, CLASSES, "bounded mean"),
    (ClassScorer("f1", LABELS, None), list, CLASSES, "bootstrap"),
    (ClassScorer("f1", LABELS, 1), list, CLASSES, "bootstrap"),
    (ClassScorer("matthews", LABELS, None), list, CLASSES, "bootstrap"),
    (ImageClassScorer("accuracy", LABELS, None), told, CLASSES, "bounded mean"),
    (ImageClassScorer("balanced_accuracy", LABELS, None), told, CLASSES, "bootstrap"),
    (NumberScorer(), numbers, CLASSES, "bootstrap"),
    (TagScorer(("O", "B-A", "B-B")), tags, TAGGED, "bootstrap"),
    (QuestionScorer(), words, ASKED, "bounded mean"),
]


@pytest.mark.parametrize(("scorer", "answers", "rows", "method"), CASES)
def test_each_metric_drops_by_the_difference_of_its_values(
    scorer: RowScorer, answers: Callable, rows: list, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired, "FEWEST_DRAWS", 800)
    before, after = (answers(side) for side in (BEFORE, AFTER))
    found = scorer.drop(*(scorer.by_row(side, rows) for side in (before, after)), confidence=0.95, seed=3)
    values = [scorer.values(side, rows)[scorer.metric] for side in (before, after)]
    assert found.drop == pytest.approx(values[0] - values[1])
    assert found.lower < found.drop < found.upper
    assert (found.method, found.rows, found.seed, found.unit) == (method, 400, 3, "score")
    assert 0.8 < (found.upper - found.lower) / (3.3 * found.spread / 20) < 1.6
    again = scorer.drop(*(scorer.by_row(side, rows) for side in (before, after)), confidence=0.95, seed=3)
    assert again == found


def test_a_model_that_answers_as_the_original_is_not_surely_as_good_by_any_metric_of_labels_or_entities() -> None:
    for scorer, answers, rows, _ in CASES:
        if not isinstance(scorer, NumberScorer):  # a single row bounds no correlation: there only differences count
            same = scorer.by_row(answers(BEFORE), rows)
            found = scorer.drop(same, same, 0.95, 0)
            assert found.lower < 0 == found.drop < found.upper < 0.05


@pytest.mark.parametrize("scorer", [TagScorer(("O", "B-A")), NumberScorer()])
def test_bounds_of_metrics_that_are_no_means_keep_their_confidence(scorer: RowScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "FEWEST_DRAWS", 100)
    draw = np.random.default_rng(4)

    def made(rows: int) -> tuple[Numbers, Numbers]:
        wanted, shared = draw.integers(0, 5, rows), draw.standard_normal(rows)
        if isinstance(scorer, NumberScorer):
            sides = [wanted + scale * (0.8 * shared + 0.6 * draw.standard_normal(rows)) for scale in (1.0, 1.4)]
            return tuple(np.stack([side, wanted], axis=1) for side in sides)
        sides = [draw.binomial(wanted, share) for share in (0.9, 0.85)]
        return tuple(np.stack([side, side + (shared > 1), wanted], axis=1).astype(np.float64) for side in sides)

    exact = float(np.mean([scorer.drop(*made(1000), confidence=0.5, seed=0).drop for _ in range(20)]))
    found = [scorer.drop(*made(60), confidence=0.95, seed=0) for _ in range(200)]
    assert np.mean([one.lower <= exact for one in found]) >= 0.90  # of 200 draws: 0.95 less three standard errors
    assert np.mean([one.upper >= exact for one in found]) >= 0.90


def test_weighted_correlations_are_the_plain_ones_of_repeated_rows() -> None:
    times = draw.integers(1, 4, 30)
    one, other = draw.integers(0, 9, 30).astype(np.float64), draw.standard_normal(30)
    weights = times[None, :].astype(np.float64)
    assert metrics.weighted_pearson(one, other, weights)[0] == pytest.approx(
        metrics.pearson(np.repeat(one, times), np.repeat(other, times))
    )
    ranks = [metrics.weighted_ranks(side, weights) for side in (one, other)]
    assert metrics.weighted_pearson(*ranks, weights)[0] == pytest.approx(
        metrics.spearman(np.repeat(one, times), np.repeat(other, times))
    )


def test_only_the_same_rows_make_pairs() -> None:
    scorer = LanguageScorer(64, 32)
    before = np.array([[10.0, 5], [30, 12], [20, 9]] * 6)
    found = scorer.drop(before, before + np.array([[1, 0], [2, 0], [0, 0]] * 6), 0.95, 0)
    assert (found.drop, found.unit, found.method, found.seed) == (pytest.approx(3 / 26), "nats a token", "student", None)
    with pytest.raises(UnpairedRows, match="other tokens"):
        scorer.drop(before, before + np.array([[0, 1], [0, 0], [0, 0]] * 6), 0.95, 0)
    with pytest.raises(UnpairedRows):
        scorer.drop(before[:1], before[:1], 0.95, 0)
    labelled = ClassScorer("accuracy", 2, None)
    with pytest.raises(UnpairedRows):
        labelled.drop(np.array([[0.0, 0], [0, 1]]), np.array([[0.0, 0], [0, 0]]), 0.95, 0)
    with pytest.raises(UnpairedRows):
        RowScorer.drop(labelled, before, before, 0.95, 0)


@pytest.mark.parametrize(
    ("scorer", "enough", "few"),
    [
        (NumberScorer(), np.arange(50), "49 rows are too few to bound a correlation, which takes 50"),
        (ClassScorer("f1", 3, None), np.repeat([0, 1, 2], [20, 20, 10]), "a label is on 9 rows, and bounds of f1 take 10"),
        (ImageClassScorer("balanced_accuracy", 3, None), np.repeat([2, 0], [30, 10]), "a label is on 9 rows"),
    ],
)
def test_too_few_rows_are_not_bounded(scorer: RowScorer, enough: npt.NDArray[np.int64], few: str) -> None:
    sides = np.stack([enough] * (3 if isinstance(scorer, ImageClassScorer) else 2), axis=1).astype(np.float64)
    assert scorer.drop(sides, sides, 0.95, 0).drop == 0
    with pytest.raises(UnpairedRows, match=few):
        scorer.drop(sides[:-1], sides[:-1], 0.95, 0)


def test_two_labels_and_means_over_rows_take_any_number_of_rows() -> None:
    sides = np.array([[0.0, 0], [0, 0], [1, 1]])
    assert ClassScorer("f1", 2, 1).drop(sides, sides, 0.95, 0).upper > 0.1
    assert ClassScorer("accuracy", 3, None).drop(sides, sides, 0.95, 0).upper > 0.1

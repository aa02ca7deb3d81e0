"""Paired intervals: of retention, of differences, and of means over datasets."""

import numpy as np
import pytest

from compression.modalities.scoring.classification import ClassScorer
from compression.modalities.scoring.regression import NumberScorer
from compression.modalities.text.scoring import perplexity
from compression.modalities.text.scoring.question_answering import QuestionScorer
from compression.modalities.text.scoring.token_classification import TagScorer
from compression.schema.report.draws import Draws, SplitDraws, difference_interval, mean_split_draws, retention_interval

ROWS = 400
WANTED = [row % 2 for row in range(ROWS)]
BEFORE = [label if row % 5 else 1 - label for row, label in enumerate(WANTED)]  # 80 % right
AFTER = [label if row % 5 and row % 40 != 1 else 1 - label for row, label in enumerate(WANTED)]  # and ten more wrong


def drawn(answers: list[int], seed: int = 0) -> Draws:
    figures = ClassScorer("accuracy", 2, None).figures(answers, [{"label": label} for label in WANTED], seed)
    return Draws(rows=len(answers), seed=seed, values=tuple(figures.draws.tolist()))


def test_retention_has_a_paired_interval_far_within_that_of_two_scores() -> None:
    before, after = drawn(BEFORE), drawn(AFTER)
    found = retention_interval(before, after)
    right = [np.array(answers) == np.array(WANTED) for answers in (BEFORE, AFTER)]
    share = right[1].sum() / right[0].sum()
    assert found[0] < share < found[1]
    # By the formula for a ratio of paired means: what both get wrong does not count.
    error = np.std(right[1] - share * right[0], ddof=1) / np.sqrt(ROWS) / right[0].mean()
    assert (found[1] - found[0]) / 2 == pytest.approx(1.96 * error, rel=0.15)
    apart = np.hypot(*(np.std(one, ddof=1) / one.mean() / np.sqrt(ROWS) for one in right))
    assert found[1] - found[0] < 0.6 * 2 * 1.96 * apart
    assert retention_interval(before, after) == found


def test_equal_answers_keep_all_but_for_a_row_that_was_not_seen() -> None:
    low, high = retention_interval(drawn(BEFORE), drawn(BEFORE))
    unseen = 1 - 0.025 ** (1 / ROWS)  # Clopper and Pearson's bound of a share, of which no row is
    assert low == pytest.approx(0.8 * (1 - unseen) / (0.8 * (1 - unseen) + unseen), rel=1e-3)
    assert low * high == pytest.approx(1)
    assert difference_interval(drawn(BEFORE), drawn(BEFORE)) == pytest.approx((-unseen, unseen))
    certain = [Draws(rows=rows, seed=0, values=(1.0,) * 1000) for rows in (8, 400)]  # all right, of few rows and of many
    few, many = (retention_interval(one, one) for one in certain)
    assert few[0] == pytest.approx(0.63, abs=0.01)
    assert many[0] == pytest.approx(0.99, abs=0.001)


def test_only_the_same_rows_make_pairs() -> None:
    before = drawn(BEFORE)
    assert retention_interval(before, drawn(AFTER, seed=1)) is None
    assert retention_interval(before, before.model_copy(update={"rows": ROWS - 1})) is None
    assert retention_interval(None, before) is None
    assert retention_interval(before, None) is None
    one = Draws(rows=1, seed=0, values=(0.5, 0.5))
    assert retention_interval(one, one) is None  # resamples of one row say nothing
    at_zero = Draws(rows=2, seed=0, values=(0.0, 0.5))
    assert retention_interval(at_zero, at_zero) is None  # a share of nothing


def test_of_a_perplexity_less_is_better() -> None:
    before, after = (
        Draws(rows=9, seed=0, values=tuple(scale * (10 + n / 100) + scale * n % 3 * 1e-9 for n in range(100)))
        for scale in (1.0, 2.0)
    )
    assert retention_interval(before, after, lower_is_better=True) == pytest.approx((0.5, 0.5))
    assert difference_interval(before, after, lower_is_better=True) == pytest.approx((np.log(2), np.log(2)))  # nats
    assert difference_interval(after, before, lower_is_better=True) == pytest.approx((-np.log(2), -np.log(2)))
    # Equal losses say nothing of a text that was not seen, and a loss has no bound.
    assert retention_interval(before, before, lower_is_better=True) is None
    assert difference_interval(before, before, lower_is_better=True) is None


def test_the_mean_over_datasets_is_surer_than_each_and_lacks_what_one_lacks() -> None:
    pairs = [(drawn(BEFORE, seed), drawn(AFTER, seed)) for seed in (0, 1)]
    before, after = (mean_split_draws([SplitDraws(test=pair[side]) for pair in pairs]) for side in (0, 1))
    whole, each = retention_interval(before.test, after.test), retention_interval(*pairs[0])
    assert (whole[1] - whole[0]) / (each[1] - each[0]) == pytest.approx(0.5**0.5, rel=0.15)  # as of independent draws
    assert before.validation is None
    assert mean_split_draws([SplitDraws(test=pairs[0][0]), SplitDraws()]).test is None
    assert mean_split_draws([]) == SplitDraws()


def test_every_task_draws_its_headline_from_the_same_resamples() -> None:
    rows = [{"label": float(row)} for row in range(ROWS)]
    numbers = NumberScorer().figures([row + (7.0 if row % 3 else -5.0) for row in range(ROWS)], rows)
    tags = TagScorer(("O", "B-X")).figures([["B-X"] if row % 4 else ["O"] for row in range(ROWS)], [{"label": ["B-X"]}] * ROWS)
    asked = [{"question": "", "context": "", "answers": ["blue"]}] * ROWS
    answers = QuestionScorer().figures(["blue" if row % 5 else "red" for row in range(ROWS)], asked)
    for figures, metric in ((numbers, "pearson_spearman"), (tags, "entity_f1"), (answers, "f1")):
        assert figures.draws.shape == (1000,)
        assert figures.draws.mean() == pytest.approx(figures.values[metric], abs=0.01)
        assert figures.draws.std(ddof=1) == pytest.approx(figures.standard_errors[metric], rel=0.15)
    accuracy = drawn([label if row % 5 else 1 - label for row, label in enumerate(WANTED)])
    assert accuracy.values == pytest.approx(answers.draws.tolist())  # the same rows are right, in the same resamples


def test_a_language_models_texts_are_drawn_whole() -> None:
    draw = np.random.default_rng(3)
    tokens = draw.integers(5, 50, ROWS)
    told = perplexity.WindowLosses(tokens, tokens, tokens * (2 + draw.normal(0, 0.3, ROWS)), tokens)
    found, figures = perplexity.draws(told), perplexity.figures(told)
    assert found.mean() == pytest.approx(figures.perplexity.value, rel=0.01)
    assert found.std(ddof=1) == pytest.approx(figures.perplexity.standard_error, rel=0.1)

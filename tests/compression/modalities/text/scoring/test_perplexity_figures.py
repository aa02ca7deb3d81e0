"""Figures of language models: ratios whose errors come from how texts differ."""

import math
from typing import Any

import numpy as np
import pytest

from compression.modalities.scoring import standard_errors
from compression.modalities.text.scoring.perplexity import WindowLosses, added_loss, figures


def told(texts: int, seed: int = 0) -> WindowLosses:
    draw = np.random.default_rng(seed)
    tokens = draw.integers(20, 200, texts)
    per_token = draw.normal(3.0, 0.4, texts)  # a text's own difficulty, shared by all of its tokens
    return WindowLosses(tokens, tokens * 4 + draw.integers(0, 9, texts), per_token * tokens, draw.binomial(tokens, 0.4))


def test_figures_are_ratios_of_sums() -> None:
    found = figures(WindowLosses(np.array([10, 30]), np.array([40, 110]), np.array([20.0, 90.0]), np.array([4, 10])))
    assert found.loss.value == pytest.approx(110 / 40)
    assert found.perplexity.value == pytest.approx(math.exp(110 / 40))
    assert found.bits_per_byte.value == pytest.approx(110 / math.log(2) / 150)
    assert found.accuracy.value == pytest.approx(14 / 40)
    assert (found.texts, found.tokens, found.bytes) == (2, 40, 150)
    assert found.perplexity.standard_error == pytest.approx(found.perplexity.value * (found.loss.standard_error or 0))


def test_errors_are_those_of_the_bootstrap_over_texts_and_larger_than_of_independent_tokens() -> None:
    one = told(300)
    found = figures(one)

    def statistics(some: Any) -> dict[str, float]:
        loss = one.loss[some].sum()
        return {"loss": loss / one.tokens[some].sum(), "bits": loss / math.log(2) / one.bytes[some].sum()}

    resampled = standard_errors.deviations(standard_errors.resampled(statistics, 300), 300)
    assert found.loss.standard_error == pytest.approx(resampled["loss"], rel=0.1)
    independent = 0.4 / math.sqrt(found.tokens)
    assert (found.loss.standard_error or 0) > 5 * independent
    assert found.bits_per_byte.standard_error == pytest.approx(resampled["bits"], rel=0.1)


def test_of_clusters_of_one_size_the_error_is_that_of_their_mean_and_of_one_text_none_is_known() -> None:
    values = np.random.default_rng(1).normal(size=50)
    assert standard_errors.of_ratio(values * 7, np.full(50, 7)) == pytest.approx(standard_errors.of_mean(values))
    alone = figures(told(1))
    assert alone.loss.standard_error is alone.perplexity.standard_error is None


def test_a_small_loss_on_the_same_tokens_is_seen_though_texts_differ_widely() -> None:
    before = told(60)
    after = WindowLosses(before.tokens, before.bytes, before.loss + 0.005 * before.tokens, before.right)
    found = added_loss(before, after)
    assert found.value == pytest.approx(0.005)
    assert (found.standard_error or 0) < 1e-6 < (figures(before).loss.standard_error or 0)
    with pytest.raises(ValueError, match="same tokens"):
        added_loss(before, told(60, seed=2))


def test_a_perplexity_past_floating_point_is_a_number_all_the_same() -> None:
    lost = WindowLosses(np.array([1, 1]), np.array([1, 1]), np.array([900.0, 800.0]), np.array([0, 0]))
    assert figures(lost).perplexity.value == pytest.approx(1e300)
    assert figures(lost).loss.value == 850

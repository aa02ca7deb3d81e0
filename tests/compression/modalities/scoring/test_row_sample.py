"""Which rows are scored where not all are: at random, each label in its share, and the same for whoever asks alike."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from compression.modalities.scoring import row_sample
from compression.modalities.scoring.row_sample import FEWEST_ROWS, PIECE, WHOLE, ScoringLimit, sampling_order

LABELS = [*["rare"] * 7, *["common"] * 60, *["usual"] * 133]


def test_each_beginning_of_the_order_is_a_stratified_sample() -> None:
    order = sampling_order(LABELS, 5)
    assert sorted(order) == list(range(200))
    for size in range(1, 201):
        found = Counter(LABELS[row] for row in order[:size])
        assert all(abs(found[label] - size * count / 200) < 2 for label, count in Counter(LABELS).items()), size


def test_the_order_is_random_and_depends_on_nothing_but_labels_and_seed() -> None:
    order = sampling_order(LABELS, 5)
    assert order == sampling_order(list(LABELS), 5) != sampling_order(LABELS, 6)
    plain = sampling_order([None] * 200, 5)
    assert plain != list(range(200))
    # Over many seeds each row is in the first half as often as any other, alone and with its neighbour.
    halves = np.zeros((400, 200), bool)
    for seed in range(400):
        halves[seed, sampling_order(LABELS, seed)[:100]] = True
    assert halves.mean(axis=0) == pytest.approx(np.full(200, 0.5), abs=0.12)
    both = (halves[:, 67:-1] & halves[:, 68:]).mean()
    assert both == pytest.approx(0.25, abs=0.01)


def test_a_limit_ends_an_order_but_never_before_the_fewest() -> None:
    order = list(range(250))
    assert list(WHOLE.taken(order)) == order
    assert list(ScoringLimit(rows=7).taken(order)) == order[:7]
    late = ScoringLimit(seconds=0.0)
    assert list(late.taken(order)) == order[:FEWEST_ROWS]
    assert list(late.taken(order, fewest=3)) == order[:3]
    assert list(ScoringLimit(rows=2, seconds=0.0).taken(order, fewest=3)) == order[:2]
    assert list(ScoringLimit(seconds=3600).taken(order)) == order


def test_pieces_ascend_and_are_a_beginning_of_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order, late = sampling_order(LABELS, 5), ScoringLimit(seconds=0.0)
    first, rest = order[:FEWEST_ROWS], order[FEWEST_ROWS:]
    assert list(WHOLE.taken_in_pieces(order)) == [*sorted(first), *sorted(rest)]
    assert list(late.taken_in_pieces(order)) == sorted(first)
    assert list(ScoringLimit(rows=7, seconds=0.0).taken_in_pieces(order)) == sorted(order[:7])
    clock = [0.0]
    monkeypatch.setattr(row_sample.time, "monotonic", lambda: clock[0])
    taken = list[int]()
    for row in ScoringLimit(seconds=300.0).taken_in_pieces(order, share=0.5):
        taken.append(row)
        clock[0] += 1.0
    assert 150 <= len(taken) < 150 + 150 * PIECE, "a row takes a second, of which there are half of 300"
    assert sorted(taken) == sorted(order[: len(taken)])
    assert sum(one > other for one, other in pairwise(taken)) <= 1 / PIECE

"""When an original counts as converged."""

import pytest

from compression.planning.convergence import convergence

RISING = [0.2, 0.5, 0.7, 0.8, 0.85, 0.9]
FLAT = [0.5, 0.8, 0.9, 0.905, 0.902, 0.904]


@pytest.mark.parametrize(
    ("curve", "best", "out_of_patience", "is_open", "converged", "why"),
    [
        ([0.8, 0.9, 0.89, 0.88, 0.9], 2, True, True, True, "epoch 2 of 5 is the best"),
        ([0.8, 0.9, 0.89], 2, True, True, False, "One epoch without a gain (epoch 2 of 3 is the best) is too few"),
        (RISING, 6, False, True, False, "still gaining"),  # the bound, or the job's budget
        ([0.8, 0.7, 0.7, 0.7], 0, True, True, True, "epoch 0 of 4"),  # nothing was better than what was sent
        (RISING, 6, False, False, False, "at least one standard error (0.0100)"),
        (FLAT, 4, False, False, True, "gained 0.0050, less than one standard error"),
        ([0.9, 0.5, 0.5, 0.5], 1, False, False, True, "gained 0.0000"),  # it fell: that is no gain
        ([0.9, 0.9, 0.9], 1, False, False, False, "3 epochs are too few"),
        ([0.9, 0.89, 0.88, 0.87], 1, True, False, True, "patience was used up"),
    ],
)
def test_converged_is_what_had_stopped_gaining(
    curve: list[float], best: int, out_of_patience: bool, is_open: bool, converged: bool, why: str
) -> None:
    found, reason = convergence(0.1, curve, best, out_of_patience=out_of_patience, is_open=is_open, error=0.01)
    assert found is converged
    assert why in reason


def test_a_model_that_was_as_good_before_has_not_gained() -> None:
    assert convergence(0.9, [0.5, 0.7, 0.8, 0.9], 4, out_of_patience=False, is_open=False, error=0.01)[0]
    assert not convergence(0.1, [0.5, 0.7, 0.8, 0.9], 4, out_of_patience=False, is_open=False, error=0.01)[0]


@pytest.mark.parametrize(("floor", "converged"), [(None, True), (0.9, True), (0.905, True), (0.92, False)])
def test_what_a_linear_model_beats_has_not_converged(floor: float | None, converged: bool) -> None:
    curve = [0.8, 0.9, 0.89, 0.88, 0.9]
    found, reason = convergence(0.1, curve, 2, out_of_patience=True, is_open=True, error=0.01, floor=floor)
    assert found is converged
    assert ("linear model" in reason) is not converged


@pytest.mark.parametrize(("chance", "converged"), [(None, True), (0.88, True), (0.89, False), (0.95, False)])
def test_what_is_no_better_than_the_most_frequent_label_has_learned_nothing(chance: float | None, converged: bool) -> None:
    curve = [0.8, 0.9, 0.89, 0.88, 0.9]
    found, reason = convergence(0.1, curve, 2, out_of_patience=True, is_open=True, error=0.01, chance=chance)
    assert found is converged
    assert ("nothing was learned" in reason) is not converged
    given, _ = convergence(0.1, [0.9, 0.9, 0.9, 0.9], 1, out_of_patience=False, is_open=False, error=0.01, chance=chance)
    assert given is converged

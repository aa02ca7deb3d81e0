"""Weights of a loss's terms: they stay, go from one value to another, or are learned."""

import math

import pytest
import torch

from compression.distillation.loss_weights import VARIANCE_RATE, loss_weights
from compression.schema.recipe.distill import Distill, Weights

CPU = torch.device("cpu")


def test_fixed_weights_stay_and_linear_ones_arrive() -> None:
    fixed = loss_weights(Distill(soft=2.0, hard=0.0, hidden=0.5), CPU)
    linear = loss_weights(Distill(soft=2.0, hard=0.0, hidden=0.5, weighting="linear", to=Weights(hard=1.0, hidden=0.0)), CPU)
    seen = []
    for share in (0.0, 0.25, 1.0):
        fixed.at(share)
        linear.at(share)
        assert fixed.weights() == {"soft": 2.0, "hidden": 0.5}
        seen.append(linear.weights())
    assert seen == [
        {"soft": 2.0, "hard": 0.0, "hidden": 0.5},
        {"soft": 2.0, "hard": 0.25, "hidden": 0.375},
        {"soft": 2.0, "hard": 1.0, "hidden": 0.0},
    ]
    terms = {"soft": torch.tensor(3.0), "hard": torch.tensor(5.0), "hidden": torch.tensor(7.0)}
    assert linear.total(terms).item() == pytest.approx(2 * 3 + 5)


def test_uncertainty_divides_each_term_by_a_variance_that_it_learns() -> None:
    settings = Distill(rate=2e-4, soft=1.0, hard=0.0, hidden=2.0, weighting="uncertainty")
    found = loss_weights(settings, CPU)
    terms = {"soft": torch.tensor(4.0), "hidden": torch.tensor(0.01)}
    assert found.total(terms).item() == pytest.approx(4.0 + 2 * 0.01)
    (raw,) = found.parameters
    optimizer = torch.optim.AdamW([raw], lr=settings.rate, weight_decay=0.0)
    for _ in range(50):
        optimizer.zero_grad()
        found.total(terms).backward()
        # What the norm of all gradients sees of it is small, whatever the terms are: the model's is not drowned.
        assert raw.grad.norm() < 0.1
        optimizer.step()
    weights = found.weights()
    # s moved by about VARIANCE_RATE a step, up where w L > 1/2 and down where it is below.
    assert weights["soft"] == pytest.approx(math.exp(-50 * VARIANCE_RATE), rel=0.05)
    assert weights["hidden"] == pytest.approx(2 * math.exp(50 * VARIANCE_RATE), rel=0.05)
    s = {"soft": -math.log(weights["soft"]), "hidden": -math.log(weights["hidden"] / 2)}
    expected = weights["soft"] * 4.0 + weights["hidden"] * 0.01 + sum(s.values()) / 2
    assert found.total(terms).item() == pytest.approx(expected, rel=1e-4)

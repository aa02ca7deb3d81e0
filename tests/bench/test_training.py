"""The plain loop that ours is timed against does the same mathematics: both lose alike, step by step."""

from pathlib import Path

from bench.training import Lab, compare
from compression.schema.recipe.distill import Distill
from compression.schema.recipe.prune import Prune
from compression.schema.recipe.recipe import Prepare, Recipe, Train
from tests.compression.conftest import encoder, reviews

__all__ = ["encoder", "reviews"]  # fixtures


def test_both_loops_lose_alike(encoder: Path, reviews: Path) -> None:
    recipe = Recipe(
        prepare=Prepare(epochs=0),
        prune=Prune(ratio=0.5, multiple=8, calibration_rows=64),
        distill=Distill(rate=3e-3),
        train=Train(batch=16, max_length=32),
    )
    lab = Lab.build(encoder, reviews, 128, recipe)
    seconds, found = compare(lab, rounds=1)
    assert set(seconds) == {f"{answers}: {loop}" for answers in ("cached", "asked") for loop in ("ours", "integers", "floats")}
    for each in found:
        assert each.first_loss_apart < 1e-3, each
        # Eight steps on: integers as ours to the last rounding but one, floats with gradients of another rounding.
        assert each.last_loss_apart < 2e-2, each
    assert min(seconds.values()) > 0
